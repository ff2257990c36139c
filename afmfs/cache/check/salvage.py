"""A new cache.db of all that can be read of a damaged one, which is kept.

Each table is read in the order of its key, as far as SQLite gets. Of one that can't be read to its
end, the pages are searched for what can be its rows (`pages`). What the rows say is judged by the
check afterwards.

The old files get names of their own before the new one takes their place, and a note
(`harm`) keeps the cache from being mounted before the repair has come to its end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from afmfs.cache.check.owed import KEY, decoded
from afmfs.cache.check.pages import Pages, Record
from afmfs.cache.content.harm import Note, read_note, write_note
from afmfs.cache.store.schema import BAD_ROWS
from afmfs.cache.store.store import PAGE_SIZE, connect, connect_read_only, create, with_row_sum
from afmfs.model import bitmap
from afmfs.model.row_sum import row_sum
from afmfs.model.soundness import entry_fault, is_inode, is_name

log = logging.getLogger(__name__)

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


def rebuild(cache: Path) -> None:
    """Put a new database in the place of the damaged one. Durable on return."""
    path, new = cache / "cache.db", cache / "cache.db.new"
    note = Note("a repair of cache.db did not come to its end", True, time.time_ns())
    write_note(cache, read_note(cache) or note)
    _remove(new)
    incomplete = set(_KEYS)
    with closing(connect(new)) as db:
        create(db)
        db.execute("DELETE FROM counters")
        if path.exists():
            incomplete = _fill(db, path)
        _note(db, incomplete)
        if not db.execute("SELECT 1 FROM counters").fetchone():
            # Nobody knows how many entries there were: one is counted that is not there.
            db.execute("INSERT INTO counters SELECT count(*) + 1, 0, 0, 0 FROM queue")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _sync(new)
    _exchange(path, new)


def _note(db: sqlite3.Connection, incomplete: set[str]) -> None:
    """The tables of which rows may be missing: of the new database nobody can tell any more."""
    row = db.execute("SELECT value FROM fileset WHERE key=?", (KEY,)).fetchone()
    known = decoded(row and row[0])
    known["incomplete"] = sorted(incomplete | {*known.get("incomplete", ())})
    db.execute("INSERT OR REPLACE INTO fileset VALUES (?,?)", (KEY, json.dumps(known)))


def _exchange(path: Path, new: Path) -> None:
    kept = _kept(path)
    if path.exists():
        os.link(path, kept)
    # The log goes before the database that it does not belong to comes.
    with suppress(FileNotFoundError):
        os.rename(f"{path}-wal", f"{kept}-wal")
    Path(f"{path}-shm").unlink(missing_ok=True)
    os.rename(new, path)
    _sync(path.parent)


def undo_exchange(cache: Path) -> None:
    """A repair that was killed in `_exchange` has left the old database in its place, and its log
    beside the kept one: without that, what is in the log would be lost with the next repair."""
    path = cache / "cache.db"
    log_file = Path(f"{path}-wal")
    for kept in cache.glob("cache.db.damaged-*Z*-wal"):
        database = kept.with_name(kept.name.removesuffix("-wal"))
        interrupted = path.exists() and database.exists() and database.samefile(path)
        if interrupted and not (log_file.exists() and log_file.stat().st_size):
            Path(f"{path}-shm").unlink(missing_ok=True)
            os.rename(kept, log_file)
            _sync(cache)


def mend_counters(cache: Path) -> None:
    """One row of counters, which say what is in the queue; the rest is counted later."""
    with closing(connect(cache / "cache.db")) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM counters")
        db.execute(
            'INSERT INTO counters SELECT 0, ifnull(sum("end" - start), 0), 0, 0'
            " FROM queue WHERE op=6"
        )
        db.execute("UPDATE counters SET queue_length=(SELECT count(*) FROM queue)")
        db.execute("COMMIT")


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


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- by SQLite -----------------------------------------------------------------------------------


def _fill(db: sqlite3.Connection, damaged: Path) -> set[str]:
    """The tables that could not be read to their end."""
    incomplete = set(_KEYS)
    try:
        with closing(connect_read_only(damaged)) as source:
            for table, key in _KEYS.items():
                if _copy(db, source, table, key):
                    incomplete.discard(table)
    except sqlite3.DatabaseError as exc:
        log.warning("%s can't be read as a database: %s", damaged, exc)
    for table, bad in BAD_ROWS.items():  # so much for what SQLite could read
        if with_row_sum(db).execute(f"DELETE FROM {table} WHERE {bad}").rowcount:
            incomplete.add(table)
    if incomplete:
        _search(db, damaged, incomplete)
    return incomplete


def _copy(
    db: sqlite3.Connection, source: sqlite3.Connection, table: str, key: Sequence[str]
) -> bool:
    """Whether all of the table could be read."""
    names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    columns = ", ".join(f'"{name}"' for name in names)
    order = ", ".join(key)
    sql = f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY {order}"
    try:
        for backwards in (False, True):
            cursor = source.execute(sql.replace(order, order + " DESC") if backwards else sql)
            if _read_all(db, cursor, table):
                return not backwards
    except sqlite3.DatabaseError as exc:
        log.warning("table %s: %s", table, exc)
    return False


def _put(db: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Rows of a table, but for those that are there already, or can't be rows of it. A text may be
    of any bytes."""
    if not rows:
        return
    put = f"INSERT OR IGNORE INTO {table} VALUES ({{}})"
    try:
        db.executemany(put.format(",".join("?" * len(rows[0]))), rows)
    except (UnicodeEncodeError, sqlite3.IntegrityError):
        for row in rows:
            marks = ("CAST(? AS TEXT)" if isinstance(value, str) else "?" for value in row)
            raw = [os.fsencode(value) if isinstance(value, str) else value for value in row]
            with suppress(sqlite3.IntegrityError):
                db.execute(put.format(",".join(marks)), raw)


def _read_all(db: sqlite3.Connection, cursor: sqlite3.Cursor, table: str) -> bool:
    """Copy rows until there are no more, or one can't be read."""
    ended = whole = False
    while not ended:
        rows: list[Any] = []
        try:
            for row in cursor:
                rows.append(row)
                if len(rows) == PAGE:
                    break
            else:
                ended = whole = True
        except sqlite3.DatabaseError:
            ended = True
        db.execute("BEGIN")
        _put(db, table, rows)
        db.execute("COMMIT")
    return whole


# -- by pages ------------------------------------------------------------------------------------


def _search(db: sqlite3.Connection, damaged: Path, tables: set[str]) -> None:
    """Add what can be a row of `tables`, from a copy into which the log was moved."""
    copy = damaged.with_name("cache.db.searched")
    try:
        _remove(copy)
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{damaged}{suffix}", f"{copy}{suffix}")
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(copy)) as moved:
            moved.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with closing(Pages(copy, PAGE_SIZE)) as pages:
            db.execute("BEGIN")
            newest = _newest_inode(db)
            for table, row in _recognized(pages.records()):
                if table == "inode" and table in tables:
                    db.execute(newest, row)
                elif table in tables:
                    _put(db, table, [row])
            db.execute("COMMIT")
    except (OSError, ValueError, struct.error) as exc:
        log.warning("%s can't be searched: %s", damaged, exc)
        if db.in_transaction:
            db.execute("COMMIT")
    finally:
        _remove(copy)


def _newest_inode(db: sqlite3.Connection) -> str:
    """Puts a row of an inode, unless a newer one is there: pages that are in use no more have old
    ones."""
    names = [row[1] for row in db.execute("PRAGMA table_info(inode)")]
    sets = ",".join(f"{name}=excluded.{name}" for name in names[1:])
    return (
        f"INSERT INTO inode VALUES ({','.join('?' * len(names))}) ON CONFLICT DO UPDATE SET {sets}"
        " WHERE (excluded.changed, excluded.retired) > (inode.changed, inode.retired)"
    )


def _recognized(records: Iterator[Record]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Records that can only be rows of one table. What is left out (spans, what is to be destroyed)
    can be done without: clean bytes are fetched again."""
    for rowid, values in records:
        if rowid is not None:
            row = (rowid, *values[1:])
            if len(row) == 21 and is_inode(row):
                yield "inode", row
            elif len(row) == 13 and not entry_fault(row):
                yield "queue", row
            elif len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], str):
                yield "event", row
        else:
            table = _without_rowid(values)
            if table:
                yield table, values


def _without_rowid(values: tuple[Any, ...]) -> str:
    types = tuple(map(type, values))
    if types == (int, int, bytes, int):
        if bitmap.is_stored(values[2]) and values[3] == row_sum(*values[:3]):
            return "blockmap"
        return "dentry" if is_name(values[2]) else ""
    if types == (int, bytes, bytes):
        return "xattr"
    if len(types) == 2 and types[0] is str:
        return "fileset"
    return ""
