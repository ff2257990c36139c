"""The life of a fileset: the parts that it is composed of, its start, and its end."""

from __future__ import annotations

import logging
import sqlite3
import stat
from functools import partial

import trio

from afmfs.cache.content import leftovers
from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.content import Content
from afmfs.cache.content.durable import Durable
from afmfs.cache.content.fetch import Fetcher
from afmfs.cache.content.kernel import Invalidator, KernelPages
from afmfs.cache.content.locks import InodeLocks
from afmfs.cache.content.recovery import Recovery
from afmfs.cache.content.sizes import KernelSizes
from afmfs.cache.content.validity import Validity
from afmfs.cache.evict.evict import Evictions, Run
from afmfs.cache.evict.room import Room
from afmfs.cache.evict.usage import Usage
from afmfs.cache.home.link import GatewayLink, StartGateway
from afmfs.cache.home.retire import Retirement
from afmfs.cache.home.settle import Settlement
from afmfs.cache.home.trash import TrashDesk
from afmfs.cache.job.jobs import RECOVERY
from afmfs.cache.names.listing import Lister
from afmfs.cache.names.lost_names import LostNames
from afmfs.cache.names.namespace import Namespace
from afmfs.cache.names.xattrs import Xattrs
from afmfs.cache.steering import Steering
from afmfs.cache.store.checkpoint import Checkpointer
from afmfs.cache.store.inode import UNREAD, Inode
from afmfs.cache.store.settings import Settings, damaged
from afmfs.cache.store.store import Store
from afmfs.errors import Refused, is_damage
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.quota import quota
from afmfs.model.states import Link

log = logging.getLogger(__name__)

FIRST_MOUNT_S, LATER_MOUNT_S = 10.0, 1.0
"""How long a mount waits for home: the first needs it, a later one only wants to hear a refusal."""


class Life(Steering):
    """The parts of a fileset, and when they begin and end. Requests are answered by `Fileset`."""

    def __init__(self, settings: Settings, start: StartGateway) -> None:
        self.settings = settings
        self._store = store = Store(settings.cache / "cache.db")
        self._blobs = Blobs(settings.cache, partial(leftovers.take, store), store.disk)
        self._blobs.in_reclaim.update(
            ino for (ino,) in store.execute("SELECT ino FROM reclaim WHERE start > 0")
        )
        self._locks = InodeLocks()
        self._validity = Validity(store, settings.block_size)
        self._durable = Durable(store, self._blobs, self._locks)
        self._content = Content(
            store, self._blobs, self._validity, self._locks, self._durable.sync_wal
        )
        self._durable.attach(self._content)
        self._open: dict[int, int] = {}  # inode -> open handles
        self._namespace = Namespace(store, self._open.__contains__, self._validity)
        self._xattrs = Xattrs(store)
        home = settings.cache / "gateway" / str(settings.home_number)
        self._kernel = KernelPages()
        self._sizes = KernelSizes(
            store, self._namespace, self._kernel, self._open.__contains__, self.read,
            keeps=settings.tunables.writeback,
        )  # fmt: skip
        self.generation = self._sizes.generation
        self._retirement = Retirement(
            store, home / "gateway.db", self._content, self._kernel.forget, self._sizes.adopted
        )
        self._link = GatewayLink(
            lambda sock: start(settings.cache, self.settings.home_number, sock),
            self.hello,
            home_timeout_s=settings.tunables.home_timeout,
            life_timeout_s=settings.tunables.life_timeout,
        )
        self._fetcher = Fetcher(
            store, self._content, self._validity, self._link, lambda: self._durable.point,
            settings.tunables.home_timeout,
        )  # fmt: skip
        self._content.truncated = self._fetcher.void
        self._usage = Usage(store)
        self._fetcher.used = self._usage.touch
        self.evictions = Evictions(
            store, self._content, self._locks, self._kernel, self._usage,
            home_is_up=lambda: self._link.home.link is Link.UP,
            durable_point=self._durable.make,
            ended=self._evicted,
        )  # fmt: skip
        self._lister = Lister(store, self._namespace, self._link)
        self._lost_names = LostNames(
            store, self._namespace, self._lister, self._link, self._kernel,
            takes_over=settings.takeover,
        )  # fmt: skip
        self._checkpointer = Checkpointer(store, self._link.kill)
        self.room = Room(
            store, self.evictions, self._usage, self,
            allowed=lambda: self.settings.tunables.auto_eviction,
            shorten_log=self._checkpointer.shorten,
            durable_point=self._durable.make,
            told=self._tell_of_disk,
        )  # fmt: skip
        self._set_quota()
        self.trash = TrashDesk(
            store, self._content, self._namespace, self._lister, self._kernel, self._link,
            Settlement(store, self._content), home / "gateway.db", self._retirement.take_over,
            self._durable.sync_wal,
        )  # fmt: skip
        self._start = start
        super().__init__()

    def _tell_of_disk(self, event: str, why: str) -> None:
        """A disk that takes no event any more holds up no callback."""
        try:
            self.record_event(event, reason=why)
        except (OSError, sqlite3.Error):
            self.callbacks.fire(event, reason=why)

    def _set_quota(self) -> None:
        tunables, room = self.settings.tunables, self.room
        room.quota = self._content.quota = quota(
            tunables.cache_size, tunables.evict_at, self._store.disk.total
        )
        self._content.crowded = self._store.disk.short = room.crowded
        self._fetcher.make_room = room.make

    @property
    def invalidator(self) -> Invalidator | None:
        """The mount's way to the kernel, once there is one."""
        return self._kernel.invalidator

    @invalidator.setter
    def invalidator(self, invalidator: Invalidator | None) -> None:
        self._kernel.invalidator = invalidator

    def release(self, ino: int) -> None:
        """A handle is closed."""
        raise NotImplementedError

    async def read(self, ino: int, offset: int, size: int) -> bytes | bytearray:
        """Bytes of a file."""
        raise NotImplementedError

    def _evicted(self, run: Run) -> None:
        """An eviction down to a limit has ended."""
        try:
            self.record_event("afmEvictEnd", files=run.files, bytes=run.bytes, reason=run.reason)
        except (OSError, sqlite3.Error) as exc:
            log.error("the end of an eviction can't be recorded: %s", exc)

    # -- its beginning and its end ---------------------------------------------------------------

    def run_in(self, nursery: trio.Nursery) -> None:
        """Start everything that runs beside the requests."""
        super().run_in(nursery)
        self.evictions.nursery = nursery
        nursery.start_soon(self._kernel.run)
        nursery.start_soon(self._sizes.run)
        self.trash.nursery = nursery
        nursery.start_soon(self.trash.run)
        nursery.start_soon(self._lost_names.run)
        nursery.start_soon(self._usage.run)
        nursery.start_soon(self.room.run)

    def recover(self) -> None:
        """Make the cache fit to be served. Durable on return. Refused if it is damaged."""
        recovery = Recovery(
            self._store, self._blobs, self._validity, self._namespace, self._retirement
        )
        try:
            unclean = recovery.run()
        except sqlite3.DatabaseError as exc:
            if is_damage(exc):
                raise damaged(self.settings.cache, exc) from exc
            raise
        self.jobs.reload()
        job = self.jobs.current
        if unclean and (job is None or job.kind != RECOVERY):
            self.record_event("afmRecoveryStart")
            self.recovering = True

    async def connect(self) -> None:
        """Wait for home's first answer: needed at the first mount, else only to hear a refusal."""
        first = self._store.inode(ROOT) is None
        with trio.move_on_after(FIRST_MOUNT_S if first else LATER_MOUNT_S):
            await self._link.wait_known()
        home = self._link.home
        if home.hint:  # the marker forbids it: another cache's home, or an old copy of this cache
            raise Refused(f"{home.reason}: {home.hint}")
        if not first:
            return
        if home.link is not Link.UP:
            raise Refused(
                f"{self.settings.target} can't be reached"
                f" ({home.reason or 'it does not answer'}):"
                " the first mount of a cache needs its home"
            )
        self._plant(home.home_st)

    def _plant(self, st: dict[str, int]) -> None:
        """The root, and the hidden directory of what is unlinked while open."""
        with self._store as store:
            store.add(
                Inode(
                    ROOT, st["mode"], st["uid"], st["gid"], 0, st["nlink"], st["size"],
                    st["atime"], st["mtime"], st["ctime"],
                    listed=UNREAD, home_size=st["size"], home_mtime=st["mtime"],
                    home_ino=st["ino"],
                )
            )  # fmt: skip
            store.add(Inode(UNLINKED, stat.S_IFDIR | 0o700, 0, 0, 0, 2, 0, 0, 0, 0))
        store.sync_wal()

    def abandon(self) -> None:
        """Let go of a cache that can't be served."""
        self._retirement.close()
        self._checkpointer.close()
        self._blobs.close()
        self._store.close()

    async def close(self) -> None:
        """Stop within seconds; what is pending stays in the cache and goes on at the next mount."""
        with trio.CancelScope(shield=True):
            await self._link.stop()
            for ino in list(self._open):
                self._open[ino] = 1
                self._release_at_end(ino)
            self._retirement.close()
            self.reports.close()
            self._checkpointer.close()
            try:
                await self._leave_clean()
            except (OSError, sqlite3.Error) as exc:  # as after a kill: the next start mends it
                log.error("the cache's disk: %s", exc)
            self._store.close()

    def _release_at_end(self, ino: int) -> None:
        try:
            self.release(ino)
        except (OSError, sqlite3.Error) as exc:  # as after a kill: the next start mends it
            log.error("inode %d can't be released: %s", ino, exc)

    async def _leave_clean(self) -> None:
        """The last durable point, and the record that it was the last."""
        try:
            self._usage.write_at_once()
            await self._durable.make()
        finally:
            self._blobs.close()
        with self._store as store:
            store.put("clean", 1)
            leftovers.begin(store)  # nothing of the pool is left
        await self._durable.sync_wal()
