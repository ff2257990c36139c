"""What a comparison with home reads of the databases, a page at a time.

Through a connection of its own: to a database without a name, for what has to be remembered of one
directory or of the queue, with cache.db and gateway.db beside it, read-only. So memory stays flat,
and what is known can be told from what is not by one statement. No statement is left open, so no
read transaction outlives a call.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from afmfs.gateway.state.view import LISTED, Row
from afmfs.model.entry import ROOT, UNLINKED, Op, describe
from afmfs.model.ranges import Ranges, cut, difference, union
from afmfs.model.resync import GROWN

PAGE = 256
"""Inodes or names read at a time."""

UNREPRESENTABLE, LOST, NULLED = "unrepresentable", "lost", "nulled"
"""What may be on record of an inode."""

_QUEUE_PAGE = 20_000
"""Numbers of entries looked through in one statement."""

_DEPTH = 4096

_SCHEMA = """
CREATE TABLE found (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pending (parent, name BLOB, id, PRIMARY KEY (parent, name, id)) WITHOUT ROWID;
CREATE TABLE dirty (ino, id, op, start, end, PRIMARY KEY (ino, id)) WITHOUT ROWID;
"""
# found: the names that home has in one directory. pending: names that entries of the queue make,
# free or move; dirty: bytes and sizes that they set. The queue has no index for either. What has
# left the queue since stays here, and is told by that.

_COLUMNS = ", ".join(Row._fields)
_NAMED = f"op BETWEEN {int(Op.MAKE)} AND {int(Op.EXCHANGE)}"


class Known(NamedTuple):
    """An inode as the cache has it."""

    row: Row

    @property
    def listed(self) -> bool:
        """Of a directory: all its names are known."""
        return self.row.listed == LISTED

    @property
    def ino(self) -> int:
        return self.row.ino


class Remark(NamedTuple):
    """Something that is on record of an inode, without a look at home."""

    ino: int
    difference: str
    fields: dict[str, Any]
    op: int = 0  # that home can't hold


class Survey:
    """For one thread. `directory` is the gateway's own; nothing stays there."""

    def __init__(self, cache: Path, directory: Path) -> None:
        path = directory / "survey"
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(_uri(path, "rwc"), uri=True, isolation_level=None, timeout=10)
        try:
            self._db.execute("PRAGMA journal_mode=OFF")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_SCHEMA)
            self._db.execute("ATTACH ? AS cache", (_uri(cache / "cache.db", "ro"),))
            self._db.execute("ATTACH ? AS gateway", (_uri(directory / "gateway.db", "ro"),))
        except BaseException:
            self._db.close()
            raise
        finally:
            path.unlink(missing_ok=True)  # it goes with the connection
        self._names_through = self._bytes_through = 0  # entries up to here are in the tables

    def close(self) -> None:
        self._db.close()

    # -- inodes ----------------------------------------------------------------------------------

    def everything(self) -> Iterator[list[Known]]:
        """All inodes, by number."""
        after = 0
        while found := self._known(
            f"SELECT {_COLUMNS} FROM cache.inode WHERE ino>? AND ino<>{UNLINKED}"
            " ORDER BY ino LIMIT ?",
            after,
            PAGE,
        ):
            yield found
            after = found[-1].ino

    def subtree(self, top: int) -> Iterator[list[Known]]:
        """An inode and all below it, each once."""
        first = self.known([top])
        yield first
        waiting = [(known.ino, 0) for known in first if _is_directory(known)]
        met: set[int] = set()  # what may have several names
        while waiting:
            directory, after = waiting.pop()
            names = self._db.execute(
                "SELECT cookie, ino FROM cache.dentry WHERE parent=? AND cookie>?"
                " ORDER BY cookie LIMIT ?",
                (directory, after, PAGE),
            ).fetchall()
            if not names:
                continue
            waiting.append((directory, names[-1][0]))
            found = [k for k in self.known({ino for _, ino in names}) if k.ino not in met]
            met.update(k.ino for k in found if k.row.nlink > 1 and not _is_directory(k))
            waiting += [(known.ino, 0) for known in found if _is_directory(known)]
            yield found

    def known(self, inos: Iterable[int]) -> list[Known]:
        """The inodes of these that there still are."""
        return self._known(
            f"SELECT {_COLUMNS} FROM cache.inode WHERE ino IN (SELECT value FROM json_each(?))",
            json.dumps([*inos]),
        )

    def _known(self, sql: str, *args: Any) -> list[Known]:
        rows = self._db.execute(sql, args).fetchall()
        return [Known(Row(*row)) for row in rows]

    def path(self, ino: int) -> bytes | None:
        """The present path of an inode, by its first name; None if it has none."""
        names: list[bytes] = []
        while ino != ROOT:
            row = self._db.execute(
                "SELECT parent, name FROM cache.dentry WHERE ino=? ORDER BY parent, cookie LIMIT 1",
                (ino,),
            ).fetchone()
            if row is None or len(names) == _DEPTH:
                return None
            ino = row[0]
            names.append(row[1])
            if ino == UNLINKED:
                names.append(b".afm/unlinked")
                break
        return b"/".join(reversed(names)) or b"."

    # -- what is on record -----------------------------------------------------------------------

    def unsettled(self, known: Sequence[Known]) -> set[int]:
        """Those with an entry that is not retired: what differs of them may be pending."""
        inos = json.dumps([k.ino for k in known])
        # A later entry may be retired while home refuses an earlier one, or that is in doubt.
        rows = self._db.execute(
            "SELECT q.ino FROM"
            " (SELECT id FROM gateway.requeued UNION SELECT id FROM gateway.flight)"
            " JOIN cache.queue q USING (id) WHERE q.ino IN (SELECT value FROM json_each(?))",
            (inos,),
        ).fetchall()
        late = {k.ino for k in known if k.row.changed > k.row.retired}
        return late.union(ino for (ino,) in rows)

    def remarks(self, known: Sequence[Known]) -> list[Remark]:
        """What is lost, nulled, or can't be represented."""
        kinds = {k.ino: stat.S_IFMT(k.row.mode) for k in known}
        inos = json.dumps([*kinds])
        those = "ino IN (SELECT value FROM json_each(?)) ORDER BY ino"
        found = [
            Remark(ino, UNREPRESENTABLE, _refused(op, kinds[ino], code), op)
            for ino, op, code in self._db.execute(
                f"SELECT ino, op, errno FROM cache.unrepresentable WHERE {those}, op", (inos,)
            ).fetchall()
        ]
        found += [
            Remark(ino, LOST, {"job": job})
            for ino, job in self._db.execute(
                f"SELECT ino, job FROM cache.lost WHERE {those}", (inos,)
            ).fetchall()
        ]
        found += [
            Remark(ino, NULLED, {"start": start, "end": end, "job": job, "trash": trash})
            for ino, start, end, job, trash in self._db.execute(
                "SELECT ino, start, end, job, trash FROM gateway.nulled"
                f" WHERE job>? AND {those}, start",
                (GROWN, inos),
            ).fetchall()
        ]
        return found

    # -- directories -----------------------------------------------------------------------------

    def names_change(self, directory: int) -> bool:
        """Whether an entry that is still in the queue makes, frees or moves a name in it."""
        self._follow_names()
        return (
            self._db.execute(
                "SELECT 1 FROM pending JOIN cache.queue USING (id) WHERE pending.parent=? LIMIT 1",
                (directory,),
            ).fetchone()
            is not None
        )

    def note(self, names: Iterable[bytes]) -> None:
        """Names that home has in a directory; see `unknown`."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO found VALUES (?)", ((n,) for n in names))
        self._db.execute("COMMIT")

    def forget_noted(self) -> None:
        self._db.execute("DELETE FROM found")

    def unknown(self, directory: int) -> Iterator[list[bytes]]:
        """Those of the noted names that the cache neither has nor is about to take away or move.

        Names are looked up first and pending entries second: what is freed here in between is
        pending by then, or gone from home.
        """
        self._db.execute(
            "DELETE FROM found WHERE name IN (SELECT name FROM cache.dentry WHERE parent=?)",
            (directory,),
        )
        if self._db.execute("SELECT 1 FROM found LIMIT 1").fetchone() is None:
            return
        self._follow_names()
        self._db.execute(
            "DELETE FROM found WHERE name IN (SELECT pending.name FROM pending"
            " JOIN cache.queue USING (id) WHERE pending.parent=?)",
            (directory,),
        )
        last = b""
        while rows := self._db.execute(
            "SELECT name FROM found WHERE name>? ORDER BY name LIMIT ?", (last, PAGE)
        ).fetchall():
            yield [name for (name,) in rows]
            last = rows[-1][0]

    def _follow_names(self) -> None:
        for span in self._windows(self._names_through):
            for parent, name in (("parent", "name"), ("parent2", "name2")):
                self._db.execute(
                    f"INSERT OR IGNORE INTO pending SELECT {parent}, {name}, id FROM cache.queue"
                    f" WHERE id BETWEEN ? AND ? AND {_NAMED} AND {parent} IS NOT NULL",
                    span,
                )
            self._names_through = span[1]

    # -- bytes -----------------------------------------------------------------------------------

    def settled(self, ino: int, ranges: Ranges) -> Ranges:
        """`ranges` without what entries of the queue cover.

        To be asked for bytes that were found valid before: an entry that is gone by now is at home.
        """
        for span in self._windows(self._bytes_through):
            self._db.execute(
                'INSERT OR IGNORE INTO dirty SELECT ino, id, op, start, "end" FROM cache.queue'
                f" WHERE id BETWEEN ? AND ? AND op IN ({int(Op.WRITE)}, {int(Op.SIZE)})",
                span,
            )
            self._bytes_through = span[1]
        if not ranges:
            return ()
        (size,) = self._db.execute(
            'SELECT min(dirty."end") FROM dirty JOIN cache.queue USING (id)'
            " WHERE dirty.ino=? AND dirty.op=?",
            (ino, int(Op.SIZE)),
        ).fetchone()
        written = self._db.execute(
            'SELECT dirty.start, dirty."end" FROM dirty JOIN cache.queue USING (id)'
            ' WHERE dirty.ino=? AND dirty.op=? AND dirty.start<? AND dirty."end">?',
            (ino, int(Op.WRITE), ranges[-1][1], ranges[0][0]),
        ).fetchall()
        clean = difference(ranges, union(written))
        return clean if size is None else cut(clean, size)

    def _windows(self, through: int) -> Iterator[tuple[int, int]]:
        """The entries after `through`, as spans of numbers that one short statement takes in."""
        (newest,) = self._db.execute("SELECT ifnull(max(id), 0) FROM cache.queue").fetchone()
        while through < newest:
            (first,) = self._db.execute(
                "SELECT min(id) FROM cache.queue WHERE id>?", (through,)
            ).fetchone()
            if first is None:
                return
            span = first, min(first + _QUEUE_PAGE - 1, newest)
            through = span[1]
            yield span


def _is_directory(known: Known) -> bool:
    return stat.S_ISDIR(known.row.mode)


def _refused(op: int, kind: int, code: int) -> dict[str, Any]:
    return {"op": describe(Op(op), kind), "errno": errno.errorcode.get(code, str(code))}


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"
