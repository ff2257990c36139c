"""Databases that are damaged: what can be read is kept, and nothing wrong is ever shown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from afmfs.cache.check import salvage
from afmfs.cache.check.run import Mending
from afmfs.errors import Refused
from tests.check.scene import EXPECTED, HOME, INSIDE, Scene

PAGES = int(os.environ.get("AFMFS_PAGES", "5"))
"""How many of the pages of cache.db are damaged in turn; 0: all of them."""


def page_size(scene: Scene) -> int:
    with scene.tables() as db:
        return int(db.execute("PRAGMA page_size").fetchone()[0])


def harm_page(scene: Scene, number: int, data: bytes) -> None:
    size = page_size(scene)
    with (scene.cache / "cache.db").open("r+b") as file:
        file.seek((number - 1) * size)
        file.write((data * size)[:size])


def page_of(scene: Scene, name: str) -> int:
    """The topmost page of a table or an index."""
    with scene.tables() as db:
        row = db.execute("SELECT rootpage FROM sqlite_master WHERE name=?", (name,)).fetchone()
        return int(row[0])


def kinds(scene: Scene) -> set[str]:
    return {one.kind for one in scene.found()}


@pytest.mark.parametrize("index", ["queue_ino", "dentry_ino", "inode_nameless", "used_time"])
def test_a_damaged_index_costs_nothing(scene: Scene, index: str) -> None:
    harm_page(scene, page_of(scene, index), b"\xa5")
    assert kinds(scene) == {"damaged database"}
    scene.mend()
    assert len(list(scene.cache.glob("cache.db.damaged-*Z"))) == 1
    scene.assert_serves()
    scene.flushed()
    assert (scene.home / "made/new").read_bytes() == INSIDE


def test_an_index_that_is_missing(scene: Scene) -> None:
    scene.sql("DROP INDEX dentry_ino")
    assert kinds(scene) == {"damaged database"}
    scene.mend()
    assert not list(scene.cache.glob("cache.db.damaged-*"))
    scene.assert_serves()


def test_a_damaged_queue(scene: Scene) -> None:
    """Everything that changed is sent again."""
    harm_page(scene, page_of(scene, "queue"), b"\0")
    scene.mend()
    scene.assert_serves()
    scene.flushed()
    assert (scene.home / "made/new").read_bytes() == INSIDE


@pytest.mark.parametrize("what", ["cut", "empty", "missing", "foreign", "other"])
def test_files_that_are_no_database_of_a_cache(scene: Scene, what: str) -> None:
    path = scene.cache / "cache.db"
    if what == "cut":
        os.truncate(path, path.stat().st_size // 3)
    elif what == "empty":
        os.truncate(path, 0)
    elif what == "missing":
        path.unlink()
    elif what == "foreign":
        path.write_bytes(b"no database, " * 1000)
    else:
        shutil.copy(scene.cache / "gateway/1/gateway.db", path)
    assert "damaged database" in kinds(scene)
    before = path.read_bytes() if path.exists() else None
    Mending(scene.cache, lambda finding, done: None).run()
    kept = [file.read_bytes() for file in scene.cache.glob("cache.db.damaged-*Z")]
    assert kept == ([] if before is None else [before])
    if what != "cut":  # what nobody can name is kept
        assert len([*(scene.cache / "lost+found").iterdir()]) == 5


def test_without_its_first_page(scene: Scene) -> None:
    """With the schema, and all settings: what is left is found page by page."""
    harm_page(scene, 1, b"\0")
    Mending(scene.cache, lambda finding, done: None).run()
    assert not scene.found()
    scene.assert_serves()
    scene.flushed()
    assert (scene.home / "made/new").read_bytes() == INSIDE


def test_a_table_that_is_missing(scene: Scene) -> None:
    scene.sql("DROP TABLE span")
    assert kinds(scene) == {"damaged database"}
    scene.mend()
    scene.assert_serves()


def pages(scene: Scene) -> list[int]:
    count = (scene.cache / "cache.db").stat().st_size // page_size(scene)
    every = range(1, count + 1)
    step = max(1, len(every) // PAGES) if PAGES else 1
    return [*every][:: step or 1]


def test_any_damaged_page(scene: Scene) -> None:
    """Whatever page it is: the check ends, a mount serves, and shows no byte that was never there.
    (What a page held may be gone, and is then not shown, or an error, or as home has it.)"""
    kept = scene.copy()
    for number in pages(scene):
        for data in (b"\xa5", b"\0"):
            shutil.rmtree(scene.cache)
            shutil.copytree(kept, scene.cache)
            harm_page(scene, number, data)
            found = scene.found()
            Mending(scene.cache, lambda finding, done: None).run()
            left = scene.found()
            assert all(one.kind == "setting" for one in left), (number, data, left)
            if found and not left:
                assert_nothing_is_wrong(scene, f"page {number} of {data!r}")


def assert_nothing_is_wrong(scene: Scene, what: str) -> None:
    try:
        scene.engine.start()
    except BaseExceptionGroup as group:
        if group.split(Refused)[1] is not None:
            raise
        return  # what home knows of it is lost: it has to be mounted with `takeover`
    try:
        for path, data in EXPECTED.items():
            try:
                got = scene.read(path)
            except OSError:
                continue
            except Exception as error:
                assert type(error).__name__ == "Damaged", (what, path, error)
                continue
            home = HOME.get(os.fsdecode(path))  # where the inode is lost, with what was pending
            assert got in (data, home), (what, path)
    finally:
        scene.engine.stop()


def test_what_was_set_aside_is_complete(scene: Scene, tmp_path: Path) -> None:
    """The damaged files are kept as they were, with the log."""
    harm_page(scene, page_of(scene, "queue_ino"), b"\xa5")
    before = (scene.cache / "cache.db").read_bytes()
    scene.mend()
    (kept,) = scene.cache.glob("cache.db.damaged-*Z")
    assert kept.read_bytes() == before


def test_a_repair_that_is_killed_does_not_lose_the_log(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the log, which is moved away, and the new database."""
    path = scene.cache / "cache.db"
    scene.engine.start()
    scene.write(b"late", INSIDE)
    scene.kill()
    assert (scene.cache / "cache.db-wal").stat().st_size

    def killed(source: os.PathLike[str] | str, target: os.PathLike[str] | str) -> None:
        if os.fspath(target) == str(path):
            raise KeyboardInterrupt
        os.replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("afmfs.cache.check.salvage.os.rename", killed)
        salvage.rebuild(scene.cache)
    scene.mend()
    scene.assert_serves(late=INSIDE)
