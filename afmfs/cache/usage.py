"""When files were last used, as far as eviction in that order needs it.

An open or a fetch is one assignment in memory. Now and then what is new is written down: a kill
loses up to `WRITE_S` of it, which makes a file look a little older than it is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from itertools import islice

import trio

from afmfs.cache.store import Store

log = logging.getLogger(__name__)

WRITE_S = 30.0
STEP = 500
"""Rows written in one transaction; other requests are answered between two."""


class Usage:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[int, float] = {}  # inode -> s since the epoch

    def touch(self, ino: int) -> None:
        """The file is used now."""
        self._seen[ino] = time.time()

    async def write(self) -> None:
        """Write down all that is new."""
        new, self._seen = iter(self._seen.items()), {}
        while some := list(islice(new, STEP)):
            self._write(some)
            await trio.lowlevel.checkpoint()

    def write_at_once(self) -> None:
        """As `write`, at the end."""
        self._write(self._seen.items())
        self._seen = {}

    def _write(self, rows: Iterable[tuple[int, float]]) -> None:
        with self._store as store:
            # A file that is gone leaves no row; its number is never used again.
            store.db.executemany(
                "INSERT OR REPLACE INTO used SELECT ?1, ?2"
                " WHERE EXISTS (SELECT 1 FROM inode WHERE ino=?1)",
                [(ino, when) for ino, when in rows if not self._is_told(ino, when)],
            )

    def _is_told(self, ino: int, when: float) -> bool:
        """Whether the file was changed here as late, or nearly so: then its ctime says enough, and
        what is written and left alone costs no row."""
        inode = self._store.in_memory(ino)
        return inode is not None and inode.changed > 0 and inode.ctime / 1e9 > when - 1

    async def run(self) -> None:
        while True:
            await trio.sleep(WRITE_S)
            try:
                await self.write()
            except (OSError, sqlite3.Error) as exc:  # a full disk: no more than an order is lost
                log.error("when files were used can't be written down: %s", exc)
