"""A gateway.db that is not what it should be: set aside, never deleted, and told of until the cache
has taken note."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from afmfs.gateway.state.journal import AlreadyRunning, Journal, Outcome
from afmfs.gateway.state.journal_file import Known


def open_journal(directory: Path, known: Known | None) -> tuple[str, str | None]:
    """The journal's name for itself, and what it has to tell."""
    journal = Journal(directory, known)
    try:
        return journal.id, journal.news
    finally:
        journal.close()


def used(directory: Path) -> Known:
    """A journal that the cache works with, which has done something."""
    journal = Journal(directory, Known(""))
    assert journal.news == ""
    journal.take_off([1, 2])
    seq = journal.land([Outcome(1, 16), Outcome(2, 16)])
    journal.forget(seq)
    known = Known(journal.id, journal.turn, seq)
    journal.close()
    return known


def database(directory: Path) -> Path:
    return directory / "gateway.db"


def kept(directory: Path) -> list[Path]:
    return sorted(directory.glob("gateway.db.damaged-*"))


def test_the_known_one_is_worked_with(tmp_path: Path) -> None:
    known = used(tmp_path)
    assert known.turn == 3
    assert open_journal(tmp_path, known) == (known.id, None)
    assert open_journal(tmp_path, None) == (known.id, None)
    assert not kept(tmp_path)


def test_the_first_one_is_no_loss_but_waits(tmp_path: Path) -> None:
    first = open_journal(tmp_path, Known(""))
    assert first[1] == ""
    assert open_journal(tmp_path, Known("")) == first, "until the cache knows it"
    assert open_journal(tmp_path, Known(first[0])) == (first[0], None)


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 1)


def overwrite(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(9000))


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(range(256)) * (path.stat().st_size // 256 - 16))


def another_program(path: Path) -> None:
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url)")
    db.close()


def half_made(path: Path) -> None:
    """A crash in the middle of making it."""
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.close()


@pytest.mark.parametrize("harm, says", [
    (delete, "was lost"),
    (empty, "was damaged (it is empty)"),
    (cut, "was damaged (database disk image is malformed)"),
    (overwrite, "was damaged (file is not a database)"),
    (spoil, "was damaged ("),
    (another_program, "was damaged (it is no journal)"),
    (half_made, "was damaged (it is no journal)"),
])  # fmt: skip
def test_what_can_not_be_used(tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    known = used(tmp_path)
    harm(database(tmp_path))
    harmed = database(tmp_path).read_bytes() if database(tmp_path).exists() else None
    name, news = open_journal(tmp_path, known)
    assert name != known.id
    assert news is not None and news.startswith(f"gateway.db {says}")
    if harmed is not None:
        (file,) = kept(tmp_path)
        assert file.read_bytes() == harmed
        assert news.endswith(f"; it is kept as {file.name}")
    assert open_journal(tmp_path, known) == (name, news), "the cache has not heard of it yet"
    assert open_journal(tmp_path, Known(name)) == (name, None)
    assert len(kept(tmp_path)) == (harmed is not None)


def test_two_in_one_second_are_both_kept(tmp_path: Path) -> None:
    known = used(tmp_path)
    for _ in range(3):
        overwrite(database(tmp_path))
        open_journal(tmp_path, known)
    assert len(kept(tmp_path)) == 3


def test_an_older_copy_by_its_turn(tmp_path: Path) -> None:
    """What it says is right, and yet it does not know what was begun since."""
    known = used(tmp_path)
    copy = tmp_path / "copy"
    shutil.copy(database(tmp_path), copy)
    journal = Journal(tmp_path, known)
    journal.take_off([3])
    turn = journal.turn
    journal.close()
    shutil.copy(copy, database(tmp_path))
    name, news = open_journal(tmp_path, known._replace(turn=turn))
    assert news is not None and news.startswith("gateway.db was an older copy; it is kept as ")
    assert name != known.id and len(kept(tmp_path)) == 1


def test_an_older_copy_by_outcomes_that_were_taken_over(tmp_path: Path) -> None:
    known = used(tmp_path)
    name, news = open_journal(tmp_path, known._replace(seq=known.seq + 1))
    assert news is not None and "older copy" in news


def test_without_its_log_it_is_an_older_copy(tmp_path: Path) -> None:
    known = used(tmp_path)
    journal = Journal(tmp_path, known)
    journal.take_off([3])
    turn = journal.turn
    shutil.copy(database(tmp_path), tmp_path / "without")
    journal.close()
    shutil.copy(tmp_path / "without", database(tmp_path))
    _, news = open_journal(tmp_path, known._replace(turn=turn))
    assert news is not None and "older copy" in news


def test_a_log_without_its_database_is_kept_too(tmp_path: Path) -> None:
    known = used(tmp_path)
    database(tmp_path).unlink()
    (tmp_path / "gateway.db-wal").write_bytes(b"a log")
    assert open_journal(tmp_path, known)[1] == "gateway.db was lost"
    assert [file.read_bytes() for file in kept(tmp_path)] == [b"a log"]


def test_another_caches(tmp_path: Path) -> None:
    """Its outcomes would take our entries for executed."""
    known = used(tmp_path / "ours")
    used(tmp_path / "another's")
    shutil.copy(database(tmp_path / "another's"), database(tmp_path / "ours"))
    name, news = open_journal(tmp_path / "ours", known)
    assert news is not None and news.startswith("gateway.db was another cache's")
    journal = Journal(tmp_path / "ours", known)
    assert journal.id == name and not journal.executed(1)
    journal.close()


def test_what_is_in_use_or_can_not_be_opened_now_is_left_alone(tmp_path: Path) -> None:
    known = used(tmp_path)
    journal = Journal(tmp_path, known)
    with pytest.raises(AlreadyRunning):
        Journal(tmp_path, Known("another"))
    journal.close()
    db = sqlite3.connect(database(tmp_path))
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="of format 99"):
        Journal(tmp_path, known)
    assert not kept(tmp_path)
