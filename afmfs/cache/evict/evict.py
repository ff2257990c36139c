"""Freeing cached blocks that home has as well. Name and attributes stay; the next read fetches.

A file that is evicted is as if nothing of it had ever been cached. Its blob is destroyed after a
durable point that follows (evict-waits): power lost before brings the old row back, and with it the
bytes. Whether a file may be evicted is asked in the transaction that does it (evict-clean-only), or
a write in between would lose its only copy.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import trio

from afmfs.cache.content.content import Content
from afmfs.cache.content.kernel import KernelPages
from afmfs.cache.content.locks import InodeLocks
from afmfs.cache.evict.candidates import Candidate, Candidates
from afmfs.cache.evict.usage import Usage
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.errors import Refused
from afmfs.model import ranges
from afmfs.model.entry import Op
from afmfs.model.selection import Selection

log = logging.getLogger(__name__)

STEP = 32
"""Files evicted in one transaction; other requests are answered between two."""

_SETTLE_S = 1.0
"""How long a command waits for the kernel to drop the pages of what it evicted. It may itself wait
for a read that waits for home."""


class Evicted(NamedTuple):
    """What became of one file."""

    ino: int
    freed: int  # bytes that were cached
    kept: str = ""  # why it stays, and the way out; '' if it does not


@dataclass(slots=True)
class Run:
    """One eviction down to a limit. `reason`: why it ended above it, or ''."""

    number: int
    limit: int  # bytes of cached blocks that may stay
    running: bool = True
    files: int = 0
    bytes: int = 0  # freed
    kept: int = 0  # files that were passed over
    reason: str = ""


class Evictions:
    """`home_is_up` says whether home can be asked now, `durable_point` makes one, `ended` is told
    of the end of a run."""

    def __init__(
        self,
        store: Store,
        content: Content,
        locks: InodeLocks,
        kernel: KernelPages,
        usage: Usage,
        *,
        home_is_up: Callable[[], bool],
        durable_point: Callable[[], Awaitable[int]],
        ended: Callable[[Run], None],
    ) -> None:
        self._store, self._content, self._locks, self._kernel = store, content, locks, kernel
        self._home_is_up, self._durable_point, self._ended = home_is_up, durable_point, ended
        self._usage = usage
        self.last: Run | None = None
        self.nursery: trio.Nursery | None = None

    # -- some files ------------------------------------------------------------------------------

    def forbidden(self) -> str:
        """Why nothing may be evicted now, and the way out; '' if something may."""
        if self._store.disk.harm:
            return "the cache is damaged, and what counts as clean may not be"
        reason = self._store.get("needs_resync")
        if reason:
            return f"home was changed ({reason}) and may have lost it; `resync` first"
        if self._store.get("job"):
            return "home may not have it while a job runs; wait for its end"
        if not self._home_is_up():
            return "home can't be reached now; what is evicted could not be read"
        return ""

    async def evict(self, inos: Sequence[int]) -> list[Evicted]:
        """Evict files as far as they may be. Refused where nothing may be. One that was removed
        meanwhile is left out of the answer."""
        found: list[Evicted] = []
        for low in range(0, len(inos), STEP):
            step = inos[low : low + STEP]
            busy = [ino for ino in step if ino in self._locks]
            found += self._evict([ino for ino in step if ino not in busy])
            for ino in busy:
                async with self._locks.hold(ino):
                    found += self._evict([ino])
            await trio.lowlevel.checkpoint()
        return found

    async def settle(self) -> None:
        """Until the kernel has dropped its pages of what was evicted, or that takes too long."""
        await self._kernel.settle(_SETTLE_S)

    def _evict(self, inos: Sequence[int]) -> list[Evicted]:
        with self._store as store:
            why = self.forbidden()
            if why:
                raise Refused(f"evict: {why}")
            inodes = [inode for inode in map(store.inode, inos) if inode is not None]
            keeping = self._keeping(inodes)
            found = [self._evict_one(inode, keeping(inode)) for inode in inodes]
            # What has to stay comes back into the order when that changes (`Usage`).
            self._among("DELETE FROM used WHERE ino IN", inos)
        for one in found:
            if one.freed:
                self._kernel.forget(one.ino)
        return found

    def _evict_one(self, inode: Inode, kept: str) -> Evicted:
        if kept or not inode.size:
            return Evicted(inode.ino, 0, kept)
        freed = ranges.total(self._content.validity.valid(inode, 0, inode.size))
        if freed:
            self._content.uncache(inode)
            self._store.save(inode, home_valid=inode.size)
        return Evicted(inode.ino, freed)

    def _keeping(self, inodes: Sequence[Inode]) -> Callable[[Inode], str]:
        """What says of each of `inodes` why it has to stay ('': it need not)."""
        pending = self._store.behind.pending(inodes)
        inos = [inode.ino for inode in inodes]
        lost = self._among("SELECT ino FROM lost WHERE ino IN", inos)
        unheld = self._among(
            f"SELECT ino FROM unrepresentable WHERE op<={int(Op.SIZE)} AND ino IN", inos
        )

        def kept(inode: Inode) -> str:
            if not inode.is_file:
                return "it is no regular file; only these have cached blocks"
            if not inode.nlink:
                return "it has no name any more; it goes with its last close"
            if inode.ino in pending:
                return "it has pending changes; `flushPending --wait` first"
            if inode.ino in lost:
                return "home has lost it; `resync` first"
            if inode.home_mtime is None or inode.home_size != inode.size or inode.ino in unheld:
                return "home does not hold all of it, here is the only copy; `resync`, or copy it"
            return ""

        return kept

    def _among(self, sql: str, inos: Sequence[int]) -> set[int]:
        marks = ",".join("?" * len(inos))
        return {ino for (ino,) in self._store.execute(f"{sql} ({marks})", inos)}

    # -- down to a limit -------------------------------------------------------------------------

    def start(self, limit: int, selection: Selection) -> Run:
        """Begin to evict until at most `limit` bytes are cached. Refused while one such run is
        under way, or nothing may be evicted."""
        why = self.forbidden()
        if self.last is not None and self.last.running:
            why = "an eviction is under way; wait for its end"
        if why:
            raise Refused(f"evict: {why}")
        assert self.nursery is not None
        run = self.last = Run(self.last.number + 1 if self.last else 1, limit)
        self.nursery.start_soon(self._run, run, selection)
        return run

    async def _run(self, run: Run, selection: Selection) -> None:
        try:
            await self._free(run, selection)
            await self._durable_point()  # now the disk has the room
        except (Refused, OSError, sqlite3.Error) as exc:
            log.error("eviction: %s", exc)
            run.reason = str(exc)
        run.running = False
        self._ended(run)

    async def _free(self, run: Run, selection: Selection) -> None:
        await self._usage.write()
        candidates = Candidates(self._store.path, selection)
        try:
            while self._excess(run) > 0:
                page = await trio.to_thread.run_sync(candidates.page)
                if page is None:
                    run.reason = "nothing else that may be evicted is cached"
                    return
                await self._free_page(run, page)
        finally:
            candidates.close()

    async def _free_page(self, run: Run, page: list[Candidate]) -> None:
        low = 0
        while low < len(page) and (excess := self._excess(run)) > 0:
            step: list[int] = []
            while low < len(page) and len(step) < STEP and excess > 0:
                step.append(page[low].ino)
                excess -= page[low].size
                low += 1
            for one in await self.evict(step):
                run.files += bool(one.freed)
                run.bytes += one.freed
                run.kept += bool(one.kept)

    def _excess(self, run: Run) -> int:
        return self._store.counters.cached_bytes - run.limit

    def shown(self) -> dict[str, Any] | None:
        """The last run, for the status."""
        run = self.last
        return None if run is None else {key: getattr(run, key) for key in Run.__slots__}
