"""The one writing connection to cache.db: transactions, settings and the queue.

Used on the loop thread only, without an await inside a transaction: a transaction is a critical
section. One transaction is one file-system operation, its queue entry included, so that there is no
moment at which the one exists without the other. It survives `kill -9` when `__exit__` returns, and
power loss after `sync_wal` or a durable point.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from afmfs.cache.evict.behind import Behind
from afmfs.cache.store.counters import Counters
from afmfs.cache.store.disk import BALLAST, Disk
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.inodes import Inodes
from afmfs.cache.store.schema import ENTRY_COLUMNS, SCHEMA, UPGRADES, VERSION, VOUCH, VOUCHED
from afmfs.errors import Damaged, Refused, is_damage
from afmfs.model.entry import FIRST_INO, UNLINKED, Entry, Op
from afmfs.model.row_sum import row_sum

PAGE_SIZE = 1024
"""Of a new cache.db."""
RESERVED = 1 << 20
"""Numbers are reserved in such steps, durably, before the first of them is used."""

_PUT_TEXT = "INSERT OR REPLACE INTO fileset VALUES (?, CAST(? AS TEXT))"
_INSERT_ENTRY = f"INSERT INTO queue ({ENTRY_COLUMNS}) VALUES ({','.join('?' * 13)})"


class Numbers:
    """Numbers that are never used twice, also after power loss: a range is reserved, durably,
    before its first number is handed out (numbers-unique)."""

    def __init__(self, store: Store, key: str, first: int) -> None:
        self._store, self._key = store, key
        self._next = self._limit = int(store.get(key, first))

    @property
    def last(self) -> int:
        return self._next - 1

    def reserve(self) -> None:
        """Take the next range. Durable on return. Not inside a transaction."""
        with self._store as store:
            store.put(self._key, self._limit + RESERVED)
        self._store.sync_wal()
        self._limit += RESERVED

    @property
    def running_out(self) -> bool:
        return self._limit - self._next < RESERVED // 4

    def take(self) -> int:
        return self.take_run(1).start

    def take_run(self, count: int) -> range:
        """Numbers that follow each other."""
        if self._next + count > self._limit:
            raise OSError(errno.ENOSPC, "no number is reserved")  # `Durable.run` reserves in time
        self._next += count
        return range(self._next - count, self._next)


class Store(Inodes):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.db, version = _find(path)
        try:
            prepare(self.db)
            if version == 0:
                create(self.db)
            elif version < VERSION:
                upgrade(self.db, version)
            # The log exists from the first read on. A descriptor of the log may be opened beside
            # SQLite; opening and closing cache.db itself would take SQLite's locks away.
            self.db.execute("SELECT count(*) FROM fileset").fetchone()
            self._page = int(self.db.execute("PRAGMA page_size").fetchone()[0])
            self._wal = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            self.db.close()
            raise
        self.disk = Disk(path.parent, self._growth)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Read what is in memory as long as the connection is open."""
        # What a peak has made of the log is given back when the log begins anew.
        self.execute(f"PRAGMA journal_size_limit={self.disk.log_limit}")
        self._ballast = min(BALLAST, self.disk.log_limit)
        self._own = own_descriptor(self.path)
        self.keep_room()
        super().__init__()
        self.behind = Behind(self)
        counted = self.execute("SELECT * FROM counters").fetchone()
        if counted is None:
            cache = shlex.quote(str(self.path.parent))
            raise Damaged(f"{self.path} has no counters: `afmctl {cache} check --repair`")
        self.counters = Counters(counted)
        self._counted = self.counters.row()
        self.commits = 0  # transactions of this process; tells whether anything changed since
        self.entries = Numbers(self, "entry_limit", 1)
        self.inos = Numbers(self, "ino_limit", FIRST_INO)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement, as far as its first row. Where the database turns out to be damaged that
        is noted."""
        try:
            return self.db.execute(sql, values)
        except sqlite3.DatabaseError as exc:
            self._notice(exc)
            raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a question."""
        try:
            return self.db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as exc:
            self._notice(exc)
            raise

    def _notice(self, exc: sqlite3.DatabaseError) -> None:
        if is_damage(exc):
            self.disk.harm.prove(f"cache.db: {exc}", database=True)

    # -- transactions ---------------------------------------------------------------------------

    def __enter__(self) -> Store:
        self.disk.harm.check_database()
        self.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._roll_back()
            if isinstance(exc, sqlite3.DatabaseError):
                self.met(exc)
            return
        try:
            counted = self.counters.row()
            if counted != self._counted:
                self.execute(
                    "UPDATE counters SET queue_length=?,bytes_pending=?,cached_bytes=?,inodes=?",
                    counted,
                )
            self.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.DatabaseError):
                raise self.met(error) from error
            raise
        self._counted = counted
        self._undo.clear()
        self.commits += 1

    def _roll_back(self) -> None:
        """Memory goes back to what is committed, whatever the database says."""
        self.undo()
        self.counters = Counters(self._counted)
        self.behind.rolled_back()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def met(self, exc: sqlite3.DatabaseError) -> Exception:
        """The database has failed; the error as whoever asked should get it."""
        self._notice(exc)
        return self.disk.met(exc) if isinstance(exc, sqlite3.OperationalError) else exc

    def sync_wal(self) -> None:
        """Make every committed transaction durable. May run in a thread."""
        self.disk.sync(os.fdatasync, self._wal)

    def _growth(self) -> tuple[int, int]:
        """Bytes by which the log will make cache.db longer, and bytes free inside it."""
        (pages,) = self.execute("PRAGMA page_count").fetchone()
        (spare,) = self.execute("PRAGMA freelist_count").fetchone()
        found = os.stat(self.path), os.fstat(self._wal)
        owed = pages * self._page - found[0].st_size
        kept = sum(max(0, one.st_blocks * 512 - one.st_size) for one in found)
        return max(0, owed), spare * self._page + kept

    def keep_room(self) -> None:
        """Have room of the disk belong to cache.db and its log, whatever others do: enough for the
        log to be moved, begin anew, and take an eviction. May run in a thread."""
        self.disk.keep(self._wal, self._ballast)
        if self._own >= 0:
            self.disk.keep(self._own, os.fstat(self._own).st_size + self._ballast)

    # -- settings -------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        row = self.execute("SELECT value FROM fileset WHERE key = ?", (key,)).fetchone()
        return default if row is None else row[0]

    def put(self, key: str, value: Any) -> None:
        if isinstance(value, str):  # paths and what is said of them: any bytes
            self.execute(_PUT_TEXT, (key, os.fsencode(value)))
        else:
            self.execute("INSERT OR REPLACE INTO fileset VALUES (?, ?)", (key, value))

    # -- the queue ------------------------------------------------------------------------------

    def append(
        self,
        op: Op,
        inode: Inode,
        parent: int | None = None,
        name: bytes | None = None,
        parent2: int | None = None,
        name2: bytes | None = None,
        ino2: int | None = None,
        start: int = 0,
        end: int = 0,
        flags: int = 0,
    ) -> int:
        """Queue a change; returns its number. The caller saves it as the inode's `changed`. ENOSPC
        if there is no room for what follows from it, EROFS if the cache is damaged."""
        self.disk.harm.check()
        takes = op is Op.REMOVE or parent2 == UNLINKED or (op is Op.SIZE and end <= inode.size)
        self.disk.enter(frees=takes)
        number = self.entries.take()
        self.execute(
            _INSERT_ENTRY,
            (
                number, op, inode.ino, inode.kind, parent, name, parent2, name2, ino2,
                start, end, flags, time.time_ns(),
            ),
        )  # fmt: skip
        self.counters.queue_length += 1
        if op is Op.WRITE:
            self.counters.bytes_pending += end - start
        return number

    def entries_of(self, ino: int) -> Iterator[Entry]:
        """Unretired entries of an inode, oldest first."""
        rows = self.execute(
            f"SELECT {ENTRY_COLUMNS} FROM queue WHERE ino=? ORDER BY id", (ino,)
        ).fetchall()
        return (Entry(row[0], Op(row[1]), *row[2:]) for row in rows)

    def pending(self, inodes: Iterable[Inode]) -> set[int]:
        """Those of `inodes` that have an unretired entry. The last one may be retired and an older
        one not: home refused it for now, and what followed did not depend on it. Whoever asks often
        asks `Behind`."""
        found, overtaken = set[int](), dict[int, int]()
        for inode in inodes:
            if inode.changed > inode.retired:
                found.add(inode.ino)
            elif inode.retired:
                overtaken[inode.ino] = inode.retired
        if overtaken:  # few rows are that old
            rows = self.execute(
                "SELECT ino, ino2 FROM queue WHERE id<=?1"
                " AND (ino IN (SELECT value FROM json_each(?2))"
                " OR ino2 IN (SELECT value FROM json_each(?2)))",
                (max(overtaken.values()), json.dumps(list(overtaken))),
            )
            found.update(ino for row in rows for ino in row if ino in overtaken)
        return found

    def lost_by(self, ino: int) -> int | None:
        """The job that found that home has lost the file, or None."""
        row = self.execute("SELECT job FROM lost WHERE ino=?", (ino,)).fetchone()
        return None if row is None else int(row[0])

    def close(self) -> None:
        self.db.close()
        os.close(self._wal)
        self.disk.close()


def _find(path: Path) -> tuple[sqlite3.Connection, int]:
    """A connection, and the cache's format, 0 if it is new. Refused, with nothing changed, where
    the database is not ours."""
    cache = path.parent
    if os.path.lexists(path) and not path.is_file():
        raise Refused(f"{path} is no file: is {cache} a cache? Name it with -o cache=DIR")
    db = _open(path)
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not 0 <= version <= VERSION:
            raise Refused(f"{cache} is a cache of format {version}; this is {VERSION}")
        if bool(tables) != bool(version) or (version and "inode" not in tables):
            raise Refused(f"{path} is another program's: name a cache with -o cache=DIR")
    except BaseException:
        db.close()
        raise
    return db, version


def own_descriptor(path: Path) -> int:
    """SQLite's own descriptor of its file, which must not be opened and closed beside it; -1 if it
    can't be found."""
    real = os.path.realpath(path)
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == real:
                flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
                if flags & os.O_ACCMODE == os.O_RDWR:
                    return int(name)
        except OSError:
            continue  # another thread's, just closed
    return -1


def connect(path: Path) -> sqlite3.Connection:
    """A writing connection. The log is checkpointed by a thread of its own, never in a commit."""
    return prepare(_open(path))


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.text_factory = os.fsdecode
    return db


def prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    for pragma in (
        # Every page that a transaction touches goes into the log: 1 KiB pages made a write 20 %
        # faster than 4 KiB ones, and the log a quarter as long.
        f"page_size={PAGE_SIZE}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "wal_autocheckpoint=0",
        "cache_size=-65536",
        "temp_store=MEMORY",
        "busy_timeout=10000",
    ):
        db.execute(f"PRAGMA {pragma}")
    return db


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection for another thread: it sees what is committed and never writes."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None,
        check_same_thread=False, timeout=10,
    )  # fmt: skip
    db.text_factory = os.fsdecode
    return db


def create(db: sqlite3.Connection) -> None:
    _build(db, SCHEMA)


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Bring a cache of an older version up to date, in one transaction."""
    with_row_sum(db)
    script = "".join(UPGRADES[number] for number in range(version, VERSION))
    _build(db, script + (VOUCH if version < VOUCHED else ""))


def with_row_sum(db: sqlite3.Connection) -> sqlite3.Connection:
    """The connection knows `row_sum` as a function of SQL."""
    db.create_function("row_sum", 3, row_sum, deterministic=True)
    return db


def _build(db: sqlite3.Connection, script: str) -> None:
    db.execute("BEGIN EXCLUSIVE")
    for statement in script.split(";\n"):
        if statement.strip():
            db.execute(statement)
    db.execute(f"PRAGMA user_version={VERSION}")
    db.execute("COMMIT")


def must(inode: Inode | None, ino: int) -> Inode:
    """An inode that a row refers to, so that it has to be there."""
    if inode is None:
        raise Damaged(f"inode {ino} is referred to and missing: check the cache")
    return inode
