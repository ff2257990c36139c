"""Durable points: moments from which everything before them is on stable storage.

What needs one: a batch before it is executed at home, an outcome before it is recorded, the
destruction of data (reclaim). One runs at least every `durable_interval`, and nothing is done where
nothing has changed since the last. `fsync` of one file is a small one for that file alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.content import Content
from afmfs.cache.content.locks import InodeLocks
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.model.entry import Op

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)
NUMBERS_S = 0.5
"""Between two looks whether numbers have to be reserved: some ten thousand are taken meanwhile."""
RECLAIM_STEP = 64
"""Blobs destroyed between two looks at other requests."""
_FAST_S = 0.0003
"""A flush quicker than this runs on the loop thread: the hop to another costs as much."""


def syncfs(fd: int) -> None:
    """Everything on the file system of `fd` is on stable storage on return."""
    if _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Durable:
    def __init__(self, store: Store, blobs: Blobs, locks: InodeLocks) -> None:
        self._store, self._blobs, self._locks = store, blobs, locks
        self._content: Content | None = None
        self.point = 1 + (store.execute("SELECT max(point) FROM fresh").fetchone()[0] or 0)
        self.durable_entry = int(store.get("durable_entry", 0))
        self._clean_at = -1  # value of store.commits that the last point covers
        self._running = trio.Lock()
        self._naming: set[int] = set()  # generations whose names the running point makes durable
        self._marked = False  # that a sync has failed
        self._flush_s = 1.0  # how long a flush of the log takes: running mean
        self.before: list[Callable[[], None]] = []  # called when a point starts
        self.after: list[Callable[[], None]] = []  # called when it is done

    def attach(self, content: Content) -> None:
        self._content = content

    async def sync_wal(self) -> None:
        """Every committed transaction is durable on return."""
        with self._marking():
            await self._flush(self._store.sync_wal)

    @contextmanager
    def _marking(self) -> Iterator[None]:
        """Where a sync fails, have whoever opens the cache next believe no more than after a loss
        of power: what the kernel could not write it may have dropped."""
        try:
            yield
        except OSError as exc:
            disk = self._store.disk
            disk.met(exc)
            if disk.failed and not self._marked:
                self._marked = True
                log.critical("the cache's disk has failed: %s; nothing more is taken", disk.failed)
                try:
                    with self._store as store:
                        store.put("boot_id", "")
                except (OSError, sqlite3.Error) as error:  # it takes nothing at all any more
                    log.error("what it may have lost can't be marked: %s", error)
            raise

    def is_doubtful(self, inode: Inode, start: int, end: int) -> bool:
        """Whether [start, end) holds bytes that no sync has covered. Once one has failed the kernel
        may have dropped them, and what is read in their place are zeros, or older bytes."""
        durable = max(self.durable_entry, inode.synced)
        found = self._store.execute(
            "SELECT EXISTS (SELECT 1 FROM queue"
            ' WHERE ino=?1 AND id>?2 AND op=?3 AND start<?5 AND "end">?4)'
            " OR EXISTS (SELECT 1 FROM fresh WHERE ino=?1 AND start<?5 AND end>?4)",
            (inode.ino, durable, Op.WRITE, start, end),
        ).fetchone()
        return bool(found[0])

    async def _flush(self, flush: Callable[[], None]) -> None:
        """Run a flush on the loop thread while this disk is quicker than a hop to another."""
        start = time.perf_counter()
        if self._flush_s < _FAST_S:
            flush()
        else:
            await trio.to_thread.run_sync(flush)
        self._flush_s += (time.perf_counter() - start - self._flush_s) / 4

    async def make(self) -> int:
        """A durable point; returns the number of the last entry that it covers.

        Everything that returned before the call is durable on return.
        """
        with self._marking():
            return await self._make()

    async def _make(self) -> int:
        async with self._running:
            if self._store.commits == self._clean_at:
                return self.durable_entry
            await self._drain()
            # The number is taken at the start: what is marked while the disk works belongs to the
            # next point (number-at-start).
            number, last = self.point, self._store.entries.last
            self.point += 1
            for call in self.before:
                call()
            clean_at = self._store.commits
            self._naming, self._blobs.created = self._blobs.created, set()
            try:
                await trio.to_thread.run_sync(self._sync_all)
            except BaseException:
                self._blobs.created |= self._naming
                raise
            finally:
                self._naming = set()
            with self._store as store:
                store.put("durable_entry", last)
                store.execute("DELETE FROM fresh WHERE point <= ?", (number,))
            if self._store.commits == clean_at + 1:
                clean_at += 1  # nothing but the point's own record was written meanwhile
            await trio.to_thread.run_sync(self._store.sync_wal)  # point-recorded
            self.durable_entry, self._clean_at = last, clean_at
            await self._reclaim()
        for call in self.after:
            call()
        return last

    def _sync_all(self) -> None:
        disk = self._store.disk
        disk.sync(syncfs, self._blobs.root_descriptor)
        disk.check()  # one that is read-only has nothing to sync, and says that all is well

    async def _drain(self) -> None:
        """Until nothing stands half-way that a point has to have, or to leave, as a whole.

        An operation between its entry and its blob write would be pushed with the old bytes and be
        forgotten (point-drains). A file of the pool whose number is below the point's, made after
        the disk was asked to sync, would count as durable.
        """
        while True:
            if self._content is not None and self._content.half:
                await self._content.drained.wait()
            elif self._blobs.filling.locked():
                async with self._blobs.filling:
                    pass
            else:
                return

    async def fsync(self, inode: Inode) -> None:
        """The file's bytes and all that names it are durable on return.

        A point of one file: its blob first, then the record that its entries need no doubt
        (point-recorded), then the log.
        """
        content = self._content
        if (
            not inode.is_file
            or not inode.gen
            or inode.changed <= max(self.durable_entry, inode.synced)
        ):
            await self.sync_wal()
            return
        assert content is not None
        while inode.ino in self._locks and content.half:
            await content.drained.wait()
        mark, fd = inode.changed, self._blobs.descriptor(inode)
        fresh = self._store.execute(
            "SELECT ino, start, end, point, rowid FROM fresh WHERE ino=?", (inode.ino,)
        ).fetchall()
        if fd is not None:
            await self._sync_blob(inode.gen, fd)
        with self._store as store:
            store.save(inode, synced=mark)
            # What was fetched before is as durable now as what was written over it.
            store.db.executemany(
                "DELETE FROM fresh WHERE ino=? AND start=? AND end=? AND point=? AND rowid=?", fresh
            )
        await self.sync_wal()

    async def _sync_blob(self, gen: int, fd: int) -> None:
        # An fsync does not wait for the point that is being made, and must not count on it.
        created = gen in self._blobs.created or gen in self._naming
        disk = self._store.disk

        def flush() -> None:
            disk.sync(os.fdatasync, fd)
            if created:  # its name has to survive as well
                shard = self._blobs.shard_descriptor(gen)
                try:
                    disk.sync(os.fsync, shard)
                finally:
                    os.close(shard)

        self._blobs.borrow(fd)
        try:
            with self._marking():
                await self._flush(flush)
        finally:
            self._blobs.give_back(fd)
        self._blobs.created.discard(gen)

    async def _reclaim(self) -> None:
        """Destroy what was queued for it before the point (destroy-waits).

        A row queued after the log was flushed waits for the next point (reclaim-numbered): rows
        are read before anything else runs.
        """
        rows = self._store.execute("SELECT ino, gen, start FROM reclaim").fetchall()
        if not rows:
            return
        await self.sync_wal()
        whole = [(ino, gen) for ino, gen, start in rows if start == 0]
        for low in range(0, len(whole), RECLAIM_STEP):
            await self._reclaim_whole(whole[low : low + RECLAIM_STEP])
        for ino, gen, start in rows:
            if start:
                await self._reclaim_tail(ino, gen)

    async def _reclaim_whole(self, some: list[tuple[int, int]]) -> None:
        """Blobs of inodes that have another one, or none: a generation never comes back."""
        for _, gen in some:
            self._blobs.let_go(gen)
        await trio.to_thread.run_sync(self._blobs.destroy_durably, [gen for _, gen in some])
        with self._store as store:
            store.db.executemany("DELETE FROM reclaim WHERE ino=? AND gen=?", some)

    async def _reclaim_tail(self, ino: int, gen: int) -> None:
        """Under the inode's lock (reclaim-locks), while no operation is writing there. What came
        back while it was waited for has no row any more, and is spared (reclaim-skips)."""
        async with self._locks.hold(ino):
            row = self._store.execute(
                "SELECT start FROM reclaim WHERE ino=? AND gen=?", (ino, gen)
            ).fetchone()
            inode = self._store.inode(ino)
            if row and row[0] and inode is not None and inode.gen == gen:
                assert self._content is not None
                await self.sync_wal()  # it may have been queued again meanwhile
                await self._content.cut_durably(inode)
                self._content.reclaim_tail(inode)

    async def run(self, interval_s: float) -> None:
        """A point every `interval_s` while things change. Numbers are reserved in time, however far
        apart or slow the points are: with none left nothing could be queued."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._every, NUMBERS_S, self._reserve)
            nursery.start_soon(self._every, interval_s, self.make)

    async def _every(self, seconds: float, call: Callable[[], Awaitable[object]]) -> None:
        said = ""
        while True:
            await trio.sleep(seconds)
            try:
                await call()
                said = ""
            except (OSError, sqlite3.Error) as exc:
                if str(exc) != said:
                    log.error("the cache's disk makes nothing durable: %s", exc)
                said = str(exc)

    async def _reserve(self) -> None:
        for numbers in (self._store.entries, self._store.inos):
            if numbers.running_out:
                numbers.reserve()
