"""The queue against state: what is missing, makes no sense, or is not counted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from afmfs.model.entry import Op
from tests.check.scene import INSIDE, NEW, Scene


def kinds(scene: Scene) -> list[str]:
    return [one.kind for one in scene.found()]


def journal(scene: Scene) -> Path:
    return scene.cache / "gateway/1/gateway.db"


def tell(scene: Scene, *statements: str) -> None:
    with closing(sqlite3.connect(journal(scene))) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def assert_all_at_home(scene: Scene) -> None:
    scene.flushed()
    assert (scene.home / "made/new").read_bytes() == INSIDE
    assert (scene.home / "dirty").read_bytes() == NEW
    assert scene.found() == []


@pytest.mark.parametrize("which", ["op=6", "1"])
def test_lost_entries(scene: Scene, which: str) -> None:
    """Everything that changed is sent again, whatever the queue has lost."""
    scene.sql(f"DELETE FROM queue WHERE {which}")
    assert set(kinds(scene)) == {"lost entries", "lost entry"}
    scene.mend()
    scene.assert_serves()
    assert_all_at_home(scene)


def test_lost_entries_that_were_not_counted_either(scene: Scene) -> None:
    """The second line: numbers of last changes."""
    scene.sql(
        f"DELETE FROM queue WHERE ino={scene.ino(b'dirty')}",
        "UPDATE counters SET (queue_length, bytes_pending) ="
        ' (SELECT count(*), sum(CASE op WHEN 6 THEN "end"-start ELSE 0 END) FROM queue)',
    )
    (one,) = scene.found()
    assert (one.kind, one.path) == ("lost entry", b"dirty")
    scene.mend()
    assert_all_at_home(scene)


SENSELESS = (
    "77, 1, 1, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0",
    "6, 20, 32768, NULL, NULL, NULL, NULL, NULL, 9, 9, 0, 0",
    "6, 20, 5, NULL, NULL, NULL, NULL, NULL, 0, 9, 0, 0",
    "6, 20, 32768, NULL, NULL, NULL, NULL, NULL, 'x', 9, 0, 0",
    "1, 20, 32768, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0",
    "4, 20, 32768, 1, x'61', NULL, NULL, NULL, 0, 0, 0, 0",
    "5, 20, 32768, 1, x'61', 1, x'62', NULL, 0, 0, 0, 0",
    "3, 20, 32768, 1, 'text', NULL, NULL, NULL, 0, 0, 0, 0",
)
"""Rows of the queue, without their numbers."""


def test_entries_that_make_no_sense(scene: Scene) -> None:
    scene.sql(
        *(f"INSERT INTO queue VALUES ({700 + n}, {row})" for n, row in enumerate(SENSELESS)),
        f"UPDATE counters SET queue_length=queue_length+{len(SENSELESS)}",
    )
    bad = [one.detail["entry"] for one in scene.found() if one.kind == "bad entry"]
    assert bad == [*range(700, 700 + len(SENSELESS))]
    scene.mend()
    scene.assert_serves()
    assert_all_at_home(scene)


def test_an_entry_about_a_name_in_a_file(scene: Scene) -> None:
    scene.sql(
        f"UPDATE queue SET parent={scene.ino(b'clean')} WHERE op=1 AND ino={scene.ino(b'made/new')}"
    )
    assert set(kinds(scene)) == {"bad entry"}
    scene.mend()
    assert_all_at_home(scene)


def test_an_entry_of_nothing(scene: Scene) -> None:
    """Made at home, it would be an empty file that nobody has."""
    ino = scene.ino(b"made/new")
    scene.sql(f"DELETE FROM inode WHERE ino={ino}", f"DELETE FROM dentry WHERE ino={ino}")
    found = scene.found()
    assert [one.path for one in found if one.kind == "entry of nothing"] == [None]
    scene.mend()
    scene.flushed()
    assert not (scene.home / "made/new").exists()
    assert (scene.home / "dirty").read_bytes() == NEW


def test_what_is_removed_is_no_entry_of_nothing(scene: Scene) -> None:
    scene.engine.start()
    scene.files.unlink(b"made/new")
    scene.files.rename(b"clean", b"dirty", 0)
    scene.engine.stop()
    assert scene.found() == []


@pytest.mark.parametrize("bound, expected", [(0, ["entry of nothing"]), (1 << 40, [])])
def test_what_a_job_has_removed_already(scene: Scene, bound: int, expected: list[str]) -> None:
    """It settles names first: changes of the file's bytes are in the queue till its end."""
    ino = scene.ino(b"dirty")
    scene.engine.start()
    scene.files.unlink(b"dirty")
    scene.engine.stop()
    scene.sql(
        f"DELETE FROM queue WHERE ino={ino} AND op IN ({Op.REMOVE:d}, {Op.MAKE:d})",
        "UPDATE counters SET queue_length=(SELECT count(*) FROM queue)",
        f"INSERT OR REPLACE INTO fileset VALUES ('job', '{{\"id\": 1, \"bound\": {bound}}}')",
    )
    assert kinds(scene) == expected


@pytest.mark.parametrize("counter", ["inodes", "cached_bytes"])
def test_counters(scene: Scene, counter: str) -> None:
    scene.sql(f"UPDATE counters SET {counter}={counter}+1")
    assert kinds(scene) == ["counter"]
    scene.mend()
    scene.assert_serves()


@pytest.mark.parametrize("harm", ["DELETE FROM counters", "INSERT INTO counters VALUES (0,0,0,0)"])
def test_no_counters_or_two(scene: Scene, harm: str) -> None:
    scene.sql(harm)
    assert kinds(scene) == ["counter"]
    scene.mend()
    assert_all_at_home(scene)


# -- gateway.db ----------------------------------------------------------------------------------


def test_a_journal_that_is_gone(scene: Scene) -> None:
    journal(scene).unlink()
    assert kinds(scene) == ["journal"]


@pytest.mark.parametrize("at", [0, 4096])
def test_a_damaged_journal(scene: Scene, at: int) -> None:
    tell(scene, "PRAGMA journal_mode=DELETE")
    with journal(scene).open("r+b") as file:
        file.seek(at)
        file.write(b"\xaa" * 3000)
    assert kinds(scene) == ["journal"]


@pytest.mark.parametrize("known", [False, True])
def test_a_journal_that_was_being_made(scene: Scene, known: bool) -> None:
    """Killed in that moment, a new home's has no tables; one that was there had some."""
    for path in scene.cache.glob("gateway/1/gateway.db*"):
        path.unlink()
    with closing(sqlite3.connect(journal(scene))) as db:
        db.execute("PRAGMA journal_mode=WAL")
    if not known:
        scene.sql("DELETE FROM fileset WHERE key='journal/1'")
    assert [one.kind for one in scene.found()] == ["journal"] * known


def test_a_journal_of_another_cache(scene: Scene) -> None:
    tell(scene, "UPDATE state SET value='other' WHERE key='journal'")
    assert kinds(scene) == ["journal"]


def test_what_is_under_way_and_not_in_the_queue(scene: Scene) -> None:
    scene.sql("UPDATE fileset SET value=900 WHERE key='durable_entry'")
    tell(scene, "INSERT INTO flight VALUES (800, 1)")
    (one,) = scene.found()
    assert one.kind == "journal" and one.detail["entries"] == [800]
    tell(scene, "DELETE FROM flight")
    scene.mend()
    assert_all_at_home(scene)


def test_what_was_dropped_need_not_have_been_durable(scene: Scene) -> None:
    tell(scene, "INSERT INTO outcome (seq, id, ino, result) VALUES (900, 5000, 20, 'dropped')")
    assert kinds(scene) == []


def test_what_was_executed_and_cache_db_has_not_come_to(scene: Scene) -> None:
    """Nothing is executed before it is durable here: cache.db is an older one."""
    tell(scene, "INSERT INTO outcome (seq, id, ino, result) VALUES (900, 5000, 20, 'done')")
    assert kinds(scene) == ["old database"]
    scene.mend()
