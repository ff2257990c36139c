"""When files were last used, and so the order in which they are evicted.

Each file that may be evicted has a row: it is written in the transaction that makes it so (a fetch,
an outcome), and goes when the file is evicted, or met on the way and found not to be evictable;
what changes that brings it back. So the next victim is the first row of an index.

The times are kept more lazily. An open or a fetch is one assignment in memory, and now and then
what is new is written down: a kill loses up to `WRITE_S` of it, which makes a file look a little
older than it is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from itertools import islice

import trio

from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store

log = logging.getLogger(__name__)

WRITE_S = 30.0
STEP = 500
"""Rows written in one transaction; other requests are answered between two."""

_ENTER = (
    "INSERT INTO used VALUES (?,?)"
    " ON CONFLICT (ino) DO UPDATE SET time_s=max(time_s, excluded.time_s)"
)


def may_be_evicted(store: Store, inodes: Iterable[Inode]) -> None:
    """Something of these may be cached that home has as well: those that are files have a place in
    the order from now on. What was changed here was used then. In the caller's transaction."""
    store.db.executemany(
        _ENTER, [(one.ino, one.ctime / 1e9) for one in inodes if one.is_file and one.size]
    )


def fetched(store: Store, inode: Inode) -> None:
    """As `may_be_evicted`; it is used now."""
    store.execute(_ENTER, (inode.ino, time.time()))


class Usage:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[int, float] = {}  # inode -> s since the epoch

    def touch(self, ino: int) -> None:
        """The file is used now."""
        self._seen[ino] = time.time()

    def oldest(self, count: int) -> list[int]:
        """The files that were not used for longest, of those that may be evicted."""
        rows = self._store.execute(
            "SELECT ino FROM used ORDER BY time_s, ino LIMIT ?", (count,)
        ).fetchall()
        return [ino for (ino,) in rows]

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
            store.db.executemany(
                "UPDATE used SET time_s=?2 WHERE ino=?1",
                [(ino, when) for ino, when in rows if not self._is_told(ino, when)],
            )

    def _is_told(self, ino: int, when: float) -> bool:
        """Whether the file was changed here as late, or nearly so: then its ctime says enough, and
        what is written and left alone costs nothing."""
        inode = self._store.in_memory(ino)
        return inode is not None and inode.changed > 0 and inode.ctime / 1e9 > when - 1

    async def run(self) -> None:
        while True:
            await trio.sleep(WRITE_S)
            try:
                await self.write()
            except (OSError, sqlite3.Error) as exc:  # a full disk: no more than an order is lost
                log.error("when files were used can't be written down: %s", exc)
