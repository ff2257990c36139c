"""Bytes of files: writing, changing the size. Nothing here waits for home.

The order of writes is the subject of this file (crash-rules.md, "the cache's own writes"):

* new bytes go to the blob first, then the transaction makes them valid (new-blob-first);
* bytes that are valid are overwritten after the transaction with the entry (overwrite-entry-first),
  and only once a durable entry says that the file is being overwritten in place (overwrite-durable,
  in-place-mark);
* bytes in reclaim are destroyed before anything new comes to where they are (reclaim-sync);
* between an entry and its blob write no durable point starts (point-drains).

Code between two awaits is alone: the fast paths have none and need no lock. What has one holds the
inode's lock.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable

import trio

from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.damage import Damage
from afmfs.cache.content.locks import InodeLocks
from afmfs.cache.content.reading import Reading
from afmfs.cache.content.validity import Validity
from afmfs.cache.evict.usage import fetched
from afmfs.cache.names.namespace import failed
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.model import ranges
from afmfs.model.entry import IN_PLACE, Op
from afmfs.model.quota import UNLIMITED
from afmfs.model.ranges import Ranges

MAX_SIZE = 1 << 56
MAX_CACHED = 1 << 62
"""Bytes of all cached files, holes included: their sum has to fit into a column. It is reached by
setting sizes alone, and refused to who does that: nobody else is to suffer from it."""

Parts = tuple[Ranges, Ranges]
"""Of a write: the bytes that are new here, and those that overwrite valid ones."""


class Content(Reading):
    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        validity: Validity,
        locks: InodeLocks,
        sync_wal: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(blobs, validity, Damage(store))
        self._store, self._locks, self._sync_wal = store, locks, sync_wal
        self._in_place: dict[int, int] = {}  # inode -> a durable, unretired in-place entry of it
        self._in_reclaim = blobs.in_reclaim
        self.half = 0  # operations between their entry and their blob write
        self.drained = trio.Event()
        self.drained.set()
        self.truncated: Callable[[int], None] = lambda ino: None  # voids fetches that are under way
        self.quota = UNLIMITED
        self.crowded: Callable[[], None] = lambda: None  # called when the soft quota is passed

    # -- writing ---------------------------------------------------------------------------------

    async def write(self, inode: Inode, offset: int, data: bytes) -> int:
        """All of `data` is here and queued when this returns; durable after a durable point."""
        ino, end = inode.ino, offset + len(data)
        if end > MAX_SIZE:
            raise failed(errno.EFBIG)
        if ino in self._locks or ino in self._in_reclaim:
            async with self._locks.hold(ino):
                await self._reclaim_now(inode, end)
                await self._write(inode, offset, end, data)
            return len(data)
        if end > inode.size and inode.whole:
            self._admit(end - inode.size)
        parts = self._parts(inode, offset, end)
        if self._must_wait(inode, parts):
            async with self._locks.hold(ino):
                await self._write(inode, offset, end, data)
        else:
            self._write_at_once(inode, offset, end, data, parts)
        return len(data)

    def _parts(self, inode: Inode, offset: int, end: int) -> Parts:
        """What of [offset, end) is new, and what is valid already."""
        if inode.whole:
            if offset >= inode.size:
                return ((offset, end),), ()
            if end <= inode.size:
                return (), ((offset, end),)
        valid = self.validity.valid(inode, offset, end)
        return ranges.gaps(valid, offset, end), valid

    def _must_wait(self, inode: Inode, parts: Parts) -> bool:
        """Whether an entry has to be durable before valid bytes are overwritten. Not so where a
        durable in-place entry is pending, nor where all that the blob holds is younger than the
        last durable point: power loss takes back every mark on it, or finds it dirty."""
        if not parts[1]:
            return False
        return inode.ino not in self._in_place and inode.gen not in self._blobs.created

    async def _write(self, inode: Inode, offset: int, end: int, data: bytes) -> None:
        """As `_write_at_once`, with the wait that the first overwrite in place needs."""
        parts = self._parts(inode, offset, end)
        if not self._must_wait(inode, parts):
            self._write_at_once(inode, offset, end, data, parts)
            return
        number = self._write_new(inode, offset, end, data, parts)
        self._begin_half()
        try:
            # Power lost with the blob new and the log old would leave a changed block that
            # counts as clean: the entry is made durable before the bytes are touched.
            await self._sync_wal()
            self._in_place[inode.ino] = number
            self._write_parts(inode, offset, data, parts[1])
        finally:
            self._end_half()

    def _write_at_once(
        self, inode: Inode, offset: int, end: int, data: bytes, parts: Parts
    ) -> None:
        self._write_new(inode, offset, end, data, parts)
        if parts[1]:  # entry first: kill -9 here pushes the old bytes once more
            self._write_parts(inode, offset, data, parts[1])

    def _write_new(self, inode: Inode, offset: int, end: int, data: bytes, parts: Parts) -> int:
        """New bytes into the blob, then the transaction: kill -9 between them changes nothing. The
        number of the in-place entry."""
        new, valid = parts
        gen = inode.gen
        self._store.disk.harm.check()
        try:
            self._blobs.take(len(data))
            if valid:
                # Zeros that no blob holds are about to be overwritten: its generation has to be
                # part of the transaction. And to a damaged blob nothing may be promised.
                self._blobs.claim(inode, valid)
            self._write_parts(inode, offset, data, new)
            return self._commit_write(inode, offset, end, parts)
        except Exception:
            self._blobs.abandon(inode, gen)
            raise

    def _write_parts(self, inode: Inode, offset: int, data: bytes, parts: Ranges) -> None:
        for a, b in parts:
            whole = b - a == len(data)
            piece = data if whole else memoryview(data)[a - offset : b - offset]
            self._blobs.write(inode, a, piece)

    def _commit_write(self, inode: Inode, offset: int, end: int, parts: Parts) -> int:
        """The transaction of a write: marks, size, times, entries. The in-place entry's number."""
        store, now = self._store, time.time_ns()
        number = in_place = 0
        size, cached = max(inode.size, end), store.counters.cached_bytes
        with store:
            if inode.nlink:
                for a, b in parts[0]:
                    number = store.append(Op.WRITE, inode, start=a, end=b)
                for a, b in parts[1]:
                    number = in_place = store.append(
                        Op.WRITE, inode, start=a, end=b, flags=IN_PLACE
                    )
            if inode.whole:
                store.counters.cached_bytes += size - inode.size
            else:
                self._mark(inode, offset, end, size)
            if inode.ino in self.damage.inos:
                self.damage.written(inode.ino, offset, end)
            store.save(
                inode,
                size=size, gen=inode.gen, mtime=now, ctime=now, changed=number or inode.changed,
            )  # fmt: skip
            if store.counters.cached_bytes > self.quota.soft:
                self._bound(cached)
        return in_place

    def _bound(self, before: int) -> None:
        """In a transaction that has more cached than the soft quota: ENOSPC, and all of it undone,
        if it is more than the hard one, and more than `before`."""
        cached = self._store.counters.cached_bytes
        self.crowded()
        if cached > max(before, self.quota.hard):
            raise failed(errno.ENOSPC)

    @property
    def is_crowded(self) -> bool:
        """Whether more is cached than the soft quota."""
        return self._store.counters.cached_bytes > self.quota.soft

    def _admit(self, growth: int) -> None:
        """ENOSPC if so many bytes more would be too many. Said before any is written."""
        if self._store.counters.cached_bytes + growth > self.quota.hard:
            raise failed(errno.ENOSPC)

    def _mark(self, inode: Inode, start: int, end: int, size: int) -> None:
        """Mark bytes of a file that is not whole as valid, and count the blocks that completes."""
        validity, block = self.validity, self.validity.block
        last = max(0, inode.size - 1)  # its block may be short, and grow
        among = range(min(start, last) // block, -(-end // block))
        before = validity.cached_bytes(inode, among)
        validity.mark(inode, start, end, size)
        if size != inode.size:
            self._store.save(inode, size=size)
        self._store.counters.cached_bytes += validity.cached_bytes(inode, among) - before
        validity.become_whole(inode)

    def retired(self, ino: int, entry: int) -> None:
        """An in-place entry was retired: the next overwrite needs a durable one of its own."""
        if self._in_place.get(ino, entry + 1) <= entry:
            del self._in_place[ino]

    def _begin_half(self) -> None:
        if not self.half:
            self.drained = trio.Event()
        self.half += 1

    def _end_half(self) -> None:
        self.half -= 1
        if not self.half:
            self.drained.set()

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, inode: Inode, size: int, *, changes: dict[str, int]) -> None:
        """Set the size, and the other `changes` of attributes with it, in one transaction."""
        if size > MAX_SIZE:
            raise failed(errno.EFBIG)
        ino = inode.ino
        if ino in self._locks or ino in self._in_reclaim:
            async with self._locks.hold(ino):
                await self._reclaim_now(inode, size)
                self._resize(inode, size, changes)
        else:
            self._resize(inode, size, changes)

    def _resize(self, inode: Inode, size: int, changes: dict[str, int]) -> None:
        store = self._store
        if size > inode.size:
            if inode.whole:
                if self._store.counters.cached_bytes + size - inode.size > MAX_CACHED:
                    raise failed(errno.EFBIG)
                self._admit(size - inode.size)
            if inode.gen:
                self._blobs.extend(inode, size)
        with store:
            number = store.append(Op.SIZE, inode, end=size) if inode.nlink else inode.changed
            before = self.validity.cached_blocks(inode)[1]
            if size == 0:
                self._empty(inode)
            elif size < inode.size:
                self._shrink(inode, size)
            if size < inode.size and inode.ino in self.damage.inos:
                self.damage.written(inode.ino, size, inode.size)
            store.save(
                inode,
                size=size, home_valid=min(inode.home_valid, size), changed=number, **changes,
            )  # fmt: skip
            growth = self.validity.cached_blocks(inode)[1] - before
            store.counters.cached_bytes += growth
            if store.counters.cached_bytes > self.quota.soft:
                self._bound(store.counters.cached_bytes - growth)
        if not inode.gen:  # not before it is committed: else what is in the old blob may show again
            self._in_reclaim.discard(inode.ino)

    def _empty(self, inode: Inode) -> None:
        """Nothing is left: a new generation, the old blob to reclaim (truncate-new-generation)."""
        if inode.gen:
            self._store.reclaim(inode, 0)
        if inode.home_valid:  # it came from home: there is a map, or fresh blocks
            self.validity.forget(inode)
        self._store.save(inode, gen=0, whole=True)
        self.truncated(inode.ino)

    def _shrink(self, inode: Inode, size: int) -> None:
        """The generation stays, so that fsynced blocks keep their age; the tail goes to reclaim
        (shrink-keeps-generation). What is being fetched is void (fetch-not-truncated)."""
        self.validity.shrink(inode, size)
        if inode.gen:
            self._store.reclaim(inode, size)
            self._in_reclaim.add(inode.ino)
        self.truncated(inode.ino)

    async def _reclaim_now(self, inode: Inode, end: int) -> None:
        """Before the file grows over bytes in reclaim, or new bytes come to them: destroy them now.

        The shrink is made durable first, or power loss would bring the row back without its data.
        Under the inode's lock.
        """
        if inode.ino in self._in_reclaim and end > inode.size:
            await self._sync_wal()
            await self.cut_durably(inode)
            self.reclaim_tail(inode)

    async def cut_durably(self, inode: Inode) -> None:
        """Destroy what lies beyond the file's size. The shrink is durable; the lock is held. A log
        that tells of the file's growth must not outlive the cut: power loss would show bytes from
        before the truncation, in what was written since."""
        self._blobs.cut(inode, inode.size)
        await self._blobs.sync(inode)

    def reclaim_tail(self, inode: Inode) -> None:
        """Destroy what lies beyond the file's size. The shrink is durable; the lock is held. The
        file may have been removed meanwhile, which takes no lock: then its whole blob has to go."""
        self._blobs.cut(inode, inode.size)
        with self._store as store:
            store.execute(
                "DELETE FROM reclaim WHERE ino=? AND gen=? AND start>0", (inode.ino, inode.gen)
            )
        self._in_reclaim.discard(inode.ino)

    # -- bytes that only home has from now on, in the caller's transaction -----------------------

    def unmark(self, inode: Inode, pieces: Ranges) -> None:
        """The bytes of `pieces` are not believed any more. They stay in the blob for the time being
        and mean nothing: what comes to their place next covers them, holes too (`fill`)."""
        before = self.validity.cached_blocks(inode)[1]
        for start, end in pieces:
            self.validity.unmark(inode, start, end)
        self._store.counters.cached_bytes += self.validity.cached_blocks(inode)[1] - before
        self.truncated(inode.ino)

    def uncache(self, inode: Inode) -> None:
        """Nothing of the file is here any more. Its blob is destroyed, whole, once a durable point
        has followed (evict-waits): power loss may bring the old row back, and finds its bytes."""
        before = self.validity.cached_blocks(inode)[1]
        if inode.gen:
            self._store.reclaim(inode, 0)
        self.validity.forget(inode)
        self._store.save(inode, gen=0, whole=inode.size == 0)
        self._store.counters.cached_bytes += self.validity.cached_blocks(inode)[1] - before
        self.truncated(inode.ino)

    # -- bytes that arrive from home -------------------------------------------------------------

    def fill(self, inode: Inode, start: int, data: memoryview, point: int) -> None:
        """Put fetched bytes where nothing is valid (fetch-not-valid), and mark what they complete.

        `data` begins at `start` and reaches `home_valid` or a block's end. Under no lock: nothing
        awaits between the caller's check that the request is not void and the return.
        """
        end = min(start + len(data), inode.home_valid)
        if inode.whole or start >= end:
            return
        stop, brought = end, self.validity.missing(inode, start, end)
        gen = inode.gen
        whole_blocks = -(-end // self.validity.block) * self.validity.block
        self._admit(min(whole_blocks, inode.size) - start)
        try:
            for a, b in brought:
                self._write_sparsely(inode, a, data[a - start : b - start])
            if end == inode.home_valid:  # from here to the end of the block everything is zeros
                block = self.validity.block
                stop = min(inode.size, -(-end // block) * block)
                zeros = ranges.gaps(self.validity.valid(inode, end, stop), end, stop)
                for a, b in zeros:
                    self._blobs.clear(inode, a, b)
                brought += zeros
            with self._store as store:
                # What was valid before may be durable, and dirty: it is no younger for the fetch.
                rows = [(inode.ino, a, b, point) for a, b in brought]
                store.db.executemany("INSERT INTO fresh VALUES (?,?,?,?)", rows)
                store.save(inode, gen=inode.gen)
                self._mark(inode, start, stop, inode.size)
                fetched(store, inode)
                if store.counters.cached_bytes > self.quota.soft:
                    self.crowded()
        except Exception:
            self._blobs.abandon(inode, gen)
            raise

    def _write_sparsely(self, inode: Inode, offset: int, data: memoryview) -> None:
        """Home's holes stay holes. The blob may hold something there all the same, which was
        unmarked, or came in a write that a kill cut short: it goes, or it would be valid now."""
        for low in range(0, len(data), 65536):
            piece = data[low : low + 65536]
            if any_set(piece):
                self._blobs.take(piece.nbytes)
                self._blobs.write(inode, offset + low, piece)
            else:
                self._blobs.clear(inode, offset + low, offset + low + piece.nbytes)


def any_set(piece: memoryview) -> bool:
    return bytes(piece).count(0) != len(piece)
