"""Making room: before the cache is as large as it may be, and before its disk is full.

Once the soft quota is passed, or the disk is short, clean files go, the least recently used first,
until there is some ease again. It happens in one task, in rounds; whoever has met a want of room
asks for a round and waits until it has freed something. Where nothing clean is left, what is
pending is replayed without waiting for its age: then it can go. A write waits for that, as long as
home takes it; nothing else does, as it might hold a lock that others need.

Nothing is evicted but by `Evictions`, which knows what must stay.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import trio

from afmfs.cache.evict.evict import STEP, Evictions
from afmfs.cache.evict.usage import Usage
from afmfs.cache.names.namespace import failed
from afmfs.cache.store.disk import Lacking
from afmfs.cache.store.store import Store
from afmfs.errors import Refused, is_full
from afmfs.model.quota import UNLIMITED, Quota

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

POLL_S = 1.0
"""Between two looks, where nobody asks."""

LEAST = 1 << 20
"""Bytes that go where the disk refused more and its figures don't tell why."""

MOST, MOST_FILES = 256 << 20, 2048
"""What goes, at most, before a durable point gives the disk its room."""

BARE_S = 3.0
"""How long home is waited for where the queue may have no room to go down."""

SHOWN_S = 60.0
"""How long it is told that something was refused."""


FULL, FAILED = "afmCacheFull", "afmCacheFailed"


class Replay(Protocol):
    """What the queue can do for room."""

    def drains(self) -> bool: ...
    def hasten(self) -> None: ...
    def retired(self) -> int: ...
    def patience_s(self) -> float: ...


class HasRoom(Protocol):
    @property
    def room(self) -> Room: ...


S = TypeVar("S", bound=HasRoom)


def roomy(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """An operation for which room is made if there is none. It never waits for home."""

    @wraps(method)
    async def given(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except (OSError, sqlite3.Error) as exc:
            if not is_full(exc):
                raise
        return await self.room.retry(lambda: method(self, *args, **kwargs))

    return given


class Evicted(NamedTuple):
    """By itself, since the mount."""

    files: int = 0
    bytes: int = 0


class Room:
    """`allowed`: whether files may be evicted without being asked for; `shorten_log` gives back
    what the log of cache.db does not need, `durable_point` what was evicted; `told` gets events and
    their reasons."""

    def __init__(
        self,
        store: Store,
        evictions: Evictions,
        usage: Usage,
        replay: Replay,
        *,
        allowed: Callable[[], bool],
        shorten_log: Callable[[], Awaitable[None]],
        durable_point: Callable[[], Awaitable[int]],
        told: Callable[[str, str], None],
    ) -> None:
        self._store, self._disk = store, store.disk
        self._evictions, self._usage, self._replay = evictions, usage, replay
        self._allowed, self._shorten_log = allowed, shorten_log
        self._durable_point, self._told = durable_point, told
        self.quota: Quota = UNLIMITED
        self.evicted = Evicted()
        self.stays = ""  # why no more could be freed in the last round, or ''
        self._refused_at = -SHOWN_S
        self._said, self._failure_told = "", False
        self._wanted, self._news = trio.Event(), trio.Event()
        self._asked, self._need = False, 0
        self._freed = self._rounds = 0
        self._busy = self._resting = False

    # -- asking ----------------------------------------------------------------------------------

    def crowded(self) -> None:
        """The soft quota is passed, or the disk is short."""
        if not self._resting:  # the last round was in vain; the next comes with the next look
            self._wanted.set()

    def moved(self) -> None:
        """Something was retired, or home has come or gone."""
        self._tell()

    async def given(
        self, call: Callable[[], Awaitable[T]], need: int = 0, *, patient: bool = False
    ) -> T:
        """Do something for which room is made if there is none."""
        try:
            return await call()
        except (OSError, sqlite3.Error) as exc:
            if not is_full(exc):
                raise
        return await self.retry(call, need, patient=patient)

    async def retry(
        self, call: Callable[[], Awaitable[T]], need: int = 0, *, patient: bool = False
    ) -> T:
        """Do again what has failed for want of room, as long as room can be made; once more when it
        can't: some may have come by itself meanwhile, as from a log that began anew."""
        more = True
        while more:
            more = await self.make(need, patient=patient)
            try:
                return await call()
            except (OSError, sqlite3.Error) as exc:
                if not is_full(exc):
                    raise
        raise self._refuse()

    async def make(self, need: int = 0, *, patient: bool = False) -> bool:
        """Whether there may be room now for so many bytes more. With `patient`, home is waited
        for where it would help."""
        freed, round_ = self._freed, self._rounds + (2 if self._busy else 1)
        self._asked, self._need = True, max(self._need, need)
        self._wanted.set()
        while self._freed == freed and self._rounds < round_:
            await self._news.wait()
        if self._freed != freed:
            return True
        return patient and self._allowed() and await self._replayed()

    async def _replayed(self) -> bool:
        """Wait until something is retired; False once that is not to be expected."""
        before, started = self._replay.retired(), time.monotonic()
        self._replay.hasten()
        while self._replay.drains():
            patience = BARE_S if self._disk.room().is_bare else self._replay.patience_s()
            if time.monotonic() > started + patience:
                return False
            with trio.move_on_after(POLL_S):
                await self._news.wait()
            if self._replay.retired() != before:
                return True
        return self._replay.retired() != before

    # -- rounds ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make room when it is wanted, until cancelled."""
        while True:
            with trio.move_on_after(POLL_S):
                await self._wanted.wait()
            self._wanted = trio.Event()
            self._disk.look_again()
            if self._disk.failed and not self._failure_told:
                self._failure_told = True
                self._told(FAILED, self._disk.failed)
            need, asked, freed = self._need, self._asked, self._freed
            self._need, self._asked, self._busy = 0, False, True
            try:
                await self._round(need, asked=asked)
            except (Refused, OSError, sqlite3.Error) as exc:
                self.stays = str(exc)
            self._busy, self._resting = False, self._freed == freed
            self._rounds += 1
            self._tell()

    async def _round(self, need: int, *, asked: bool) -> None:
        cached, quota = self._store.counters.cached_bytes, self.quota
        crowded = cached > quota.soft or cached + need > quota.hard
        lacking = self._disk.lacking()
        if asked and not crowded and not any(lacking):
            lacking = Lacking(max(need, LEAST), 1)
        if not crowded and not any(lacking):
            self.stays = ""
            return
        if any(lacking):
            await self._free_log()
        if not self._allowed():
            self.stays = "auto_eviction is off"
            return
        if why := self._evictions.forbidden():
            raise Refused(why)
        await self._usage.write()
        enough = True
        if crowded:
            enough = await self._shrink(max(0, min(quota.low, quota.hard - need)))
        if any(lacking):
            enough = await self._clear(lacking) and enough
        self.stays = "" if enough else "nothing is cached that home has as well"
        if not enough and self._replay.drains():
            self._replay.hasten()

    async def _free_log(self) -> None:
        before = self._disk.room().left
        try:
            await self._shorten_log()
        except sqlite3.OperationalError as exc:
            if not is_full(exc):
                raise
            return  # cache.db has no room to take the log; an eviction needs little of that
        if self._disk.room().left > before:
            self._count()

    async def _shrink(self, most: int) -> bool:
        """Evict until no more than so many bytes are cached; whether that could be had."""
        while (excess := self._store.counters.cached_bytes - most) > 0:
            if await self._evict(Lacking(excess, 0)) is None:
                return False
            self._count()
        return True

    async def _clear(self, lacking: Lacking) -> bool:
        """Evict until the disk has got back what it lacks; whether that could be had."""
        while any(lacking):
            data, files = min(lacking.bytes, MOST), min(lacking.files, MOST_FILES)
            found = False
            while data > 0 or files > 0:
                step = await self._evict(Lacking(data, files))
                if step is None:
                    break
                data, files = data - step.bytes, files - step.files
                found = found or step.files > 0
            if not found:
                return False
            await self._durable_point()  # blobs are destroyed only then
            self._count()
            lacking = self._disk.lacking()
        return True

    async def _evict(self, wanted: Lacking) -> Lacking | None:
        """Evict some of the files that were not used for longest; None if there are none."""
        step: list[int] = []
        size = 0
        for ino in self._usage.oldest(STEP):
            step.append(ino)
            inode = self._store.inode(ino)
            size += inode.size if inode is not None else 0
            if size >= wanted.bytes and len(step) >= wanted.files:
                break
        if not step:
            return None
        gone = [one.freed for one in await self._evictions.evict(step) if one.freed]
        freed = Lacking(sum(gone), len(gone))
        self.evicted = Evicted(self.evicted.files + freed.files, self.evicted.bytes + freed.bytes)
        return freed

    def _count(self) -> None:
        """Something was freed: whoever waits may try."""
        self._freed += 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _refuse(self) -> OSError:
        """Something is refused: told in the log, but not each time."""
        now, why = time.monotonic(), self.stays or "others have it"
        first = now > self._refused_at + SHOWN_S
        if first:
            self._told(FULL, why)
        if first or why != self._said:
            log.warning("there is no room in the cache: %s", why)
        self._said, self._refused_at = why, now
        return failed(errno.ENOSPC)

    # -- telling ---------------------------------------------------------------------------------

    def trouble(self) -> str:
        """What is wrong with the cache's disk, or with how much is cached; '' if nothing is."""
        disk, cached = self._disk, self._store.counters.cached_bytes
        why = f": {self.stays}" if self.stays else ""
        if disk.failed:
            return (
                f"the cache's disk has failed ({disk.failed}): nothing more is taken or replayed;"
                " repair it, then unmount the fileset and mount it again"
            )
        if disk.error:
            return f"the cache's disk: {disk.error}"
        room, refused = disk.room(), time.monotonic() < self._refused_at + SHOWN_S
        if (room.is_full and self.stays) or (room.is_short and refused):
            return f"the cache's disk is full{why}"
        if cached > self.quota.soft and refused:
            return f"cache_size is reached, {cached} of {self.quota.hard} bytes{why}"
        return ""

    @property
    def failed(self) -> bool:
        """Whether nothing more is taken until the fileset is mounted anew."""
        return bool(self._disk.failed)

    def available(self) -> int:
        """Bytes that can still be written, with what can be evicted."""
        counters = self._store.counters
        clean = max(0, counters.cached_bytes - counters.bytes_pending)
        if not self._allowed() or self._evictions.forbidden():
            clean = 0
        room = max(0, self._disk.room().left) + clean
        return min(room, max(0, self.quota.hard - counters.cached_bytes + clean))
