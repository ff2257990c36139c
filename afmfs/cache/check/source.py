"""What is checked: the tables through one connection, and the directory of the blobs.

On a mounted cache the mount process goes on: each page is read in one snapshot, and what does not
agree with the disk is looked at again before it is believed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from afmfs.cache.check.owed import KEY, decoded, home_is_unsure, job_before
from afmfs.cache.content.blobs import blob_name
from afmfs.cache.content.recovery import may_have_lost_writes
from afmfs.cache.report.queue import Paths
from afmfs.model.blocks import DEFAULT_BLOCK, blob_length, is_block_size
from afmfs.model.entry import Op


class Blob(NamedTuple):
    """What is on the disk of a generation."""

    length: int | None  # bytes; None: there is no such file


class Source:
    """`live`: the cache is mounted, by another process or this one."""

    def __init__(self, cache: Path, db: sqlite3.Connection, *, live: bool) -> None:
        self.cache, self.db, self.live = cache, db, live
        self.execute = db.execute
        self.blobs = cache / "blobs"
        self._in_snapshot = False
        self.read_settings()
        self.old: str = decoded(self.setting(KEY)).get("old") or ""
        """What proves that cache.db is not the newest."""
        self.doubtful = not live and may_have_lost_writes(self.setting, cache)
        """The last stop may have lost writes, which the next mount will see to."""
        self.young = frozenset(self._young()) if self.doubtful else frozenset[int]()

    # -- settings --------------------------------------------------------------------------------

    def read_settings(self) -> None:
        """What the rest is compared with; anew after a repair."""
        self.settings = dict(self.execute("SELECT key, value FROM fileset"))
        known = self.settings.get("block_size")
        self.block = known if is_block_size(known) else DEFAULT_BLOCK
        self.entry_limit = self._number("entry_limit", 1)
        self.ino_limit = self._number("ino_limit", 16)
        self.durable_entry = self._number("durable_entry", 0)
        self.home = self._number("home", 1)
        self.unsure = home_is_unsure(self.setting)  # home need not have what is clean
        job = decoded(job_before(self.settings))
        self.missing = bool(job.get("missing"))  # entries that a job makes up for
        self.job = bool(job)
        bound = job.get("bound")
        self.settled_through = bound if type(bound) is int else 0
        """A job settles names up to this entry first: changes of what those remove stay for a
        while, also when its inode has gone with the last of its names."""

    def durable_now(self) -> int:
        """The last entry that is durable, as a mounted cache goes on."""
        row = self.execute("SELECT value FROM fileset WHERE key='durable_entry'").fetchone()
        return row[0] if row and type(row[0]) is int else 0

    def setting(self, key: str, default: Any = None) -> Any:
        return self.settings.get(key, default)

    def _number(self, key: str, default: int) -> int:
        value = self.settings.get(key)
        return value if type(value) is int and value >= 0 else default

    def json(self, key: str, kind: type) -> Any:
        """A setting that holds JSON; None where it is missing, or something else."""
        try:
            value = json.loads(self.settings.get(key) or "null")
        except (TypeError, ValueError):
            return None
        return value if isinstance(value, kind) else None

    @property
    def journal(self) -> Path:
        return self.cache / "gateway" / str(self.home) / "gateway.db"

    def nobodys(self) -> list[range]:
        """Generations that may have a blob and no inode: those made in advance, and what crashes
        left, which the mount clears away."""
        pool = self.json("pool", list) or [0, 0]
        if not pool[0]:
            pool = [self.entry_limit, self.entry_limit]
        if self.doubtful:
            pool = [pool[0], self.entry_limit]
        pairs = [pool, *(self.json("leftover", list) or ())]
        return [range(*map(int, pair[:2])) for pair in pairs if len(pair) > 1]

    def _young(self) -> Iterator[int]:
        """Inodes with something younger than the last durable point, after a stop that may have
        lost it: the next mount sees to their blobs."""
        rows = self.execute(
            "SELECT ino FROM fresh UNION SELECT ino FROM queue WHERE id>? AND op IN (?,?)",
            (self.durable_entry, int(Op.WRITE), int(Op.SIZE)),
        )
        return (ino for (ino,) in rows)

    # -- tables ----------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several questions see one state. Not held over what takes long: the log would grow."""
        if self._in_snapshot or self.db.in_transaction:
            yield
            return
        self.execute("BEGIN")
        self._in_snapshot = True
        try:
            yield
        finally:
            self._in_snapshot = False
            if self.db.in_transaction:
                self.execute("COMMIT")

    def path(self, ino: int) -> bytes | None:
        """A path of an inode, if names lead to the root."""
        try:
            return Paths(self.db).of(ino)
        except TypeError:
            return None  # one of them is no name

    def path_of_name(self, parent: int, name: Any) -> bytes | None:
        if type(parent) is not int or not isinstance(name, bytes):
            return None
        try:
            return Paths(self.db).join(parent, name)
        except TypeError:
            return None

    # -- blobs -----------------------------------------------------------------------------------

    def blob(self, gen: int) -> Blob:
        try:
            return Blob(os.stat(self.blobs / blob_name(gen)).st_size)
        except FileNotFoundError:
            return Blob(None)

    def trouble(self, ino: int, gen: int, size: int) -> str:
        """What is wrong with a file's blob: "missing", "short" or ''. A mounted cache is asked
        again whether the row still says the same."""
        found = self._trouble(gen, size)
        if found and self.live:
            row = self.execute("SELECT gen, size FROM inode WHERE ino=?", (ino,)).fetchone()
            if row != (gen, size):
                return ""  # it changes: somebody is at work
            found = self._trouble(gen, size)
        return found

    def _trouble(self, gen: int, size: int) -> str:
        length = self.blob(gen).length
        if length is None:
            return "missing"
        return "short" if length < blob_length(size) else ""
