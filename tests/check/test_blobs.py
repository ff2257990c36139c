"""Blobs that are gone, cut short, nobody's or everybody's."""

from __future__ import annotations

import os

import pytest

from afmfs.errors import Damaged
from afmfs.model.findings import Severity
from tests.check.scene import BLOCK, CLEAN, INSIDE, NEW, OLD, WRITTEN, Scene


def test_a_sound_cache(scene: Scene) -> None:
    assert scene.found() == []
    assert scene.mend().status == 0
    scene.assert_serves()


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_clean_bytes_are_fetched_again(scene: Scene, harm: str) -> None:
    blob = scene.blob(b"clean")
    blob.unlink() if harm == "missing" else os.truncate(blob, BLOCK + 10)
    (one,) = scene.found()
    assert (one.kind, one.path, one.severity) == (f"{harm} blob", b"clean", Severity.ERROR)
    assert one.detail["lost"] == ()
    assert scene.mend().status == 1
    scene.assert_serves()


def test_what_is_kept_of_a_short_blob(scene: Scene) -> None:
    """The bytes that are still there are not fetched again."""
    os.truncate(scene.blob(b"clean"), BLOCK + 10)
    scene.mend()
    (scene.home / "clean").unlink()
    scene.engine.start()
    files = scene.files
    handle = files.open(b"clean", os.O_RDONLY)
    assert files.read(handle, 0, BLOCK + 10) == CLEAN[: BLOCK + 10]
    with pytest.raises(OSError, match="Input/output"):
        files.read(handle, BLOCK, 100)
    files.close(handle)


def test_lost_bytes_are_told_of_and_never_read_as_zeros(scene: Scene) -> None:
    scene.blob(b"dirty").unlink()
    (one,) = scene.found()
    assert (one.kind, one.path, one.severity) == ("missing blob", b"dirty", Severity.LOST)
    assert one.detail["lost"] == ((0, len(NEW)),)
    assert scene.mend().lost == 1
    scene.assert_serves(dirty=Damaged)


def test_zeros_do_not_go_over_what_home_has(scene: Scene) -> None:
    """Home's file is the last of it, and stays as it is; all else is sent, once somebody has
    looked."""
    scene.blob(b"dirty").unlink()
    scene.mend()
    scene.engine.start()
    status = scene.engine.fileset.status()
    assert status.state == "Stopped"
    (event,) = [e for e in scene.engine.fileset.events() if e["name"] == "afmDamaged"]
    assert event["path"] == "dirty" and event["lost"] == [[0, len(NEW)]]
    scene.engine.stop()
    assert not (scene.home / "made/new").exists()
    scene.flushed(start=True)
    assert (scene.home / "dirty").read_bytes() == OLD
    assert (scene.home / "made/new").read_bytes() == INSIDE
    assert (scene.home / "part").read_bytes() == WRITTEN
    assert not scene.found()
    scene.assert_serves(dirty=Damaged)


def test_a_new_file_that_is_lost(scene: Scene) -> None:
    """Home gets its name, and no zeros."""
    scene.blob(b"made/new").unlink()
    scene.mend()
    scene.flushed(start=True)
    assert (scene.home / "made/new").read_bytes() == b""
    assert not scene.found()
    scene.assert_serves(made__new=Damaged)


def test_a_lost_append(scene: Scene) -> None:
    """Home keeps what it had, and grows by nothing."""
    scene.engine.start()
    files = scene.files
    handle = files.open(b"clean", os.O_WRONLY)
    files.write(handle, len(CLEAN), b"more")
    files.close(handle)
    scene.engine.stop()
    os.truncate(scene.blob(b"clean"), len(CLEAN))
    scene.mend()
    scene.flushed(start=True)
    assert (scene.home / "clean").read_bytes() == CLEAN
    scene.assert_serves(clean=Damaged)


def test_the_rest_of_a_harmed_file_is_kept(scene: Scene) -> None:
    """Its end is lost: what is pending before it is still sent."""
    os.truncate(scene.blob(b"dirty"), 2 * BLOCK + 9)
    (one,) = scene.found()
    assert one.detail["lost"] == ((2 * BLOCK + 9, len(NEW)),)
    scene.mend()
    scene.flushed(start=True)
    assert (scene.home / "dirty").read_bytes() == OLD  # no mixture of two versions
    scene.engine.start()
    files = scene.files
    handle = files.open(b"dirty", os.O_RDWR)
    assert files.read(handle, 0, 2 * BLOCK + 9) == NEW[: 2 * BLOCK + 9]
    with pytest.raises(Damaged, match="are lost"):
        files.read(handle, 2 * BLOCK, 100)
    files.write(handle, 2 * BLOCK + 9, NEW[2 * BLOCK + 9 :])
    assert files.read(handle, 0, 1 << 20) == NEW
    files.close(handle)


def test_a_patch_in_a_partial_file(scene: Scene) -> None:
    """Five bytes are lost, all else of the file is at home."""
    scene.blob(b"part").unlink()
    (one,) = scene.found()
    assert [b - a for a, b in one.detail["lost"]] == [5]
    scene.mend()
    scene.assert_serves(part=Damaged)


def test_an_orphan_is_set_aside(scene: Scene) -> None:
    orphan = scene.cache / "blobs/00/3"
    taken = {path.name for path in (scene.cache / "blobs").glob("*/*")}
    orphan = next(p for n in range(1, 999) if (p := orphan.with_name(f"{n:x}")).name not in taken)
    orphan.write_bytes(b"whose?")
    (scene.cache / "blobs/07").mkdir()
    (scene.cache / "blobs/07/no blob").write_bytes(b"x")
    with scene.tables() as db:
        db.execute("INSERT OR REPLACE INTO fileset VALUES ('leftover', '[[5000, 6000]]')")
    assert {one.kind for one in scene.found()} == {"orphan blob"}
    assert scene.mend().status == 1
    kept = {p.name: p.read_bytes() for p in (scene.cache / "lost+found").iterdir()}
    assert kept == {f"blob-00-{orphan.name}": b"whose?", "blob-07-no blob": b"x"}
    scene.assert_serves()


def test_what_a_crash_may_have_left_is_no_orphan(scene: Scene) -> None:
    """The mount clears it away."""
    (scene.cache / "blobs/00/3e7").write_bytes(b"x")
    scene.sql("INSERT OR REPLACE INTO fileset VALUES ('leftover', '[[990, 1000]]')")
    assert scene.found() == []


@pytest.mark.parametrize("left", [0, BLOCK])
def test_a_new_file_of_which_blob_and_entries_are_gone(scene: Scene, left: int) -> None:
    """A job makes up for the entries. It has no zeros for what is gone: a file of which nothing is
    left is not made at home, and another gets what is left of it."""
    scene.engine.start()
    scene.write(b"made/large", NEW)
    scene.engine.stop()
    ino, blob = scene.ino(b"made/large"), scene.blob(b"made/large")
    blob.unlink() if not left else os.truncate(blob, left)
    scene.sql(f"DELETE FROM queue WHERE ino={ino}")
    (lost,) = [one for one in scene.found() if one.severity == "lost"]
    assert (lost.path, lost.detail["lost"]) == (b"made/large", ((left, len(NEW)),))
    scene.mend()
    scene.flushed(start=True)
    there = scene.home / "made/large"
    assert there.read_bytes() == NEW[:left] if left else not there.exists()
    assert (scene.home / "made/new").read_bytes() == INSIDE
    assert not scene.found(), "what is lost is known"
    scene.engine.start()
    with pytest.raises(Damaged):
        scene.read(b"made/large")
    events = scene.engine.call(scene.events)
    assert "made/large" in {e["path"] for e in events if e["name"] == "afmDamaged"}
    scene.engine.stop()


def test_two_files_with_one_blob(scene: Scene) -> None:
    """Neither is believed; what is pending of the one is lost."""
    gen = scene.get(scene.ino(b"clean"), "gen")
    scene.sql(f"UPDATE inode SET gen={gen} WHERE ino={scene.ino(b'made/new')}")
    kinds = {one.kind for one in scene.found()}
    assert "shared blob" in kinds
    scene.mend()
    scene.assert_serves(made__new=Damaged)


def test_a_blob_in_use_is_not_destroyed(scene: Scene) -> None:
    ino = scene.ino(b"dirty")
    scene.sql(f"INSERT INTO reclaim SELECT ino, gen, 0 FROM inode WHERE ino={ino}")
    (one,) = scene.found()
    assert (one.kind, one.path) == ("reclaim", b"dirty")
    scene.mend()
    scene.assert_serves()


def test_reclaim_that_leads_nowhere(scene: Scene) -> None:
    scene.sql("INSERT INTO reclaim VALUES (999, 77, 5)", "INSERT INTO reclaim VALUES (999, 'x', 0)")
    assert [one.kind for one in scene.found()] == ["reclaim", "reclaim"]
    scene.mend()
    scene.assert_serves()
