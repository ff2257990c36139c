"""Moving the log into cache.db, from a thread with a connection of its own.

A checkpoint inside a commit would stall a request; PASSIVE alone lets the log grow for as long as
anybody writes. So: PASSIVE until little remains, then a short RESTART, which takes the write lock,
so that the next writer begins the log anew. The log stays bounded with the gateway busy, hung or
dead.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Callable

import trio

from afmfs.cache.store.store import Store, connect

log = logging.getLogger(__name__)

HIGH = 16
"""How many times as long as it should be the log is when a reader in its way is killed."""
LITTLE = 256
"""Pages that may remain for the checkpoint that takes the write lock."""
POLL_S = 0.5


class Checkpointer:
    def __init__(self, store: Store, kill_reader: Callable[[], None]) -> None:
        self._store, self._kill_reader = store, kill_reader
        self._db: sqlite3.Connection | None = None
        self._turn = trio.Lock()
        self._low = store.disk.log_limit  # bytes of log from which checkpoints are made

    async def run(self) -> None:
        """Keep the log short until cancelled."""
        wal, said = f"{self._store.path}-wal", ""
        while True:
            await trio.sleep(POLL_S)
            try:
                size = os.stat(wal).st_size
                if size < self._low:
                    continue
                done = await self._run()
            except (OSError, sqlite3.Error) as exc:
                if str(exc) != said:
                    log.error("checkpoint: %s", exc)
                said = str(exc)
                continue
            said = ""
            if not done and size > HIGH * self._low:
                self._kill_reader()

    async def shorten(self) -> None:
        """Give back what the log does not need, as far as its readers let us."""
        if await self._run():
            with self._store as store:  # the commit that begins it anew cuts it
                store.put("shortened", int(store.get("shortened", 0)) + 1)

    async def _run(self) -> bool:
        async with self._turn:
            try:
                return await trio.to_thread.run_sync(self._checkpoint)
            except sqlite3.OperationalError as exc:
                if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC:
                    self._store.disk.fail(OSError(errno.EIO, str(exc)))
                self._store.disk.met(exc)
                raise

    def _checkpoint(self) -> bool:
        """Whether the whole log is in cache.db, so that it begins anew."""
        if self._db is None:
            self._db = connect(self._store.path)
            self._db.execute("PRAGMA busy_timeout=200")
        for _ in range(5):
            _, pages, moved = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages - moved <= LITTLE:
                break
        busy, pages, moved = self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        self._store.keep_room()  # a log that is moved cuts cache.db to its length
        return not busy and pages == moved

    def close(self) -> None:
        """Nothing runs in the thread any more."""
        if self._db is not None:
            self._db.close()
