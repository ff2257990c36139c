"""The file of the journal: its tables, and what is done where it is not what it should be.

A gateway.db that is lost, damaged, older than what the cache remembers (a copy that was put back,
or one without its log) or another cache's would have the gateway forget what was under way at home,
or take something for done that was not. It is set aside, and never deleted; a new one takes its
place and says so (`news`), until the cache has taken note (see afmfs/cache/home/journals.py).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from afmfs.gateway.home.syscalls import KEEP_SIZE, fallocate

log = logging.getLogger(__name__)

VERSION = 2

_FIRST = """
CREATE TABLE flight (id INTEGER PRIMARY KEY, batch);
CREATE TABLE outcome (
    seq INTEGER PRIMARY KEY, id, ino, home_size, home_mtime, home_ino,
    result TEXT, errno);
CREATE TABLE requeued (
    id INTEGER PRIMARY KEY, errno, reason TEXT, tries, next_try_ns, since_ns, pushing);
CREATE TABLE state (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
# flight.batch: entries that were taken off together. What is in doubt is settled batch by batch:
# merged differently from the first time, it could miss a name that the first time made.
# outcome.home_*: the stamp, NULL where the entry touched no content or attributes.
# requeued.pushing: 1 if the entry may be partly executed.

_UPGRADES = {
    1: """
-- The resync, failover or recovery that is due or running (record: JSON), at most one.
CREATE TABLE job (id INTEGER PRIMARY KEY, record TEXT, phase TEXT, cursor, figures TEXT);
-- The priority queue: what the job has still to do, by n. verdict and trash: decided, durable
-- before it is done (NULL: not begun). The rest as in requeued.
CREATE TABLE priority (
    n INTEGER PRIMARY KEY, ino, bytes, verdict TEXT, trash,
    errno, reason TEXT, tries, next_try_ns, since_ns);
CREATE INDEX priority_ino ON priority (ino);
-- What was moved to home's trash, or is about to be (state intended, moved, restored); path is the
-- name it had at home, kind its S_IFMT bits, why: changed, nulled, in the way, removed.
CREATE TABLE trash (
    number INTEGER PRIMARY KEY, job, path BLOB, ino, kind, size, why TEXT, time_ns, state TEXT);
CREATE INDEX trash_job ON trash (job, number);
-- Byte ranges of files that a job made null at home; trash is where the bytes are, or NULL.
CREATE TABLE nulled (ino, start, end, job, trash, PRIMARY KEY (ino, start)) WITHOUT ROWID;
-- Tells this journal from one that takes its place: numbers of outcomes begin anew there.
INSERT OR REPLACE INTO state VALUES ('journal', lower(hex(randomblob(16))));
""",
}
_SCHEMA = _FIRST + "".join(_UPGRADES.values())

_LEAST_LOG, _MOST_LOG = 64 << 10, 4 << 20

TURN = "INSERT INTO state VALUES ('turn', 1) ON CONFLICT DO UPDATE SET value=value+1"
"""Part of every transaction: by their number the cache tells an older copy of the journal."""

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})


class Known(NamedTuple):
    """What the cache remembers, durably, of the journal that it works with."""

    id: str  # empty: it has worked with none of this home yet
    turn: int = 0  # it had at least so many transactions
    seq: int = 0  # outcomes up to this number were taken over


class Damaged(Exception):
    """The file is no journal that can be used; says why."""


def open_file(path: Path, known: Known | None) -> tuple[sqlite3.Connection, str | None]:
    """The database, and why the cache has to take note of it before it is worked with: None where
    it is the known one, empty where none was known, else what became of the known one.

    Without `known` whatever is sound is taken. sqlite3.DatabaseError where it can't be opened.
    """
    db, trouble = _find(path, known or Known(""))
    if db is None:
        db = _open(path)
        if known is not None and known.id:
            # Kept with it: the gateway may end before the cache has heard of it.
            db.execute("INSERT INTO state VALUES ('news', ?)", (trouble,))
    return db, None if known is None else _news(db, known)


def _find(path: Path, known: Known) -> tuple[sqlite3.Connection | None, str]:
    """The database, or what was wrong with it: then nothing is in its place any more."""
    if not path.exists():
        _set_aside(path)  # a log without its database
        return None, "gateway.db was lost"
    try:
        db = _open(path)
    except Damaged as exc:
        return None, f"gateway.db was damaged ({exc}); it is kept as {_set_aside(path)}"
    trouble = _not_the_known(db, known)
    if not trouble:
        return db, ""
    db.close()
    return None, f"{trouble}; it is kept as {_set_aside(path)}"


def _open(path: Path) -> sqlite3.Connection:
    """Damaged, or sqlite3.DatabaseError where it is of a later format, or can't be read now."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as exc:
        code = getattr(exc, "sqlite_errorcode", 0)
        if code & 0xFF in _DAMAGE or code in _UNREADABLE:
            raise Damaged(str(exc)) from exc
        raise


def log_limit(directory: Path) -> int:
    """Bytes of log from which on it moves into the database. On a small disk it must stay well
    within what the cache leaves to the databases, a tenth."""
    found = os.statvfs(directory)
    return max(_LEAST_LOG, min(_MOST_LOG, found.f_blocks * found.f_frsize // 160))


def _connect(path: Path) -> sqlite3.Connection:
    new = not path.exists()
    if not new and not path.stat().st_size:
        raise Damaged("it is empty")  # to SQLite it would be a new one
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.text_factory = os.fsdecode  # reasons have names in them, of any bytes
    try:
        # Another program's is not touched.
        version = VERSION if new else _version(db, path)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
            db.execute(f"PRAGMA {pragma}")
        (page,) = db.execute("PRAGMA page_size").fetchone()
        limit = log_limit(path.parent)
        db.execute(f"PRAGMA wal_autocheckpoint={limit // page}")
        db.execute(f"PRAGMA journal_size_limit={limit}")
        script = _SCHEMA if new else "".join(_UPGRADES[n] for n in range(version, VERSION))
        if script:
            db.executescript(f"BEGIN;{script}PRAGMA user_version={VERSION};COMMIT;")
        _keep_room(path, limit)
        return db
    except BaseException:
        db.close()
        raise


def _keep_room(path: Path, size: int) -> None:
    """Have the log keep its place on the disk, whatever others do: what makes room in a cache is a
    queue that goes down, and so a journal that can commit. Where that is too much already it does
    without. (SQLite has no lock on its log: another descriptor of it may be closed.)"""
    fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fallocate(fd, KEEP_SIZE, 0, size)
    except OSError as exc:
        log.debug("the log of %s has no room of its own: %s", path, exc)
    finally:
        os.close(fd)


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The format of a journal that is sound."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise sqlite3.DatabaseError(f"{path} is of format {version}; this is {VERSION}")
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if version <= 0 or not tables.issuperset({"flight", "outcome", "requeued", "state"}):
        raise Damaged("it is no journal")
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise Damaged(found.splitlines()[-1])
    return version


def _get(db: sqlite3.Connection, key: str) -> str | int | None:
    row: tuple[str | int] | None = db.execute(
        "SELECT value FROM state WHERE key=?", (key,)
    ).fetchone()
    return None if row is None else row[0]


def last_outcome(db: sqlite3.Connection) -> int:
    """The largest number that an outcome had; 0 if there was none."""
    last: int = db.execute("SELECT ifnull(max(seq), 0) FROM outcome").fetchone()[0]
    return max(last, int(_get(db, "forgotten") or 0))


def _not_the_known(db: sqlite3.Connection, known: Known) -> str:
    """Why a sound journal can't be the one that the cache works with; empty if it may be.

    One that is new itself, and that the cache has not taken note of yet, may stay.
    """
    if not known.id:
        return ""
    if _get(db, "journal") != known.id:
        new = _get(db, "news") is not None
        return "" if new else "gateway.db was another cache's, or another home's"
    if int(_get(db, "turn") or 0) < known.turn or last_outcome(db) < known.seq:
        return "gateway.db was an older copy"
    return ""


def _news(db: sqlite3.Connection, known: Known) -> str | None:
    if not known.id:
        return ""
    if known.id != _get(db, "journal"):
        return str(_get(db, "news"))
    db.execute("DELETE FROM state WHERE key='news'")  # the cache has taken note
    return None


def _set_aside(path: Path) -> str:
    """Give the file, and its log, a name of its own; the name.

    The log first: should a crash come in between, the file without it is damaged or older.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept, number = path.with_name(f"{path.name}.damaged-{stamp}"), 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    for suffix in ("-wal", "-shm", ""):
        try:
            os.rename(f"{path}{suffix}", f"{kept}{suffix}")
        except FileNotFoundError:
            pass  # SQLite need not have made each of them
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return kept.name
