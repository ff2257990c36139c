"""Damage that a mount meets: it says so, serves what is intact, and takes and sends nothing more,
until it is repaired."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from afmfs.cache.check.run import Mending
from afmfs.cache.content.harm import Note, read_note, write_note
from afmfs.cache.names.namespace import cookie
from afmfs.cache.report.status import Status
from afmfs.errors import Damaged, Refused
from tests.check.scene import CLEAN, OLD, Scene
from tests.harness.mounting import wait_until

NAMES = 300


def status(scene: Scene) -> Status:
    async def ask() -> Status:
        return scene.engine.fileset.status()

    return scene.engine.call(ask)


def events(scene: Scene) -> list[str]:
    async def ask() -> list[str]:
        return [str(event["name"]) for event in scene.engine.fileset.events()]

    return scene.engine.call(ask)


def assert_read_only(scene: Scene) -> None:
    """What is intact is read; every change is refused."""
    files = scene.files
    assert scene.read(b"clean") == CLEAN
    assert scene.read(b"made/moved") == b"m" * 30
    for change in (
        lambda: scene.write(b"another", b"x"),
        lambda: scene.write(b"tree/a", b"x"),
        lambda: files.mkdir(b"directory", 0o755),
        lambda: files.rename(b"clean", b"renamed", 0),
        lambda: files.unlink(b"clean"),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    assert scene.read(b"clean") == CLEAN


def assert_says_so(scene: Scene, text: str) -> None:
    one = status(scene)
    assert one.state == "Stopped"
    assert text in one.reason
    assert "check --repair" in one.reason
    wait_until(lambda: "afmDamaged" in events(scene), 10, "the event")


def test_a_missing_blob(scene: Scene) -> None:
    """Read, it is proof. It holds over mounts, and ends with a repair."""
    scene.blob(b"made/new").unlink()
    scene.engine.start()
    scene.write(b"before", b"x")
    with pytest.raises(Damaged):
        scene.read(b"made/new")
    assert_read_only(scene)
    assert_says_so(scene, "is missing")
    scene.engine.stop()
    scene.engine.start()
    assert status(scene).state == "Stopped"
    assert_read_only(scene)
    scene.engine.stop()
    assert {one.kind for one in scene.found()} == {"noted damage", "missing blob"}
    scene.mend()
    scene.engine.start()
    assert "a check found that something is lost" in status(scene).reason
    scene.write(b"after", b"x")
    scene.engine.stop()
    scene.flushed(start=True)
    assert (scene.home / "before").read_bytes() == (scene.home / "after").read_bytes() == b"x"
    assert not (scene.home / "made/new").exists() or not (scene.home / "made/new").stat().st_size


def test_a_blob_that_is_missing_as_it_is_sent(scene: Scene) -> None:
    """Met by the gateway: what home has of it stays, and nothing else is sent."""
    scene.blob(b"dirty").unlink()
    scene.engine.start()

    async def flush() -> None:
        scene.engine.fileset.flush_pending()

    try:
        scene.engine.call(flush)
        wait_until(lambda: status(scene).state == "Stopped", 30, "the damage is met")
        assert_says_so(scene, "is missing")
        assert (scene.home / "dirty").read_bytes() == OLD
        assert_read_only(scene)
    finally:
        scene.engine.stop()


def harm_name(scene: Scene, name: bytes) -> None:
    """Overwrite the page of cache.db that has a name of a directory."""
    path = scene.cache / "cache.db"
    data = bytearray(path.read_bytes())
    pages = [n for n in range(0, len(data), 1024) if data[n] == 10 and name in data[n : n + 1024]]
    assert len(pages) == 1
    data[pages[0] : pages[0] + 1024] = b"\xa5" * 1024
    path.write_bytes(data)


def test_a_page_of_the_database(scene: Scene) -> None:
    scene.engine.start()
    for n in range(NAMES):
        scene.write(b"tree/name%04d" % n, b"%d" % n)
    scene.engine.stop()
    names = sorted((b"name%04d" % n for n in range(NAMES)), key=cookie)
    gone = names[NAMES // 2]
    harm_name(scene, gone)
    scene.engine.start()
    with pytest.raises(sqlite3.DatabaseError):  # to applications EIO
        scene.read(b"tree/" + gone)
    before = (scene.cache / "cache.db-wal").read_bytes()
    assert_read_only(scene)
    assert_says_so(scene, "cache.db: database disk image is malformed")
    assert (scene.cache / "cache.db-wal").read_bytes() == before, "it was written to"
    last = scene.engine.call(scene.last_event)
    assert (last["name"], last["number"]) == ("afmDamaged", 0), "the event is of the note"
    scene.engine.stop()
    with pytest.raises(Refused, match="malformed; .*check --repair"):
        scene.engine.start()
    Mending(scene.cache, lambda finding, done: None).run()
    assert not scene.found()
    scene.assert_serves()
    scene.engine.start()
    assert "afmDamaged" in events(scene)
    found = scene.files.names(b"tree"), scene.files.names(b"lost+found")
    assert sum(map(len, found)) == NAMES + 3
    for n in range(NAMES):
        name = b"name%04d" % n
        assert name not in found[0] or scene.read(b"tree/" + name) == b"%d" % n
    assert {scene.read(b"lost+found/" + name) for name in found[1]} <= {
        b"%d" % n for n in range(NAMES)
    }
    scene.engine.stop()


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_lost_database_is_not_made_anew(scene: Scene, how: str) -> None:
    """Its blobs would be taken for the new one's."""
    path = scene.cache / "cache.db"
    path.unlink() if how == "missing" else os.truncate(path, 0)
    with pytest.raises(Refused, match="is lost, and its blobs are there; .*check --repair"):
        scene.engine.start()
    assert how == "empty" or not path.exists()


def test_a_repair_that_was_ended(scene: Scene) -> None:
    """Not mounted before it has come to its end."""
    write_note(scene.cache, Note("a repair of cache.db did not come to its end", True, 1))
    with pytest.raises(Refused, match=r"did not come to its end; .*check --repair"):
        scene.engine.start()
    scene.mend()
    assert read_note(scene.cache) is None
    scene.assert_serves()


def test_a_note_that_can_t_be_read_tells_of_the_worst(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"\xff{")
    note = read_note(tmp_path)
    assert note is not None
    assert note.database


@pytest.mark.parametrize("how", ["cut", "deleted", "harmed"])
@pytest.mark.parametrize("first", ["mount", "check"])
def test_a_log_that_was_cut_off_after_a_kill(scene: Scene, how: str, first: str) -> None:
    """Bytes of a clean file were overwritten, of which the rest of the log knows nothing: nothing
    else tells of it. What was written is kept aside, and what home has is shown."""
    scene.engine.start()
    handle = scene.files.open(b"clean", os.O_RDWR)
    scene.files.write(handle, 0, b"later")
    scene.files.close(handle)
    scene.kill()
    harm_log(scene.cache / "cache.db-wal", how)
    if first == "check":
        assert "noted damage" in {one.kind for one in scene.found()}
    with pytest.raises(Refused, match=r"cut off, or was deleted; .*check --repair"):
        scene.engine.start()
    found = Mending(scene.cache, lambda finding, done: None).run().found
    assert found["damaged log"] == 1
    assert not scene.found()
    assert b"later" in {path.read_bytes()[:5] for path in (scene.cache / "lost+found").iterdir()}
    scene.assert_serves()


def harm_log(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "deleted":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(os.urandom(2000))


def test_a_kill_cuts_off_no_log(scene: Scene) -> None:
    scene.engine.start()
    scene.write(b"made/later", b"later")
    scene.kill()
    assert scene.found() == []
    scene.assert_serves(made__later=b"later")
