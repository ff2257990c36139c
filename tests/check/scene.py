"""A cache with something of everything in it, which is stopped, harmed, and checked.

Home has files of which the cache has all, some and none; what is pending is a new tree, a file that
is written anew, bytes in the middle of a partial one, and a rename.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from afmfs.cache.check.run import Mending
from afmfs.cache.content.blobs import blob_name
from afmfs.cache.store.store import with_row_sum
from afmfs.model.findings import Finding, Tally
from tests.harness.checking import findings
from tests.harness.engine import Engine, ThreadGateway
from tests.harness.files import EngineFiles
from tests.harness.mounting import wait_until

BLOCK = 65536


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


CLEAN, PART, OLD, NEW, INSIDE = (noise(n, size) for n, size in enumerate(
    (3 * BLOCK + 100, 5 * BLOCK + 7, 2 * BLOCK, 3 * BLOCK + 5, 1000)
))  # fmt: skip
PATCH = 3 * BLOCK + 50
WRITTEN = PART[:PATCH] + b"patch" + PART[PATCH + 5 :]

HOME = {"clean": CLEAN, "part": PART, "dirty": OLD, "tree/a": INSIDE, "tree/b": b"b" * 10,
        "tree/below/c": b"c" * 20, "moved": b"m" * 30}  # fmt: skip

EXPECTED = {
    b"clean": CLEAN,
    b"part": WRITTEN,
    b"dirty": NEW,
    b"tree/a": INSIDE,
    b"tree/b": b"b" * 10,
    b"tree/below/c": b"c" * 20,
    b"made/new": INSIDE,
    b"made/moved": b"m" * 30,
}
"""What the cache shows of files, if nothing is harmed."""


class Scene:
    def __init__(self, base: Path) -> None:
        self.base, self.home = base, base / "home"
        for name, data in HOME.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_bytes(data)
        self.engine = Engine(
            self.home, base, "block_size=64K", "async_delay=3600", gateway=ThreadGateway
        )
        self.cache = self.engine.cache
        self.engine.start()
        self._work()
        self.engine.stop()
        self.engine.checks = False

    @property
    def files(self) -> EngineFiles:
        return EngineFiles(self.engine.fileset, self.engine.call)

    def _work(self) -> None:
        files = self.files
        self.read(b"clean"), self.read(b"tree/a")
        handle = files.open(b"part", os.O_RDWR)
        files.read(handle, BLOCK, BLOCK)
        files.write(handle, PATCH, b"patch")
        files.close(handle)
        self.write(b"dirty", NEW)
        files.mkdir(b"made", 0o755)
        self.write(b"made/new", INSIDE)
        files.rename(b"moved", b"made/moved", 0)
        files.symlink(b"made/new", b"link")
        files.names(b"tree/below")

    def write(self, path: bytes, data: bytes) -> None:
        handle = self.files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.files.write(handle, 0, data)
        self.files.close(handle)

    def read(self, path: bytes) -> bytes:
        handle = self.files.open(path, os.O_RDONLY)
        try:
            return self.files.read(handle, 0, 1 << 20)
        finally:
            self.files.close(handle)

    # -- harm ------------------------------------------------------------------------------------

    @contextmanager
    def tables(self) -> Iterator[sqlite3.Connection]:
        """cache.db, to be harmed."""
        with closing(sqlite3.connect(self.cache / "cache.db")) as db:
            with_row_sum(db).text_factory = os.fsdecode
            with db:
                yield db
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def sql(self, *statements: str) -> None:
        with self.tables() as db:
            for statement in statements:
                db.execute(statement)

    def ino(self, path: bytes) -> int:
        with self.tables() as db:
            ino = 1
            for name in path.split(b"/"):
                (ino,) = db.execute(
                    "SELECT ino FROM dentry WHERE parent=? AND name=?", (ino, name)
                ).fetchone()
            return ino

    def get(self, ino: int, column: str) -> Any:
        with self.tables() as db:
            return db.execute(f"SELECT {column} FROM inode WHERE ino=?", (ino,)).fetchone()[0]

    def blob(self, path: bytes) -> Path:
        return self.cache / "blobs" / blob_name(self.get(self.ino(path), "gen"))

    # -- checks ----------------------------------------------------------------------------------

    def found(self) -> list[Finding]:
        return findings(self.cache)

    def mend(self) -> Tally:
        """Repair it; nothing is left to be found."""
        told: list[tuple[Finding, bool]] = []
        tally = Mending(self.cache, lambda finding, done: told.append((finding, done))).run()
        left = [f"{one.kind}: {one.text}" for one, done in told if not done]
        assert not left, left
        assert not self.found()
        return tally

    def assert_serves(self, **differently: bytes | type[OSError] | None) -> None:
        """A mount shows what is expected; `differently`: other bytes, an error, or nothing, by
        path ("__" for "/")."""
        self.engine.start()
        try:
            other = {os.fsencode(k.replace("__", "/")): v for k, v in differently.items()}
            for path, data in (EXPECTED | other).items():
                self._assert_reads(path, data)
        finally:
            self.engine.stop()

    def _assert_reads(self, path: bytes, data: Any) -> None:
        if data is None:
            with_error: type[OSError] = FileNotFoundError
        elif isinstance(data, bytes):
            assert self.read(path) == data, path
            return
        else:
            with_error = data
        try:
            got = self.read(path)
        except with_error:
            return
        except Exception as error:
            raise AssertionError(f"{path!r}: {error!r}") from error
        raise AssertionError(f"{path!r} is read: {len(got)} bytes")

    def flushed(self, *, start: bool = False) -> None:
        """Everything pending is at home."""
        self.engine.start()
        try:
            if start:
                self.engine.call(self._start)
            self.engine.flush()
            wait_until(lambda: self.engine.call(self._is_done), 60, "no job is left")
        finally:
            self.engine.stop()

    async def _is_done(self) -> bool:
        status = self.engine.fileset.status()
        return status.job is None and not status.queue_length

    async def _start(self) -> None:
        self.engine.fileset.start()

    def kill(self) -> None:
        """Leave the cache as a kill of both processes would."""

        async def copy() -> None:
            shutil.copytree(self.cache, self.base / "killed")

        self.engine.call(copy)  # in its thread, so at one moment
        self.engine.stop()
        shutil.rmtree(self.cache)
        os.rename(self.base / "killed", self.cache)

    async def last_event(self) -> Any:
        return (await self.events())[-1]

    async def events(self) -> Any:
        return self.engine.fileset.events()

    def copy(self) -> Path:
        """The cache as it is."""
        target = self.base / "copy"
        shutil.copytree(self.cache, target)
        return target
