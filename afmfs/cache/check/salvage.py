"""A new cache.db of all that can be read of a damaged one, which is kept.

Each table is read in the order of its key, from both ends and from anywhere between where pages in
the middle can't be read. Where the command sqlite3 is installed, its `.recover` adds rows of pages
that nothing leads to any more. What the rows say is judged afterwards, by the check.

The old files get names of their own before the new one takes their place, and a note (`TROUBLE`)
keeps the cache from being mounted in between.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from afmfs.cache.store import connect, connect_read_only, create

log = logging.getLogger(__name__)

TROUBLE = "damaged"
"""File in a cache: what is wrong with its database, as long as that is so."""

_KEYS = {
    "fileset": ("key",),
    "inode": ("ino",),
    "dentry": ("parent", "cookie"),
    "blockmap": ("ino", "chunk"),
    "span": ("ino", "start"),
    "fresh": ("rowid",),
    "reclaim": ("ino", "gen"),
    "queue": ("id",),
    "xattr": ("ino", "name"),
    "homelink": ("home_ino",),
    "unrepresentable": ("ino", "op"),
    "event": ("id",),
    "counters": ("rowid",),
    "lost": ("ino",),
    "used": ("ino",),
    "damaged": ("ino", "start"),
}
"""Each table, and the key by which it is stored."""

PAGE = 500
_RECOVER_S = 3600.0
_LEAPS = 64
"""Keys tried beyond what can't be read, each twice as far as the one before."""


def rebuild(cache: Path) -> None:
    """Put a new database in the place of the damaged one. Durable on return."""
    path, new = cache / "cache.db", cache / "cache.db.new"
    (cache / TROUBLE).write_text("cache.db is being rebuilt: `afmctl CACHE check --repair`\n")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    with closing(connect(new)) as db:
        create(db)
        db.execute("DELETE FROM counters")
        if path.exists():
            _fill(db, path)
        if not db.execute("SELECT 1 FROM counters").fetchone():
            # Nobody knows how many entries there were: one is counted that is not there.
            db.execute("INSERT INTO counters SELECT count(*) + 1, 0, 0, 0 FROM queue")
    _sync(new)
    kept = _kept(path)
    if path.exists():
        os.link(path, kept)
    # The log goes before the database that it does not belong to comes.
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{kept}{suffix}")
    os.rename(new, path)
    _sync(cache)
    (cache / TROUBLE).unlink()
    _sync(cache)


def keep_log(cache: Path) -> None:
    """Keep a copy of a log that SQLite takes for none, and will write over."""
    path = cache / "cache.db"
    shutil.copyfile(f"{path}-wal", f"{_kept(path)}-wal")


def _kept(path: Path) -> Path:
    """A name for what is set aside."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept, number = path.with_name(f"{path.name}.damaged-{stamp}"), 1
    while os.path.lexists(kept) or os.path.lexists(f"{kept}-wal"):
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    return kept


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- reading what can be read --------------------------------------------------------------------


def _fill(db: sqlite3.Connection, damaged: Path) -> None:
    whole = True
    try:
        with closing(connect_read_only(damaged)) as source:
            for table, key in _KEYS.items():
                whole &= _copy(db, source, table, key)
    except sqlite3.DatabaseError as exc:
        log.warning("%s can't be read as a database: %s", damaged, exc)
        whole = False
    if not whole:
        with suppress(OSError, sqlite3.Error, subprocess.SubprocessError):
            _recover(db, damaged)


def _copy(
    db: sqlite3.Connection, source: sqlite3.Connection, table: str, key: Sequence[str]
) -> bool:
    """Whether all of the table could be read."""
    try:
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        columns = ", ".join(f'"{name}"' for name in names)
        put = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({','.join('?' * len(names))})"
        reader = _Reader(source, table, key, columns)
        for rows in reader.pages():
            db.execute("BEGIN")
            db.executemany(put, rows)
            db.execute("COMMIT")
    except sqlite3.DatabaseError as exc:
        log.warning("table %s: %s", table, exc)
        return False
    return reader.whole


class _Reader:
    """The rows of a table, around what can't be read."""

    def __init__(
        self, source: sqlite3.Connection, table: str, key: Sequence[str], columns: str
    ) -> None:
        self._source, self._width = source, len(key)
        self._sql = f"SELECT {', '.join(key)}, {columns} FROM {table} NOT INDEXED"
        self._key = ", ".join(key)
        self._marks = ",".join("?" * len(key))
        self.whole = True

    def pages(self) -> Iterator[list[Any]]:
        after: tuple[Any, ...] | None = None
        while True:
            rows, ended = self._page(after, ascending=True)
            if rows:
                after = rows[-1][: self._width]
                yield self._bare(rows)
            if ended:
                return
            if not rows or len(rows) < PAGE:
                break
        self.whole = False
        yield from self._leap(after)
        yield from self._backwards(after)

    def _bare(self, rows: list[Any]) -> list[Any]:
        return [row[self._width :] for row in rows]

    def _page(self, after: tuple[Any, ...] | None, *, ascending: bool) -> tuple[list[Any], bool]:
        """Rows beyond a key, as far as they can be read; and whether these were the last."""
        order = "" if ascending else " DESC"
        where = f" WHERE ({self._key}) {'>' if ascending else '<'} ({self._marks})"
        keys = ", ".join(f"{name}{order}" for name in self._key.split(", "))
        cursor = self._source.execute(
            f"{self._sql}{where if after else ''} ORDER BY {keys} LIMIT {PAGE}", after or ()
        )
        rows: list[Any] = []
        try:
            for row in cursor:
                rows.append(row)
        except sqlite3.DatabaseError:
            return rows, False
        return rows, len(rows) < PAGE

    def _backwards(self, first: tuple[Any, ...] | None) -> Iterator[list[Any]]:
        """From the end, down to what was read already or can't be."""
        before: tuple[Any, ...] | None = None
        while True:
            rows, ended = self._page(before, ascending=False)
            if first is not None:
                rows = [row for row in rows if row[: self._width] > first]
            yield self._bare(rows)
            if ended or len(rows) < PAGE:
                return
            before = rows[-1][: self._width]

    def _leap(self, after: tuple[Any, ...] | None) -> Iterator[list[Any]]:
        """From places beyond what can't be read, where the first column of the key is a number."""
        low = after[0] if after and type(after[0]) is int else 0
        for leap in range(_LEAPS):
            beyond = low + (1 << leap)
            if beyond >= 1 << 62:
                return
            key: tuple[Any, ...] = (beyond, *[-(1 << 62)] * (self._width - 1))
            while True:
                rows, ended = self._page(key, ascending=True)
                yield self._bare(rows)
                if ended or len(rows) < PAGE:
                    break
                key = rows[-1][: self._width]
                low = max(low, key[0])
            if ended:
                return


# -- rows that nothing leads to ------------------------------------------------------------------


def _recover(db: sqlite3.Connection, damaged: Path) -> None:
    """Add what the command sqlite3 recovers, where it is installed."""
    command = shutil.which("sqlite3")
    if command is None:
        return
    found = damaged.with_name("cache.db.recovered")
    found.unlink(missing_ok=True)
    try:
        dump = subprocess.Popen(
            [command, "-readonly", str(damaged), ".recover --ignore-freelist"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        with dump:
            subprocess.run(
                [command, str(found)], stdin=dump.stdout, check=False, timeout=_RECOVER_S,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        with closing(connect_read_only(found)) as source:
            for table, key in _KEYS.items():
                if table != "counters":
                    _copy(db, source, table, key)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{found}{suffix}").unlink(missing_ok=True)
