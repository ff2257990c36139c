"""What the gateway reads of cache.db: the queue, inodes, names, and which bytes are valid.

Read-only. Each thread has a connection of its own, so that a fetch never waits for the replay.
Nothing here holds a read transaction when it returns: home's calls can hang, and a reader that
hangs makes the mount process's log grow without end.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from afmfs.errors import BadRow
from afmfs.gateway.home.stamp import Stamp
from afmfs.model import bitmap
from afmfs.model.action import Place
from afmfs.model.blocks import blob_name, touched
from afmfs.model.entry import UNLINKED, Entry, Op
from afmfs.model.ranges import Ranges, cut, gaps, union, within
from afmfs.model.row_sum import row_sum

_MAP = (
    "SELECT chunk, bits, crc FROM blockmap WHERE ino=?1 AND chunk<?3 AND chunk>="
    "ifnull((SELECT max(chunk) FROM blockmap WHERE ino=?1 AND chunk<=?2), ?2)"
)
"""The rows of a map that have any of some chunks; the first may be one that ends before."""

LISTED = 2
"""Of a directory (`Row.listed`): its names are known."""

_ENTRY = 'id, op, ino, kind, parent, name, parent2, name2, ino2, start, "end", flags, queued_ns'
_ROW = (
    "ino, mode, uid, gid, rdev, nlink, size, atime, mtime, gen, whole, home_valid, home_size,"
    " home_mtime, home_ino, target, changed, retired, listed"
)
_AT_HOME = (
    f"(nlink>0 OR EXISTS (SELECT 1 FROM dentry WHERE dentry.ino=inode.ino AND parent={UNLINKED}))"
)
"""What has no name here, and is open, home keeps in `.afm/unlinked` if it is not all here."""

_LAST_NAME_OP = int(Op.EXCHANGE)
_OPS = tuple(Op(n) if n else Op.MAKE for n in range(max(Op) + 1))


class Row(NamedTuple):
    """An inode as cache.db has it now. Times are ns, sizes bytes."""

    ino: int
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    atime: int
    mtime: int
    gen: int
    whole: int
    home_valid: int
    home_size: int | None
    home_mtime: int | None
    home_ino: int | None
    target: bytes | None
    changed: int = 0  # its last entry
    retired: int = 0  # its last retired entry
    listed: int = LISTED

    @property
    def stamp(self) -> Stamp | None:
        """The version at home that the cache knows of; None if home does not hold it yet."""
        if self.home_mtime is None or self.home_size is None:
            return None
        return Stamp(self.home_size, self.home_mtime, self.home_ino)


class Object(NamedTuple):
    """What a plan needs to know of an inode."""

    ino: int
    mode: int
    bytes: int  # of a file's cached blocks, about


class Sources(NamedTuple):
    """Where the bytes of some ranges come from; what is in neither is not known here."""

    row: Row
    valid: Ranges  # in the blob (missing parts of it are zeros)
    zeros: Ranges  # beyond everything that is known, and not lost: holes


class View:
    def __init__(self, cache: Path, block: int) -> None:
        self._uri = f"{(cache / 'cache.db').absolute().as_uri()}?mode=ro"
        self.block = block
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self.harmed: Callable[[str], None] = lambda text: None  # hears of proof of damage
        self._blobs = os.open(cache / "blobs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(
                self._uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10
            )
            db.text_factory = os.fsdecode  # what should be bytes may be noise
            self._local.db = db
            self._all.append(db)
        return db

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several queries see one state. Never around a call to home."""
        db = self._db
        if db.in_transaction:  # within another snapshot
            yield
            return
        db.execute("BEGIN")
        try:
            yield
        finally:
            db.execute("COMMIT")

    def each(self, sql: str, *values: Any) -> Iterator[Any]:
        """The rows of a question, one after the other. To be used up before home is called."""
        return iter(self._db.execute(sql, values))

    def close(self) -> None:
        for db in self._all:
            db.close()
        os.close(self._blobs)

    # -- the queue -------------------------------------------------------------------------------

    def page(self, after: int, limit: int) -> list[Entry]:
        """Queue rows with a larger number than `after`, in order."""
        return self._entries(
            f"SELECT {_ENTRY} FROM queue WHERE id>? ORDER BY id LIMIT ?", after, limit
        )

    def last_entry(self) -> int:
        """The number of the newest queue row; 0 if there is none."""
        return int(self._db.execute("SELECT ifnull(max(id), 0) FROM queue").fetchone()[0])

    def entries(self, ids: Sequence[int]) -> list[Entry]:
        """The rows of these entries that the queue still has, in order."""
        return self._entries(
            f"SELECT {_ENTRY} FROM queue WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
            json.dumps(ids),
        )

    def entries_of(self, inos: Collection[int], through: int) -> list[Entry]:
        """The rows of some inodes up to an entry, in order: one look at all of them."""
        return self._entries(
            f"SELECT {_ENTRY} FROM queue WHERE id<=? AND ino IN (SELECT value FROM json_each(?))"
            " ORDER BY id",
            through,
            json.dumps(list(inos)),
        )

    def name_entries(self, ino: int) -> list[Entry]:
        """Queue rows that make, move or free a name of the inode, newest first."""
        one = self._entries(
            f"SELECT {_ENTRY} FROM queue WHERE ino=? AND op<>6 AND op<={_LAST_NAME_OP}"
            " ORDER BY id DESC",
            ino,
        )
        two = self._entries(f"SELECT {_ENTRY} FROM queue WHERE ino2=? ORDER BY id DESC", ino)
        return sorted(one + two, key=lambda e: -e.id) if two else one

    def content_entries(self, ino: int) -> list[Entry]:
        """Queue rows that change bytes of the inode, oldest first."""
        return self._entries(
            f"SELECT {_ENTRY} FROM queue WHERE ino=? AND op IN (?,?) ORDER BY id",
            ino,
            int(Op.WRITE),
            int(Op.SIZE),
        )

    def _entries(self, sql: str, *args: Any) -> list[Entry]:
        rows = self._db.execute(sql, args).fetchall()
        if not rows:
            return []
        ids, ops, *rest = zip(*rows, strict=True)  # by column: a loop over rows costs twice as much
        columns = zip(ids, [_OPS[op] for op in ops], *rest, strict=True)
        return list(map(tuple.__new__, repeat(Entry), columns))

    # -- inodes and names ------------------------------------------------------------------------

    def row(self, ino: int) -> Row | None:
        found = self._db.execute(f"SELECT {_ROW} FROM inode WHERE ino=?", (ino,)).fetchone()
        return None if found is None else Row._make(found)

    def objects(self, after: int, limit: int, *, changed: bool = False) -> list[Object]:
        """What there is with a larger inode number than `after`, in order; with `changed`, only
        what has changed since its last retired entry."""
        only = "AND nlink>0 AND changed>retired" if changed else ""
        return self._objects(f"ino>? {only} ORDER BY ino LIMIT ?", after, limit)

    def objects_among(self, inos: Iterable[int]) -> list[Object]:
        """What there is of some inodes, in order."""
        among = "ino IN (SELECT value FROM json_each(?)) ORDER BY ino"
        return self._objects(among, json.dumps(list(inos)))

    def _objects(self, where: str, *values: Any) -> list[Object]:
        with self.snapshot():
            rows = self._db.execute(
                "SELECT ino, mode, size, whole FROM inode"
                f" WHERE ino<>{UNLINKED} AND {_AT_HOME} AND {where}",
                values,
            ).fetchall()
            partial = {row[0]: 0 for row in rows if not row[3]}
            if partial:
                for ino, bits in self._db.execute(
                    "SELECT ino, bits FROM blockmap WHERE ino BETWEEN ? AND ?",
                    (min(partial), max(partial)),
                ):
                    if ino in partial:
                        partial[ino] += bitmap.number(bits) * self.block
        data = (
            0 if not stat.S_ISREG(mode) else size if whole else min(size, partial[ino])
            for ino, mode, size, whole in rows
        )
        return [Object(row[0], row[1], size) for row, size in zip(rows, data, strict=True)]

    def rows(self, inos: Iterable[int]) -> dict[int, Row]:
        """The rows of many inodes; one that cache.db no longer has is missing."""
        wanted = sorted(set(inos))
        if not wanted:
            return {}
        if wanted[-1] - wanted[0] < 2 * len(wanted):
            found = self._db.execute(
                f"SELECT {_ROW} FROM inode WHERE ino BETWEEN ? AND ?", (wanted[0], wanted[-1])
            ).fetchall()
        else:
            found = self._db.execute(
                f"SELECT {_ROW} FROM inode WHERE ino IN (SELECT value FROM json_each(?))",
                (json.dumps(wanted),),
            ).fetchall()
        return dict(zip((r[0] for r in found), map(tuple.__new__, repeat(Row), found), strict=True))

    def names(self, ino: int) -> list[Place]:
        """The inode's present names."""
        return self._db.execute("SELECT parent, name FROM dentry WHERE ino=?", (ino,)).fetchall()

    def child(self, parent: int, name: bytes) -> int | None:
        """The inode that a directory has under a name. Reads all of its names: not for a loop."""
        row = self._db.execute(
            "SELECT ino FROM dentry WHERE parent=? AND name=?", (parent, name)
        ).fetchone()
        return None if row is None else row[0]

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        return dict(
            self._db.execute("SELECT name, value FROM xattr WHERE ino=?", (ino,)).fetchall()
        )

    def unheld(self, ino: int) -> int | None:
        """The errno with which home refused for good to hold the object or one of its names."""
        row = self._db.execute(
            f"SELECT errno FROM unrepresentable WHERE ino=? AND op<={_LAST_NAME_OP}", (ino,)
        ).fetchone()
        return None if row is None else row[0]

    def is_pending(self, ino: int) -> bool:
        """Whether any entry of the inode but of bytes written is pending."""
        row = self._db.execute(
            "SELECT 1 FROM queue WHERE ino=? AND op<>6 LIMIT 1", (ino,)
        ).fetchone()
        return row is not None

    def is_resized(self, ino: int) -> bool:
        """Whether a size of the inode is pending."""
        row = self._db.execute(
            "SELECT 1 FROM queue WHERE ino=? AND op<>6 AND op=? LIMIT 1", (ino, int(Op.SIZE))
        ).fetchone()
        return row is not None

    def pending_xattrs(self, ino: int) -> frozenset[bytes]:
        """Names of extended attributes that were set or removed, which is pending."""
        rows = self._db.execute(
            "SELECT name FROM queue WHERE ino=? AND op<>6 AND op=?", (ino, int(Op.XATTR))
        )
        return frozenset(name for (name,) in rows)

    def known_as(self, home_ino: int) -> list[int]:
        """The inodes of which home's file of this number is a version. Looks at all of them: for
        rare cases."""
        rows = self._db.execute(
            "SELECT ino FROM inode WHERE home_ino=? AND nlink>0"
            " AND NOT EXISTS (SELECT 1 FROM lost WHERE lost.ino=inode.ino)",
            (home_ino,),
        )
        return [ino for (ino,) in rows]

    def is_lost(self, ino: int) -> bool:
        """Whether home has lost a file of which nothing is cached."""
        row = self._db.execute("SELECT 1 FROM lost WHERE ino=?", (ino,)).fetchone()
        return row is not None

    def setting(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM fileset WHERE key=?", (key,)).fetchone()
        return None if row is None else row[0]

    # -- content ---------------------------------------------------------------------------------

    def sources(self, ino: int, ranges: Ranges, row: Row | None = None) -> Sources | None:
        """Where the bytes of `ranges` come from; None if the inode is gone.

        `row` saves a query where it is that of a whole file. Otherwise the row and its map are read
        in one transaction: a file that became whole in between has an empty map.
        """
        if row is not None and row.whole:
            return _of_whole(row, ranges)
        with self.snapshot():
            row = self.row(ino)
            if row is None or row.whole:
                return None if row is None else _of_whole(row, ranges)
            valid = union(
                part
                for start, end in cut(ranges, row.size)
                for part in within(self._valid(ino, start, end), start, end)
            )
            known = min(row.home_valid, row.size)
            here = union([*valid, *self.lost_bytes(ino)]) if row.size > known else valid
        zeros = [
            gap
            for start, end in ranges
            if end > known
            for gap in gaps(here, max(start, known), end)
        ]
        return Sources(row, valid, tuple(zeros))

    def lost_bytes(self, ino: int) -> Ranges:
        """Bytes that were only here, and are gone: nothing is sent in their place."""
        return union(self._db.execute("SELECT start, end FROM damaged WHERE ino=?", (ino,)))

    def _valid(self, ino: int, start: int, end: int) -> Ranges:
        """Runs of valid bytes that touch [start, end), by the block map and the spans."""
        block = self.block
        among = touched(start, end, block)
        chunks = bitmap.chunks(among)
        found: list[tuple[int, int]] = []
        for chunk, stored, crc in self._db.execute(
            _MAP, (ino, chunks.start, chunks.stop)
        ).fetchall():
            _vouch(ino, chunk, stored, crc)
            for a, b in bitmap.cached(chunk, stored, among):
                found.append((a * block, b * block))
        for a, b, crc in self._db.execute(
            "SELECT start, end, crc FROM span WHERE ino=? AND start>=? AND start<?",
            (ino, start - start % block, end),
        ).fetchall():
            _vouch(ino, a, b, crc)
            found.append((a, b))
        return union(found)

    def open_blob(self, ino: int, gen: int) -> int | None:
        """A new descriptor of a blob; None if it does not exist (all its bytes are zeros, or it was
        replaced by another generation)."""
        if not gen:
            return None
        try:
            return os.open(
                blob_name(gen), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._blobs
            )
        except FileNotFoundError:
            return None


def _of_whole(row: Row, ranges: Ranges) -> Sources:
    """A whole file: all below its size is in the blob, the rest was cut off since."""
    if not ranges or ranges[-1][1] <= row.size:
        return Sources(row, ranges, ())
    return Sources(row, cut(ranges, row.size), within(ranges, row.size, ranges[-1][1]))


def _vouch(ino: int, place: int, content: bytes | int, crc: int) -> None:
    """Nothing is sent by a map that is not what was written."""
    if crc != row_sum(ino, place, content):
        raise BadRow(f"the map of inode {ino} is not what was written")
