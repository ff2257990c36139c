"""Repairs while home need not have what is clean: a failover is due and the old home is gone for
good, or home was changed and needs a resync. What the cache has is the only copy then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afmfs.cache.content.blobs import blob_name
from afmfs.model.findings import Severity
from tests.check.scene import BLOCK, CLEAN, INSIDE, NEW, OLD, Scene
from tests.check.test_databases import harm_page, page_of
from tests.harness.mounting import wait_until


def fail_over(scene: Scene, *, copied: bool = False) -> Path:
    """Nothing is pending, and a failover is due. Its home, of which the cache knows what it has
    only once it has been looked at. `copied`: it has all that the old one had."""
    scene.flushed()
    new = scene.base / "new"
    if copied:
        shutil.copytree(scene.home, new, ignore=shutil.ignore_patterns(".afm"))
    else:
        new.mkdir()
    scene.engine.start()
    scene.write(b"late", b"late")
    os.rename(scene.home, scene.base / "gone for good")
    execute(scene, "stop")
    execute(scene, f"failover --new-target {new}")
    scene.engine.stop()
    scene.engine.home = scene.home = new
    return new


def execute(scene: Scene, words: str) -> str:
    async def ask() -> str:
        return await scene.engine.fileset.execute(words)

    return scene.engine.call(ask)


def settle(scene: Scene, words: str = "start") -> None:
    """What is due at home is done, and the cache is left to be read."""
    scene.engine.start()
    execute(scene, words)
    wait_until(lambda: status(scene).job is None, 60, "no job is left")


def status(scene: Scene) -> Any:
    async def ask() -> Any:
        return scene.engine.fileset.status()

    return scene.engine.call(ask)


def younger_blob(scene: Scene) -> None:
    path = scene.cache / "blobs" / blob_name(1 << 40)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")


def younger_blob_and_bytes(scene: Scene) -> None:
    """As after a plain copy of the cache, where all looks younger than what the tables know of."""
    younger_blob(scene)
    for path in (scene.cache / "blobs").glob("??/*"):
        os.utime(path)


def fetched_lately(scene: Scene) -> None:
    """Nobody knows what was, and the last stop may have lost it."""
    scene.sql(
        "UPDATE fileset SET value='another' WHERE key='boot_id'",
        "UPDATE fileset SET value=0 WHERE key='clean'",
        "INSERT INTO fresh VALUES (16, 'x', 1, 1)",
    )


def page(table: str) -> Callable[[Scene], None]:
    def harm(scene: Scene) -> None:
        harm_page(scene, page_of(scene, table), b"\xff")

    harm.__name__ = f"page of {table}"
    return harm


def lost_inodes(scene: Scene) -> None:
    """As a rebuilt database says that has lost some: rows that are left may be old ones."""
    scene.sql("""INSERT INTO fileset VALUES ('repair', '{"incomplete": ["inode"]}')""")


HARM = [younger_blob, younger_blob_and_bytes, fetched_lately, lost_inodes,
        *map(page, ("span", "blockmap", "fresh"))]  # fmt: skip


@pytest.mark.parametrize("harm", HARM, ids=lambda one: one.__name__)
def test_what_is_clean_is_sent_to_a_new_home(scene: Scene, harm: Callable[[Scene], None]) -> None:
    new = fail_over(scene)
    harm(scene)
    scene.mend()
    settle(scene)
    for path, data in {"clean": CLEAN, "dirty": NEW, "tree/a": INSIDE, "late": b"late"}.items():
        assert scene.read(os.fsencode(path)) == data, path
        assert (new / path).read_bytes() == data, path


def test_what_the_job_has_passed_is_sent_all_the_same(scene: Scene) -> None:
    """It begins anew: what is in a blob need not be what was sent."""
    fail_over(scene)
    before = job(scene)
    younger_blob(scene)
    scene.mend()
    after = job(scene)
    assert '"kind": "failover"' in after
    assert after != before


def job(scene: Scene) -> str:
    with scene.tables() as db:
        return str(db.execute("SELECT value FROM fileset WHERE key='job'").fetchone()[0])


def test_what_was_evicted_since_is_not_sent_as_zeros(scene: Scene) -> None:
    """An old row calls it cached, and there is a hole in the blob."""
    scene.flushed()
    scene.sql("INSERT OR REPLACE INTO fileset VALUES ('needs_resync', 'a contradiction')")
    size = scene.blob(b"clean").stat().st_size
    with scene.blob(b"clean").open("r+b") as file:
        file.truncate(BLOCK)
        file.truncate(size)
    younger_blob(scene)
    scene.mend()
    settle(scene, "resync --keep-uncached")
    assert scene.read(b"clean") == CLEAN
    assert (scene.home / "clean").read_bytes() == CLEAN


def test_what_a_changed_home_has_lost(scene: Scene) -> None:
    scene.flushed()
    (scene.home / "clean").unlink()
    scene.sql("INSERT OR REPLACE INTO fileset VALUES ('needs_resync', 'a contradiction')")
    younger_blob(scene)
    scene.mend()
    settle(scene, "resync")
    assert scene.read(b"clean") == CLEAN
    assert (scene.home / "clean").read_bytes() == CLEAN


@pytest.mark.parametrize("copied", [False, True], ids=["empty", "copied"])
@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_blob_of_a_clean_file(scene: Scene, harm: str, copied: bool) -> None:
    """What is gone may be nowhere else. The new home has it, or it is known to be lost: no nulls
    are made of it there, and what was left of the blob is kept."""
    new = fail_over(scene, copied=copied)
    blob = scene.blob(b"clean")
    blob.unlink() if harm == "missing" else os.truncate(blob, BLOCK + 10)
    (one,) = scene.found()
    assert one.severity is Severity.LOST
    assert "home need not have it" in one.text
    scene.mend()
    if harm == "short":
        assert [path.read_bytes() for path in kept(scene)] == [CLEAN[: BLOCK + 10]]
    settle(scene)
    if copied:
        assert scene.read(b"clean") == CLEAN
    else:
        with pytest.raises(OSError, match="Input/output"):
            scene.read(b"clean")
        assert not (new / "clean").exists()


def kept(scene: Scene) -> list[Path]:
    return [*(scene.cache / "lost+found").iterdir()]


def test_noise_in_the_map_of_a_clean_file(scene: Scene) -> None:
    new = fail_over(scene)
    before = scene.blob(b"part").read_bytes()
    scene.sql(f"UPDATE blockmap SET bits=zeroblob(1024) WHERE ino={scene.ino(b'part')}")
    (one,) = (one for one in scene.found() if one.kind == "damaged map")
    assert one.severity is Severity.LOST
    scene.mend()
    assert [path.read_bytes() for path in kept(scene)] == [before]
    settle(scene)
    assert not (new / "part").exists()


def test_a_clean_file_without_a_name(scene: Scene) -> None:
    """Home can't tell its name: it may have none."""
    scene.flushed()
    ino = scene.ino(b"clean")
    (scene.home / "clean").unlink()
    scene.sql(
        "INSERT OR REPLACE INTO fileset VALUES ('needs_resync', 'a contradiction')",
        f"DELETE FROM dentry WHERE ino={ino}",
    )
    scene.mend()
    settle(scene)
    execute(scene, "resync")
    wait_until(lambda: status(scene).job is None, 60, "no job is left")
    assert (scene.home / f"lost+found/#{ino}").read_bytes() == CLEAN


def test_a_job_that_can_t_be_read(scene: Scene) -> None:
    """A resync does what a failover would have done."""
    new = fail_over(scene)
    scene.sql("UPDATE fileset SET value='{' WHERE key='job'")
    scene.mend()
    settle(scene)
    execute(scene, "resync")
    wait_until(lambda: status(scene).job is None, 60, "no job is left")
    assert (new / "clean").read_bytes() == CLEAN
    assert (new / "dirty").read_bytes() == NEW != OLD
