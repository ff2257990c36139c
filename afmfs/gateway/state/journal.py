"""gateway.db: what the gateway must know after a crash about what it did at home.

An entry is in one of these places: nowhere (still to do), `flight` (being executed, or in doubt),
`outcome` (executed; waits until the mount process has durably retired it), `requeued` (home refused
it for now; where it may be partly executed it stays in `flight` as well). Every change is one
transaction, durable on return (synchronous=FULL). Tables are mirrored in memory, so that questions
cost no SQL. Any thread may call; one lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.state.journal_file import TURN, Known, last_outcome, log_limit, open_file
from afmfs.model.outcome import (
    ADOPTED,
    DONE,
    DROPPED,
    LOST,
    NULLED,
    RESYNCED,
    UNLINKED,
    UNREPRESENTABLE,
)

__all__ = ["ADOPTED", "DONE", "DROPPED", "LOST", "NULLED", "RESYNCED", "UNREPRESENTABLE"]


class Outcome(NamedTuple):
    id: int
    ino: int
    stamp: Stamp | None = None
    result: str = DONE
    errno: int | None = None  # why it is unrepresentable


_NO_STAMP = (None, None, None)


class Requeued(NamedTuple):
    id: int
    errno: int
    reason: str
    tries: int
    next_try_ns: int  # wall clock
    since_ns: int  # when it failed first
    pushing: bool


ENTRY = 128
"""What a batch adds to the log for each of its entries, about."""


class AlreadyRunning(Exception):
    """Another gateway holds this home's journal."""


class Journal:
    """Raises AlreadyRunning, or sqlite3.DatabaseError where the file can't be opened; one that is
    not what it should be is set aside. `known` is what the cache remembers of it."""

    def __init__(self, directory: Path, known: Known | None = None) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = _lock(directory / "lock")
        try:
            self._db, self.news = open_file(directory / "gateway.db", known)
            self.most_at_once = log_limit(directory) // ENTRY
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._lock = threading.Lock()
        self._affirmed = False
        self._flight: dict[int, int] = dict(self._db.execute("SELECT id, batch FROM flight"))
        self._requeued = {
            r[0]: Requeued(r[0], r[1], r[2], r[3], r[4], r[5], bool(r[6]))
            for r in self._db.execute("SELECT * FROM requeued")
        }
        self._outcomes: dict[int, Outcome] = {}  # by seq, ascending
        self._executed: dict[int, int] = {}  # entry -> seq
        self._stamps: dict[int, tuple[int, Stamp]] = {}  # inode -> its newest (seq, stamp)
        self._unheld: dict[int, int] = {}  # inode -> errno; until a job's outcome says otherwise
        for seq, *row in self._db.execute(
            "SELECT seq, id, ino, home_size, home_mtime, home_ino, result, errno FROM outcome"
            " ORDER BY seq"
        ):
            stamp = None if row[3] is None else Stamp(*row[2:5])
            self._remember(seq, Outcome(row[0], row[1], stamp, row[5], row[6]))
        self._next_seq = 1 + last_outcome(self._db)
        self.id = str(self.get("journal"))
        self.turn = int(self.get("turn") or 0)  # transactions that it had
        self.begun = max((*self._flight, *self._executed), default=0)
        """The largest number of an entry that may have been executed, as far as is known here."""
        self.forgotten = 0
        """Raised whenever outcomes are forgotten. Who reads queue rows and then asks which of them
        are executed must find it unchanged: a row seen before its retirement would look undone."""

    def _remember(self, seq: int, outcome: Outcome) -> None:
        self._outcomes[seq] = outcome
        self._executed[outcome.id] = seq
        if outcome.stamp is not None:
            self._stamps[outcome.ino] = seq, outcome.stamp
        if outcome.result in (UNREPRESENTABLE, UNLINKED) and outcome.stamp is None:
            self._unheld[outcome.ino] = outcome.errno or errno.EINVAL
        elif not outcome.id and outcome.errno is None and outcome.result != LOST:
            self._unheld.pop(outcome.ino, None)  # a job has found it there, or brought it there

    # -- questions -------------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """The newest outcome's number; 0 if all are forgotten."""
        with self._lock:
            return next(reversed(self._outcomes), 0)

    def executed(self, entry: int) -> bool:
        """Whether an outcome of the entry is recorded and not forgotten."""
        return entry in self._executed

    def in_flight(self, entry: int) -> bool:
        return entry in self._flight

    def flights(self) -> dict[int, list[int]]:
        """Entries in flight by batch, oldest batch first, entries ascending."""
        with self._lock:
            pairs = sorted((batch, entry) for entry, batch in self._flight.items())
        found: dict[int, list[int]] = {}
        for batch, entry in pairs:
            found.setdefault(batch, []).append(entry)
        return found

    def requeued(self) -> dict[int, Requeued]:
        with self._lock:
            return dict(self._requeued)

    def stamp(self, ino: int) -> Stamp | None:
        """The newest version of the inode that an unforgotten outcome tells of."""
        found = self._stamps.get(ino)
        return None if found is None else found[1]

    def told_of(self, home_ino: int) -> set[int]:
        """The inodes whose unforgotten outcomes tell of home's file of this number."""
        rows = self.query("SELECT ino FROM outcome WHERE home_ino=?", (home_ino,))
        return {ino for (ino,) in rows}

    def unheld(self, ino: int) -> int | None:
        """The errno of an unforgotten outcome that says that home can't hold something of it."""
        return self._unheld.get(ino)

    def get(self, key: str) -> Any:
        with self._lock:
            row = self._db.execute("SELECT value FROM state WHERE key=?", (key,)).fetchone()
        return None if row is None else row[0]

    # -- changes, each durable on return ---------------------------------------------------------

    def affirm(self) -> None:
        """What the journal says now is what it will say: to be called before anything is done at
        home by it.

        A gateway that was killed in a commit may have left it in the log and not in the log's
        index. As long as the mount process has the journal open, that commit does not show; when
        it is killed as well, the index is made anew, with it: what was in doubt, and half done
        again, would count as executed. A commit of our own writes over what does not show.
        """
        if not self._affirmed:
            with self._lock, self._transaction():
                pass

    def put(self, key: str, value: Any) -> None:
        """Keep a value under a name; None removes it."""
        with self._lock, self._transaction() as db:
            if value is None:
                db.execute("DELETE FROM state WHERE key=?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO state VALUES (?,?)", (key, value))

    def take_off(self, entries: Iterable[int]) -> None:
        """Entries are about to be executed: from here on they may have been (in-flight)."""
        with self._lock:
            new = [entry for entry in entries if entry not in self._flight]
            if not new:
                return
            batch = max(self._flight.values(), default=0) + 1
            self.begun = max(self.begun, *new)  # first: who asks must not hear too little
            with self._transaction() as db:
                _insert(db, "flight", 2, [(entry, batch) for entry in new])
            self._flight.update((entry, batch) for entry in new)

    def land(
        self,
        outcomes: Iterable[Outcome],
        requeued: Iterable[Requeued] = (),
        untouched: Iterable[int] = (),
        also: Callable[[sqlite3.Connection], None] = lambda db: None,
    ) -> int:
        """Record in one transaction what became of a batch; the newest outcome's number.

        `also` writes to tables that are not mirrored here, in the same transaction.

        `requeued` entries leave the flight unless they may be partly executed; `untouched` ones
        were certainly not executed and are as they were before.
        """
        outcomes, requeued = list(outcomes), list(requeued)
        gone = {o.id for o in outcomes}
        gone.update(r.id for r in requeued if not r.pushing)
        gone.update(untouched)
        with self._lock:
            first = self._next_seq
            with self._transaction() as db:
                _insert(db, "outcome", 8, list(map(_columns, enumerate(outcomes, first))))
                self._delete_flight(db, gone)
                db.executemany(
                    "DELETE FROM requeued WHERE id=?", [(i,) for i in self._requeued if i in gone]
                )
                db.executemany(
                    "INSERT OR REPLACE INTO requeued VALUES (?,?,CAST(? AS TEXT),?,?,?,?)",
                    [(r.id, r.errno, os.fsencode(r.reason), *r[3:]) for r in requeued],
                )
                also(db)
            self._next_seq += len(outcomes)
            for seq, outcome in enumerate(outcomes, first):
                self._remember(seq, outcome)
            for entry in gone:
                self._flight.pop(entry, None)
            if self._requeued:
                self._requeued = {i: r for i, r in self._requeued.items() if i not in gone}
            self._requeued.update((r.id, r) for r in requeued)
            return next(reversed(self._outcomes), 0)

    def _delete_flight(self, db: sqlite3.Connection, gone: Set[int]) -> None:
        """Whole batches at once: a row at a time costs as much as recording its outcome."""
        flight = self._flight
        staying = {batch for entry, batch in flight.items() if entry not in gone}
        landed = {flight[entry] for entry in gone if entry in flight}
        db.executemany("DELETE FROM flight WHERE batch=?", [(b,) for b in landed - staying])
        db.executemany(
            "DELETE FROM flight WHERE id=?",
            [(i,) for i in gone if i in flight and flight[i] in staying]
            if staying & landed
            else [],
        )

    def never_executed(self, entries: Iterable[int]) -> None:
        """The queue does not hold these any more though they never got an outcome: power loss took
        their rows back before the durable point that would have let them be executed."""
        gone = [(entry,) for entry in entries]
        with self._lock:
            with self._transaction() as db:
                db.executemany("DELETE FROM flight WHERE id=?", gone)
                db.executemany("DELETE FROM requeued WHERE id=?", gone)
            for (entry,) in gone:
                self._flight.pop(entry, None)
                self._requeued.pop(entry, None)

    def resume(self, now_ns: int) -> None:
        """All requeued entries may be tried at once. Not durable by itself: a wish, not a fact."""
        with self._lock:
            self._requeued = {
                i: r._replace(next_try_ns=min(r.next_try_ns, now_ns))
                for i, r in self._requeued.items()
            }

    def forget(self, seq: int) -> None:
        """Outcomes up to `seq` are durably retired (forget-after-durable)."""
        with self._lock:
            gone: list[tuple[int, Outcome]] = []
            for number, outcome in self._outcomes.items():
                if number > seq:
                    break
                gone.append((number, outcome))
            if not gone:
                return
            with self._transaction() as db:
                db.execute("DELETE FROM outcome WHERE seq<=?", (seq,))
                # Numbers are never used twice, also when the newest are forgotten.
                db.execute("INSERT OR REPLACE INTO state VALUES ('forgotten', ?)", (gone[-1][0],))
            self.forgotten += 1  # before the memory changes: a reader that starts now starts again
            for number, outcome in gone:
                del self._outcomes[number]
                if self._executed.get(outcome.id) == number:
                    del self._executed[outcome.id]
                newest = self._stamps.get(outcome.ino)
                if newest is not None and newest[0] <= seq:
                    del self._stamps[outcome.ino]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """For tables that are not mirrored here: all of it is durable on return, or none of it.

        Nothing else of the journal may be called inside (it would wait for itself), and home must
        not be touched: who asks the journal would wait for it.
        """
        with self._lock, self._transaction() as db:
            yield db

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a question to a table that is not mirrored here."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute(TURN)
            db.execute("COMMIT")
            self.turn += 1
            self._affirmed = True
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def is_sound(self) -> bool:
        """Whether all of it can be read."""
        with self._lock:
            try:
                return bool(self._db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
            except sqlite3.DatabaseError:
                return False

    def close(self) -> None:
        """Close the database and give up the lock. Nothing may be called afterwards."""
        with self._lock:
            self._db.close()
            os.close(self._lock_fd)


_AT_ONCE = 64


def _insert(db: sqlite3.Connection, table: str, columns: int, rows: list[tuple[Any, ...]]) -> None:
    """Many rows by one statement: half of the time of one each."""
    row = f"({','.join('?' * columns)})"
    whole = len(rows) - len(rows) % _AT_ONCE
    many = f"INSERT INTO {table} VALUES {','.join([row] * _AT_ONCE)}"
    for n in range(0, whole, _AT_ONCE):
        db.execute(many, [*chain.from_iterable(rows[n : n + _AT_ONCE])])
    db.executemany(f"INSERT INTO {table} VALUES {row}", rows[whole:])


def _columns(numbered: tuple[int, Outcome]) -> tuple[Any, ...]:
    seq, (entry, ino, stamp, result, code) = numbered
    return seq, entry, ino, *(stamp or _NO_STAMP), result, code


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise AlreadyRunning(f"another gateway holds {path}") from exc
    return fd
