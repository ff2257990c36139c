"""Moving the log into cache.db, from a thread with a connection of its own.

A checkpoint inside a commit would stall a request; PASSIVE alone lets the log grow for as long as
anybody writes. So: PASSIVE until little remains, then a short RESTART, which takes the write lock,
so that the next writer begins the log anew. The log stays bounded with the gateway busy, hung or
dead.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable

import trio

from afmfs.cache.store import Store, connect

log = logging.getLogger(__name__)

LOW, HIGH = 16 << 20, 256 << 20
"""Bytes of log from which checkpoints are made, and from which a reader in the way is killed."""
LITTLE = 256
"""Pages that may remain for the checkpoint that takes the write lock."""
POLL_S = 0.5


class Checkpointer:
    def __init__(self, store: Store, kill_reader: Callable[[], None]) -> None:
        self._store, self._kill_reader = store, kill_reader
        self._db: sqlite3.Connection | None = None

    async def run(self) -> None:
        """Keep the log short until cancelled."""
        wal = f"{self._store.path}-wal"
        while True:
            await trio.sleep(POLL_S)
            size = os.stat(wal).st_size
            if size < LOW:
                continue
            try:
                done = await trio.to_thread.run_sync(self._checkpoint)
            except sqlite3.Error as exc:
                log.error("checkpoint: %s", exc)
                continue
            if not done and size > HIGH:
                self._kill_reader()

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
        return not busy and pages == moved

    def close(self) -> None:
        """Nothing runs in the thread any more."""
        if self._db is not None:
            self._db.close()
