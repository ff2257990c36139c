"""Home's trash: what home alone held and a resync had to replace or to null, moved aside.

It lies at home, in `.afm/.afmtrash/<job>/<number>`. What it is, is told by two tables of gateway.db
and, for who has only home, by an `index` file beside it. An entry is *intended*, durably, before it
is moved, and its number is never used for another: so a move that was begun before a crash is made
once, whatever has come under the old name since.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from afmfs.gateway.home.home import MARKER, Home
from afmfs.gateway.home.walk import Path
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.trash.aside import Pulse, copy_aside
from afmfs.model.kinds import kind_name
from afmfs.model.ranges import Ranges, difference

PATH: Path = (MARKER, b".afmtrash")
INDEX = b"index"

INTENDED, MOVED, RESTORING, RESTORED = "intended", "moved", "restoring", "restored"

_LAST_NUMBER = "trash_number"
_DESTINATION, _DESTINATIONS = "restored:%d", "restored:*"
_PAGE = 1000


class Trashed(NamedTuple):
    number: int
    job: int
    path: bytes  # the name it had, below home's root
    ino: int | None  # the cache's
    kind: int  # its S_IFMT bits
    size: int
    why: str
    time_ns: int
    state: str


class Nulled(NamedTuple):
    """Bytes that a job made null at home."""

    start: int
    end: int
    job: int
    trash: int | None  # where they are; None: home held nulls already


class TrashBook:
    """The tables `trash` and `nulled`. Methods that take `db` are for Journal.transaction."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    # -- what is moved aside ---------------------------------------------------------------------

    @staticmethod
    def next_number(db: sqlite3.Connection) -> int:
        """A number that no entry had or will have, also when it is thrown away.

        The first is a time: a gateway.db that is new, as an old one was lost or the cache was, must
        not take what lies at home under a low number for what it is about to move there.
        """
        row = db.execute("SELECT value FROM state WHERE key=?", (_LAST_NUMBER,)).fetchone()
        number: int = 1 + row[0] if row else time.time_ns() // 1000
        db.execute("INSERT OR REPLACE INTO state VALUES (?,?)", (_LAST_NUMBER, number))
        return number

    @staticmethod
    def intend(
        db: sqlite3.Connection,
        number: int,
        job: int,
        path: bytes,
        ino: int | None,
        kind: int,
        size: int,
        why: str,
        time_ns: int,
    ) -> None:
        """It is about to be moved."""
        row = Trashed(number, job, path, ino, kind, size, why, time_ns, INTENDED)
        db.execute("INSERT INTO trash VALUES (?,?,?,?,?,?,?,?,?)", row)

    @staticmethod
    def moved(db: sqlite3.Connection, number: int) -> None:
        """It is in the trash; also if that was said before."""
        db.execute("UPDATE trash SET state=? WHERE number=? AND state=?", (MOVED, number, INTENDED))

    @staticmethod
    def stands_alone(db: sqlite3.Connection, number: int) -> None:
        """What was decided with it was never done as it was decided: no bytes that are null are
        known to be from it, so it comes back as a whole."""
        db.execute("UPDATE trash SET ino=NULL WHERE number=? AND state=?", (number, INTENDED))

    @staticmethod
    def missing(db: sqlite3.Connection, number: int) -> None:
        """It was gone from home before it could be moved: there is nothing to tell of."""
        db.execute("DELETE FROM trash WHERE number=? AND state=?", (number, INTENDED))

    def rows(self, job: int | None = None, after: int = 0) -> Iterator[Trashed]:
        """All of a job, or of all of them, by number. Holds no lock between two pages."""
        while True:
            found = self._journal.query(
                "SELECT * FROM trash WHERE number>? AND (? IS NULL OR job=?)"
                " ORDER BY number LIMIT ?",
                (after, job, job, _PAGE),
            )
            if not found:
                return
            yield from map(Trashed._make, found)
            after = found[-1][0]

    def thrown_away(self, job: int, left: Set[int]) -> None:
        """All of a job's entries but those that are left are gone from the trash."""
        gone = [(row.number,) for row in self.rows(job) if row.number not in left]
        with self._journal.transaction() as db:
            db.execute("CREATE TEMP TABLE IF NOT EXISTS gone (number INTEGER PRIMARY KEY)")
            db.executemany("INSERT INTO gone VALUES (?)", gone)
            db.execute("UPDATE nulled SET trash=NULL WHERE trash IN (SELECT number FROM gone)")
            db.execute("DELETE FROM trash WHERE number IN (SELECT number FROM gone)")
            db.executemany(
                "DELETE FROM state WHERE key=?", [(_DESTINATION % number,) for (number,) in gone]
            )
            db.execute("DELETE FROM gone")

    def in_state(self, state: str) -> list[Trashed]:
        rows = self._journal.query("SELECT * FROM trash WHERE state=? ORDER BY number", (state,))
        return list(map(Trashed._make, rows))

    @staticmethod
    def enter(db: sqlite3.Connection, number: int, state: str) -> None:
        db.execute("UPDATE trash SET state=? WHERE number=?", (state, number))

    # -- restored, as long as the mount process has not taken it in ------------------------------

    def destination(self, number: int) -> bytes | None:
        """The path at home that an entry is restored to, empty for bytes of a file; None if it was
        not restored, or that was taken in."""
        found: bytes | None = self._journal.get(_DESTINATION % number)
        return found

    def untaken(self, last: int) -> list[Trashed]:
        """Entries up to a number that were restored, or are being, and are not taken in."""
        keys = self._journal.query("SELECT key FROM state WHERE key GLOB ?", (_DESTINATIONS,))
        numbers = [int(key.partition(":")[2]) for (key,) in keys]
        rows = self._journal.query(
            "SELECT * FROM trash WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps([number for number in numbers if number <= last]),),
        )
        return list(map(Trashed._make, rows))

    @staticmethod
    def set_destination(db: sqlite3.Connection, number: int, path: bytes) -> None:
        db.execute("INSERT OR REPLACE INTO state VALUES (?,?)", (_DESTINATION % number, path))

    @staticmethod
    def forget_destination(db: sqlite3.Connection, number: int) -> None:
        db.execute("DELETE FROM state WHERE key=?", (_DESTINATION % number,))

    # -- what is null ----------------------------------------------------------------------------

    @staticmethod
    def null(db: sqlite3.Connection, ino: int, ranges: Ranges, job: int, trash: int | None) -> None:
        """These bytes are null at home from now on (or before long); also if said before.

        Where `trash` holds them it is told of instead of an earlier one: that has what home held
        before it was nulled the first time, and somebody has written there since.
        """
        old = _nulled(db, ino)
        if trash is None:
            ranges = difference(ranges, tuple((n.start, n.end) for n in old))
        else:
            old = _less(old, ranges)
        new = [Nulled(start, end, job, trash) for start, end in ranges]
        _put(db, ino, [*old, *new])

    @staticmethod
    def written(db: sqlite3.Connection, ino: int, ranges: Ranges, size: int | None = None) -> None:
        """Home holds bytes of the cache there by now, or ends at `size`: not null any more."""
        old = _nulled(db, ino)
        if not old:
            return
        new = _less(old, ranges)
        if size is not None:
            new = [n._replace(end=min(n.end, size)) for n in new if n.start < size]
        if new != old:
            _put(db, ino, new)

    def nulled(self, ino: int) -> list[Nulled]:
        """Sorted and disjoint."""
        rows = self._journal.query(
            "SELECT start, end, job, trash FROM nulled WHERE ino=? ORDER BY start", (ino,)
        )
        return list(map(Nulled._make, rows))

    def ranges(self, ino: int, trash: int) -> Ranges:
        """The bytes whose former content is in an entry of the trash."""
        return tuple((n.start, n.end) for n in self.nulled(ino) if n.trash == trash)

    @staticmethod
    def left_trash(db: sqlite3.Connection, ino: int, trash: int) -> None:
        """They are null still, and what was there is not in the trash any more."""
        db.execute("UPDATE nulled SET trash=NULL WHERE ino=? AND trash=?", (ino, trash))

    @staticmethod
    def unnull(db: sqlite3.Connection, ino: int, trash: int) -> None:
        """Home has them again."""
        db.execute("DELETE FROM nulled WHERE ino=? AND trash=?", (ino, trash))


def _nulled(db: sqlite3.Connection, ino: int) -> list[Nulled]:
    rows = db.execute(
        "SELECT start, end, job, trash FROM nulled WHERE ino=? ORDER BY start", (ino,)
    )
    return list(map(Nulled._make, rows))


def _less(rows: Iterable[Nulled], ranges: Ranges) -> list[Nulled]:
    """The rows without the bytes in `ranges`."""
    kept: list[Nulled] = []
    for row in rows:
        first = bisect_right(ranges, row.start, key=lambda r: r[1])
        last = bisect_left(ranges, row.end, key=lambda r: r[0])
        rest = difference(((row.start, row.end),), ranges[first:last])
        kept += [row._replace(start=start, end=end) for start, end in rest]
    return kept


def _put(db: sqlite3.Connection, ino: int, rows: Iterable[Nulled]) -> None:
    db.execute("DELETE FROM nulled WHERE ino=?", (ino,))
    db.executemany("INSERT INTO nulled VALUES (?,?,?,?,?)", [(ino, *row) for row in rows])


# -- at home -------------------------------------------------------------------------------------


def directory_of(job: int) -> Path:
    return (*PATH, b"%d" % job)


def file_name(number: int) -> bytes:
    return b"%d" % number


def move_aside(
    home: Home, job: int, number: int, dirfd: int, name: bytes, pulse: Pulse = lambda: None
) -> bool:
    """Move the entry at (dirfd, name) into the trash; its intent must be durable.

    True if it is there, also where an earlier attempt moved it: then `name` is left alone, whatever
    it is by now. False if there was nothing to move. OSError from home: EXDEV if it is a directory
    on another file system, EBUSY if something is mounted on it or it is being changed.
    """
    try:
        return _move_aside(home, job, number, dirfd, name, pulse)
    except FileNotFoundError:
        # Not the entry, or so it was a moment ago: then the trash was removed under our hands.
        if not _exists(home, dirfd, name):
            return False
        home.forget_directory(directory_of(job))
        home.forget_directory(PATH)
        return _move_aside(home, job, number, dirfd, name, pulse)


def _move_aside(home: Home, job: int, number: int, dirfd: int, name: bytes, pulse: Pulse) -> bool:
    trash, moved = home.own_directory(directory_of(job)), file_name(number)
    if _exists(home, trash, moved):
        return True
    try:
        found = home.lstat(dirfd, name)
    except FileNotFoundError:
        # A copy may be complete but in name.
        return copy_aside(home, dirfd, name, trash, moved, pulse)
    try:
        home.rename(dirfd, name, trash, moved)
    except OSError as exc:
        if exc.errno != errno.EXDEV or stat.S_ISDIR(found.st_mode):
            raise
        return copy_aside(home, dirfd, name, trash, moved, pulse)
    if stat.S_ISDIR(found.st_mode):
        home.forget_directories()
    return True


def _exists(home: Home, dirfd: int, name: bytes) -> bool:
    try:
        home.lstat(dirfd, name)
    except FileNotFoundError:
        return False
    return True


def write_index(home: Home, job: int, rows: Iterable[Trashed]) -> None:
    """Say at home what is going to be in the trash; durable on return, to be called before it is
    moved. Said twice it stands there twice: of lines with one number the last one holds."""
    lines = b"".join(map(index_line, rows))
    if not lines:
        return
    trash = home.own_directory(directory_of(job))
    try:
        fd, found = home.open_file(trash, INDEX, os.O_RDWR | os.O_APPEND)
        size = found.st_size
    except FileNotFoundError:
        fd, size = home.make_file(trash, INDEX), 0
    try:
        if size and os.pread(fd, 1, size - 1) != b"\n":
            lines = b"\n" + lines  # the end of the last one was lost
        _append(fd, lines, size)
        os.fsync(fd)
    finally:
        os.close(fd)
    if not size:
        home.sync_directory(directory_of(job))


def _append(fd: int, data: bytes, size: int) -> None:
    while data:
        done = os.pwrite(fd, data, size)
        data, size = data[done:], size + done


def index_line(row: Trashed) -> bytes:
    """One line of JSON; bytes of a name that are no UTF-8 are surrogates."""
    said = {
        "number": row.number,
        "path": os.fsdecode(row.path),
        "kind": kind_name(row.kind),
        "why": row.why,
        "size": row.size,
        "time": row.time_ns / 1e9,
    }
    return json.dumps(said).encode() + b"\n"
