"""cache.db as a file: SQLite's own check, and whether it is a cache's at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from afmfs.cache.check.pages import MAGIC
from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.tables import wanted
from afmfs.cache.store.schema import VERSION
from afmfs.cache.store.store import connect_read_only
from afmfs.errors import AfmError, is_damage
from afmfs.model.findings import Finding, Severity

MOST = 20
"""Faults of one database that are told."""

_LOGS = (0x377F0682, 0x377F0683)

DAMAGED, LOG, COUNTERS = "damaged database", "damaged log", "counter"

_REBUILT = "all that can be read is copied into a new database, and the old one is kept"


OLD = "what home has as well is fetched again"


class Unusable(AfmError):
    """Nothing but the file itself can be checked."""


def open_for_check(cache: Path) -> sqlite3.Connection:
    """A reading connection. Unusable where there is no database of a cache to be read."""
    path = cache / "cache.db"
    trouble = _file_trouble(path)
    if trouble:
        raise Unusable(trouble)
    db = connect_read_only(path)
    try:
        _check_tables(db)
    except (Unusable, sqlite3.DatabaseError) as exc:
        db.close()
        if isinstance(exc, sqlite3.OperationalError) and not is_damage(exc):
            raise
        raise Unusable(f"cache.db can't be read: {exc}") from exc
    return db


def _file_trouble(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except FileNotFoundError:
        return "cache.db is missing"
    if not head:
        return "cache.db is empty"
    return "" if head == MAGIC else "cache.db is no database"


def _check_tables(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if not there.issuperset({"fileset", "inode", "dentry", "queue"}):
        raise Unusable("cache.db is no cache's database")
    if version > VERSION:
        raise AfmError(f"cache.db is of format {version}; this is {VERSION}")
    if 0 < version < VERSION:
        raise AfmError(
            f"cache.db is of format {version}, and this is {VERSION}: mount the cache once"
        )


def check(db: sqlite3.Connection, *, quick: bool) -> Iterator[Finding]:
    """SQLite's check of each table with its indexes, then what is missing of the schema."""
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    schema = wanted()
    word = "quick_check" if quick else "integrity_check"
    told = 0
    for table in sorted(name for name, kind in schema.items() if kind == "table"):
        if table not in there:
            yield _finding(f"cache.db: table {table} is missing")
            continue
        for text in _of_table(db, word, table):
            told += 1
            if told <= MOST:
                yield _finding(f"cache.db: {text}")
    if not told and "counters" in there and not _has_counters(db):
        yield Finding(
            kind=COUNTERS,
            text="cache.db: there are no counters, or several",
            repair="counted anew",
            mend=Repair.recount,
        )
    for name in sorted(schema.keys() - there):
        if schema[name] == "index":
            yield Finding(
                kind=DAMAGED,
                text=f"cache.db: index {name} is missing",
                repair="it is made anew",
                mend=doing(Repair.make_index, name),
            )


def _has_counters(db: sqlite3.Connection) -> bool:
    rows = db.execute("SELECT * FROM counters").fetchall()
    return len(rows) == 1 and all(type(value) is int for value in rows[0])


def _of_table(db: sqlite3.Connection, word: str, table: str) -> list[str]:
    try:
        rows = db.execute(f"PRAGMA {word}('{table}')").fetchall()
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
        return [f"table {table}: {exc}"]
    lines = [line for (text,) in rows for line in str(text).splitlines() if text != "ok"]
    return [f"table {table}: {line}" for line in lines if not line.startswith("*** in database")]


def _finding(text: str) -> Finding:
    """Rebuilt as a whole, before anything else is looked at."""
    return Finding(kind=DAMAGED, text=text, repair=_REBUILT, severity=Severity.LOST)


def file_finding(trouble: Unusable) -> Finding:
    return _finding(str(trouble))


def log_finding(cache: Path) -> Iterator[Finding]:
    """Of a log that can't be one. One that was cut off, or is missing, looks like one that was
    shorter: what it leaves behind tells of it (see `settings.numbers`)."""
    path = cache / "cache.db-wal"
    try:
        with path.open("rb") as file:
            head, size = file.read(32), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return
    if size and (len(head) < 32 or int.from_bytes(head[:4], "big") not in _LOGS):
        yield Finding(
            kind=LOG,
            text="cache.db-wal is no log: what had not been moved into cache.db is lost",
            repair=f"it is kept beside the cache's database; {OLD}",
            severity=Severity.LOST,
            mend=Repair.mend_old_database,
        )
