"""gateway.db: each change survives, and its mirror in memory says the same."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest

from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.state.journal import AlreadyRunning, Journal, Outcome, Requeued


def again(journal: Journal, path: Path) -> Journal:
    """What a gateway that starts after this one's end finds."""
    journal.close()
    return Journal(path)


def requeued(entry: int, *, pushing: bool) -> Requeued:
    return Requeued(entry, 28, "home is full", 1, 10**18, 10**17, pushing)


def test_a_life(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.take_off([1, 2, 3])
    journal.take_off([4, 5])
    assert journal.flights() == {1: [1, 2, 3], 2: [4, 5]}
    journal = again(journal, tmp_path)
    assert journal.flights() == {1: [1, 2, 3], 2: [4, 5]}
    stamp = Stamp(10, 20, 30)
    seq = journal.land([Outcome(1, 100, stamp), Outcome(2, 101)], [requeued(3, pushing=True)], [])
    for _ in range(2):
        assert journal.flights() == {1: [3], 2: [4, 5]}
        assert journal.executed(1) and journal.executed(2) and not journal.executed(3)
        assert journal.stamp(100) == stamp and journal.stamp(101) is None
        assert journal.requeued() == {3: requeued(3, pushing=True)}
        assert journal.seq == seq == 2
        journal = again(journal, tmp_path)
    journal.land([Outcome(3, 102)], [requeued(5, pushing=False)], [4])
    for _ in range(2):
        assert journal.flights() == {}
        assert list(journal.requeued()) == [5]
        journal = again(journal, tmp_path)
    journal.forget(2)
    for _ in range(2):
        assert not journal.executed(1) and journal.stamp(100) is None
        assert journal.executed(3)
        journal = again(journal, tmp_path)
    journal.forget(3)
    assert journal.land([Outcome(9, 9)]) == 4, "numbers are never used twice"
    journal.close()


KILLED_IN_A_COMMIT = """
import os, sys
from pathlib import Path
from afmfs.gateway.state.journal import Journal, Outcome
directory = Path(sys.argv[1])
journal = Journal(directory)
journal.take_off([1])
index = os.open(directory / "gateway.db-shm", os.O_RDWR)
header = os.pread(index, 96, 0)
journal.land([Outcome(1, 100)])
os.pwrite(index, header, 0)
os._exit(0)
"""
"""What a kill leaves between the two halves of a commit: the log has it, its index does not."""

READER = """
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}/gateway.db?mode=ro", uri=True)
db.execute("SELECT * FROM outcome").fetchall()
print("reading", flush=True)
sys.stdin.read()
"""


def test_a_commit_that_a_kill_has_halved_stays_away(tmp_path: Path) -> None:
    """As long as the mount process reads the journal, its log has an index, which does not show the
    commit. Once both are killed the index is made anew, from all that the log holds: what the
    gateway in between took for in doubt, and has begun to do again, must not be done then."""
    Journal(tmp_path).close()
    run = partial(subprocess.Popen, stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parents[2])
    with run([sys.executable, "-c", READER, str(tmp_path)]) as reader:
        assert reader.stdout is not None and reader.stdout.readline()
        with run([sys.executable, "-c", KILLED_IN_A_COMMIT, str(tmp_path)]) as killed:
            assert killed.wait(30) == 0
        between = Journal(tmp_path)
        between.affirm()
        assert between.flights() == {1: [1]} and not between.executed(1)
        between.close()  # not the last to have it open: nothing is done to the log
        reader.kill()
    after = Journal(tmp_path)
    assert after.flights() == {1: [1]} and not after.executed(1)
    after.close()


def test_a_newer_stamp_outlives_an_older_outcome(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = journal.land([Outcome(1, 7, Stamp(1, 1, 1))])
    journal.land([Outcome(2, 7, Stamp(2, 2, 1))])
    before = journal.forgotten
    journal.forget(first)
    assert journal.forgotten == before + 1
    assert journal.stamp(7) == Stamp(2, 2, 1)
    journal.close()


def test_taking_off_twice_is_taking_off_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.take_off([1, 2])
    journal.take_off([1, 2])
    assert journal.flights() == {1: [1, 2]}
    journal.never_executed([1])
    assert journal.flights() == {1: [2]}
    journal.close()


def test_never_two_at_one_home(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(AlreadyRunning):
        Journal(tmp_path)
    again(journal, tmp_path).close()


def test_state(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put("exchange 5", "10 11")
    journal = again(journal, tmp_path)
    assert journal.get("exchange 5") == "10 11"
    journal.put("exchange 5", None)
    assert journal.get("exchange 5") is None
    journal.close()


def test_a_failed_commit_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.take_off([1])
    with pytest.raises(sqlite3.Error):
        journal.land([Outcome(1, object())])  # type: ignore[arg-type]
    assert journal.flights() == {1: [1]} and not journal.executed(1)
    journal.land([Outcome(1, 1)])
    journal.close()


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError):
        Journal(tmp_path)
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.execute("PRAGMA user_version=2")
    db.close()
    Journal(tmp_path).close()


def test_an_older_format_is_brought_up_to_date(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    db = sqlite3.connect(tmp_path / "gateway.db")
    db.executescript(
        "DROP TABLE job; DROP TABLE priority; DROP TABLE trash; DROP TABLE nulled;"
        "PRAGMA user_version=1"
    )
    db.close()
    Journal(tmp_path).close()
    db = sqlite3.connect(tmp_path / "gateway.db")
    assert db.execute("SELECT count(*) FROM priority").fetchone() == (0,)
    db.close()
