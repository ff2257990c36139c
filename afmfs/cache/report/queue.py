"""The listing of what is pending: one JSON object a line, in queue order, with paths.

Read through read-only connections of its own, a page at a time by number: ten million entries cost
no memory, and no transaction is held from one page to the next (the WAL could not be cut back), so
a listing is a walk over a living queue, not a snapshot. An entry that goes in between is left out.

Fields of a line:

id, op            number, and AFM's name of the operation
path, new_path    relative to the fileset's root ("." is the root itself); new_path for Rename, Link
                  and Exchange alike where a second name is part of it. Bytes that are not UTF-8 are
                  surrogates (U+DC80 + byte - 0x80), and path_hex, new_path_hex have all the bytes.
                  null where nothing is known any more of the place.
ino, start, end   bytes [start, end) of a Write; `end` is the size that a Truncate sets, `size` the
size              bytes that a Write covers
queued            RFC 3339; age_seconds from then
state             pending; executing: in the batch under way, or in doubt after an interruption;
                  requeued: refused by home, with tries, errno, reason, next_try; executed: done at
                  home, to leave the queue with the next durable point

The priority queue comes first: what a resync, failover or recovery has still to see to. Its lines
have "queue": "priority", op (Resync, Failover, Recovery), path, ino, the bytes to push, and state:
waiting, running, or requeued as above.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from afmfs.cache.store.schema import ENTRY_COLUMNS
from afmfs.model.entry import DATA_OPS, ROOT, UNLINKED, Entry, Op, describe
from afmfs.model.paths import path_fields

PAGE = 500
"""Entries read at a time."""

_DEPTH = 4096
"""Ancestors followed before a path is given up: rows read one by one may contradict each other."""


def pages(
    cache: sqlite3.Connection,
    gateway: sqlite3.Connection | None,
    *,
    now_ns: int,
    page: int = PAGE,
) -> Iterator[list[bytes]]:
    """The lines of the listing, each with its newline, a page at a time: the priority queue, then
    the entries, oldest first.

    `gateway` is None where there is no gateway.db yet.
    """
    if gateway is not None and has_priority(gateway):
        yield from _priority(cache, gateway, page)
    after = 0
    while entries := _entries(cache, after, page):
        after = entries[-1].id
        paths = Paths(cache)
        progress = _Progress(gateway, entries[0].id, after)
        yield [_line(entry, paths, progress, now_ns) for entry in entries]


def lines(
    cache: sqlite3.Connection, gateway: sqlite3.Connection | None, *, now_ns: int
) -> Iterator[bytes]:
    """`pages`, one line at a time."""
    for page in pages(cache, gateway, now_ns=now_ns):
        yield from page


def _entries(cache: sqlite3.Connection, after: int, limit: int) -> list[Entry]:
    rows = cache.execute(
        f"SELECT {ENTRY_COLUMNS} FROM queue WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()
    return [Entry(row[0], Op(row[1]), *row[2:]) for row in rows]


def has_priority(gateway: sqlite3.Connection) -> bool:
    """Not so where an older version has left it."""
    found = gateway.execute("SELECT 1 FROM sqlite_master WHERE name='priority'").fetchone()
    return found is not None


def _priority(
    cache: sqlite3.Connection, gateway: sqlite3.Connection, page: int
) -> Iterator[list[bytes]]:
    """What the job has still to see to, in the order in which it does."""
    job = gateway.execute("SELECT record FROM job").fetchone()
    op = str(json.loads(job[0])["kind"]).capitalize() if job else ""
    after = -1
    while rows := gateway.execute(
        "SELECT n, ino, bytes, verdict, errno, reason, tries, next_try_ns FROM priority"
        " WHERE n > ? ORDER BY n LIMIT ?",
        (after, page),
    ).fetchall():
        after = rows[-1][0]
        paths = Paths(cache)
        lines = []
        for _, ino, size, verdict, *refused in rows:
            fields: dict[str, Any] = {"queue": "priority", "op": op}
            fields |= path_fields("path", paths.of(ino)) | {"ino": ino, "bytes": size}
            if refused[0] is not None:
                fields |= _refused(*refused)
            else:
                fields["state"] = "running" if verdict else "waiting"
            lines.append(json.dumps(fields).encode() + b"\n")
        yield lines


def _line(entry: Entry, paths: Paths, progress: _Progress, now_ns: int) -> bytes:
    fields: dict[str, Any] = {"id": entry.id, "op": describe(entry.op, entry.kind)}
    old, new = _places(entry, paths)
    fields |= path_fields("path", old)
    if entry.parent2 is not None:
        fields |= path_fields("new_path", new)
    fields["ino"] = entry.ino
    if entry.op in (Op.WRITE, Op.SIZE):
        fields |= {"start": entry.start, "end": entry.end}
    if entry.op is Op.WRITE:
        fields["size"] = entry.end - entry.start
    fields["queued"] = rfc3339(entry.queued_ns)
    fields["age_seconds"] = round(max(0, now_ns - entry.queued_ns) / 1e9, 3)
    fields |= progress.of(entry.id)
    return json.dumps(fields).encode() + b"\n"


def rfc3339(time_ns: int) -> str:
    """Wall-clock nanoseconds as UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- paths ---------------------------------------------------------------------------------------


def _places(entry: Entry, paths: Paths) -> tuple[bytes | None, bytes | None]:
    """Where an entry is about: the names of then, in the directories of now."""
    if entry.op in DATA_OPS or entry.parent is None:
        return paths.of(entry.ino), None
    first = paths.join(entry.parent, entry.name)
    return first, None if entry.parent2 is None else paths.join(entry.parent2, entry.name2)


class Paths:
    """Present paths of inodes; of what has no name any more the one that it had last."""

    def __init__(self, cache: sqlite3.Connection) -> None:
        self._cache = cache
        self._parents: dict[int, tuple[int, bytes] | None] = {}

    def of(self, ino: int) -> bytes | None:
        names: list[bytes] = []
        while ino != ROOT:
            if ino == UNLINKED:
                names.append(b".afm/unlinked")
                break
            place = self._place(ino)
            if place is None or len(names) == _DEPTH:
                return None
            ino, name = place
            names.append(name)
        return b"/".join(reversed(names)) or b"."

    def join(self, parent: int, name: bytes | None) -> bytes | None:
        above = self.of(parent)
        if above is None or name is None:
            return None
        return name if above == b"." else above + b"/" + name

    def _place(self, ino: int) -> tuple[int, bytes] | None:
        if ino not in self._parents:
            self._parents[ino] = self._present(ino) or self._former(ino)
        return self._parents[ino]

    def _present(self, ino: int) -> tuple[int, bytes] | None:
        row = self._cache.execute(
            "SELECT parent, name FROM dentry WHERE ino=? ORDER BY parent, cookie LIMIT 1", (ino,)
        ).fetchone()
        return row and (row[0], row[1])

    def _former(self, ino: int) -> tuple[int, bytes] | None:
        """The last name that a pending entry takes from `ino`: it was removed, or replaced."""
        removed = self._cache.execute(
            "SELECT id, parent, name FROM queue WHERE ino=? AND op<>6 AND op=?"
            " ORDER BY id DESC LIMIT 1",
            (ino, int(Op.REMOVE)),
        ).fetchone()
        replaced = self._cache.execute(
            "SELECT id, parent2, name2 FROM queue WHERE ino2=? AND op=? ORDER BY id DESC LIMIT 1",
            (ino, int(Op.RENAME)),
        ).fetchone()
        rows = [row for row in (removed, replaced) if row]
        return max(rows)[1:] if rows else None


# -- what the gateway knows ----------------------------------------------------------------------


class _Progress:
    """The gateway's view of the entries [first, last]."""

    def __init__(self, gateway: sqlite3.Connection | None, first: int, last: int) -> None:
        self._flight: set[int] = set()
        self._executed: set[int] = set()
        self._requeued: dict[int, tuple[int | None, str | bytes, int, int]] = {}
        if gateway is None:
            return
        span = (first, last)
        within = "WHERE id BETWEEN ? AND ?"
        self._flight.update(i for (i,) in gateway.execute(f"SELECT id FROM flight {within}", span))
        self._executed.update(
            i for (i,) in gateway.execute(f"SELECT id FROM outcome {within}", span)
        )
        for number, *rest in gateway.execute(
            f"SELECT id, errno, reason, tries, next_try_ns FROM requeued {within}", span
        ):
            self._requeued[number] = (rest[0], rest[1], rest[2], rest[3])

    def of(self, number: int) -> dict[str, Any]:
        if number in self._executed:
            return {"state": "executed"}
        if number in self._requeued:
            return _refused(*self._requeued[number])
        return {"state": "executing" if number in self._flight else "pending"}


def _refused(
    code: int | None, reason: str | bytes, tries: int, next_try_ns: int | None
) -> dict[str, Any]:
    return {
        "state": "requeued",
        "tries": tries,
        "errno": errno.errorcode.get(code, str(code)) if code else None,
        "reason": os.fsdecode(reason),  # a blob where a name in it is not UTF-8
        "next_try": rfc3339(next_try_ns) if next_try_ns else None,
    }
