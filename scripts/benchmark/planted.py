"""A cache of any size in minutes: rows are planted as the mount process would have left them."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from afmfs.cache.names.namespace import cookie
from afmfs.cache.store.schema import ENTRY_COLUMNS, INODE_COLUMNS
from afmfs.cache.store.store import RESERVED
from afmfs.model.entry import ROOT, Entry, Op

PER_DIRECTORY = 1000
_STEP = 100_000


def plant(cache: Path, count: int) -> None:
    """Give an unmounted cache `count` more empty files in directories of a thousand, none of which
    home has: an inode, a name and a queue entry each. Not durable."""
    with closing(sqlite3.connect(cache / "cache.db", isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")
        first_ino = _setting(db, "ino_limit") + RESERVED
        first_entry = _setting(db, "entry_limit") + RESERVED
        end = _rows(db, count, first_ino, first_entry)
        for key, value in (("ino_limit", end[0]), ("entry_limit", end[1])):
            db.execute("INSERT OR REPLACE INTO fileset VALUES (?,?)", (key, value))
        made = end[1] - first_entry
        db.execute("UPDATE counters SET queue_length=queue_length+?, inodes=inodes+?", (made, made))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _setting(db: sqlite3.Connection, key: str) -> int:
    row = db.execute("SELECT value FROM fileset WHERE key=?", (key,)).fetchone()
    return int(row[0]) if row else 0


def _rows(db: sqlite3.Connection, count: int, ino: int, entry: int) -> tuple[int, int]:
    """Plants all rows; the numbers that follow those that were used."""
    now, objects = time.time_ns(), _objects(count, ino)
    while batch := [one for _, one in zip(range(_STEP), objects, strict=False)]:
        db.execute("BEGIN")
        inodes, names, entries = zip(
            *(_of_object(one, entry + n, now) for n, one in enumerate(batch)), strict=True
        )
        _insert(db, f"inode ({INODE_COLUMNS})", inodes)
        _insert(db, "dentry", names)
        _insert(db, f"queue ({ENTRY_COLUMNS})", entries)
        db.execute("COMMIT")
        ino, entry = batch[-1][0] + 1, entry + len(batch)
    return ino, entry


_Object = tuple[int, int, int, bytes]
"""Inode number, type bits, directory, name."""


def _objects(count: int, ino: int) -> Iterator[_Object]:
    directory = ROOT
    for n in range(count):
        if n % PER_DIRECTORY == 0:
            directory = ino
            yield ino, stat.S_IFDIR, ROOT, b"d%d" % ino
            ino += 1
        yield ino, stat.S_IFREG, directory, b"f%d" % ino
        ino += 1


def _of_object(one: _Object, entry: int, now: int) -> tuple[tuple[Any, ...], ...]:
    ino, kind, parent, name = one
    links = 2 if kind == stat.S_IFDIR else 1
    inode = (ino, kind | 0o755, 0, 0, 0, links, 0, now, now, now,
             0, 1, 0, 2, None, None, None, entry, 0, 0, None)  # fmt: skip
    made = Entry(entry, Op.MAKE, ino, kind, parent, name, queued_ns=now)
    return inode, (parent, cookie(name), name, ino), tuple(made)


def _insert(db: sqlite3.Connection, into: str, rows: tuple[tuple[Any, ...], ...]) -> None:
    places = ",".join("?" * len(rows[0]))
    db.executemany(f"INSERT INTO {into} VALUES ({places})", rows)
