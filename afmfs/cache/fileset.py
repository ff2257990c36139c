"""The fileset: everything that the mount and the commands ask for, composed of the parts.

Runs on the loop thread. A stretch without an await is a critical section; what awaits between
reading and changing an inode holds its lock (`InodeLocks`), and looks up again what it knew. The
order, where several are needed: inode lock, then a durable point, then a transaction. Nothing waits
for home under any of them.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import trio

from afmfs.cache.content import leftovers
from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.content import Content
from afmfs.cache.content.durable import Durable
from afmfs.cache.content.fetch import Fetcher
from afmfs.cache.content.kernel import Invalidator, KernelPages
from afmfs.cache.content.locks import InodeLocks
from afmfs.cache.content.recovery import Recovery
from afmfs.cache.content.validity import Validity
from afmfs.cache.evict.evict import Evictions, Run
from afmfs.cache.evict.room import Room, roomy
from afmfs.cache.evict.usage import Usage
from afmfs.cache.home.link import GatewayLink, StartGateway, start_gateway
from afmfs.cache.home.retire import Retirement
from afmfs.cache.home.settle import Settlement
from afmfs.cache.home.trash import TrashDesk
from afmfs.cache.job.jobs import RECOVERY
from afmfs.cache.names.listing import Lister
from afmfs.cache.names.namespace import Namespace, Unread, failed
from afmfs.cache.names.xattrs import Xattrs
from afmfs.cache.steering import Steering
from afmfs.cache.store.checkpoint import Checkpointer
from afmfs.cache.store.inode import LISTED, UNREAD, Inode
from afmfs.cache.store.opening import opening
from afmfs.cache.store.settings import Settings, damaged
from afmfs.cache.store.store import Store
from afmfs.errors import Refused, is_damage, is_full
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.quota import quota
from afmfs.model.states import Link

log = logging.getLogger(__name__)

FIRST_MOUNT_S, LATER_MOUNT_S = 10.0, 1.0
"""How long a mount waits for home: the first needs it, a later one only wants to hear a refusal."""


class Statfs(NamedTuple):
    """Sizes in units of `bsize` bytes."""

    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    namemax: int


class Fileset(Steering):
    """One cache of one home, served."""

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
        self._retirement = Retirement(
            store, home / "gateway.db", self._content, self._kernel.forget
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

    # -- names -----------------------------------------------------------------------------------

    @property
    def name_max(self) -> int:
        """Longest name that home can hold, bytes."""
        return int(self._link.home.properties.get("name_max") or 255)

    def _inode(self, ino: int) -> Inode:
        inode = self._store.inode(ino)
        if inode is None:
            raise failed(errno.ESTALE)
        return inode

    async def _directory(self, ino: int) -> Inode:
        """The directory, its names read from home."""
        inode = self._inode(ino)
        if inode.listed != LISTED:
            await self.room.given(lambda: self._lister.ensure(inode))
        if not inode.is_dir:
            raise failed(errno.ENOTDIR)
        return inode

    async def lookup(self, parent: int, name: bytes) -> Inode:
        """The object at a name. ENOENT; EIO in an unread directory while home can't be asked."""
        self.touched = True
        directory = await self._directory(parent)
        if name == b"..":
            places = self._namespace.places(parent)
            return self._inode(places[0][0] if places else ROOT)
        inode = directory if name == b"." else self._namespace.find(parent, name)
        if inode is None:
            raise failed(errno.ENOENT)
        return inode

    @roomy
    async def make(
        self,
        parent: int,
        name: bytes,
        *,
        mode: int,
        uid: int,
        gid: int,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """A new file, directory, symbolic link or special file; `mode` has the type bits."""
        self.touched = True
        self._check_name(name)
        directory = await self._directory(parent)
        inode = self._namespace.make(
            directory, name, mode=mode, uid=uid, gid=gid, rdev=rdev, target=target
        )
        if self.settings.tunables.xattrs:
            self._xattrs.inherit(directory, inode)
        return inode

    @roomy
    async def link(self, ino: int, parent: int, name: bytes) -> Inode:
        self.touched = True
        self._check_name(name)
        directory = await self._directory(parent)
        inode = self._inode(ino)
        self._namespace.link(inode, directory, name)
        return inode

    @roomy
    async def remove(self, parent: int, name: bytes, *, directory: bool) -> None:
        """unlink(2) or rmdir(2)."""
        self.touched = True
        where = await self._directory(parent)
        try:
            self._namespace.remove(where, name, directory=directory)
        except Unread as unread:
            await self._lister.ensure(unread.directory)
            self._namespace.remove(where, name, directory=directory)

    @roomy
    async def rename(
        self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        """renameat2(2): flags 0, 1 (NOREPLACE) or 2 (EXCHANGE)."""
        self.touched = True
        self._check_name(name2)
        source, target = await self._directory(parent), await self._directory(parent2)
        try:
            self._namespace.rename(source, name, target, name2, flags)
        except Unread as unread:
            await self._lister.ensure(unread.directory)
            self._namespace.rename(source, name, target, name2, flags)

    def _check_name(self, name: bytes) -> None:
        if len(name) > self.name_max:
            raise failed(errno.ENAMETOOLONG)

    async def readdir(self, ino: int, cookie: int, limit: int) -> list[tuple[bytes, Inode, int]]:
        """Up to `limit` entries that follow `cookie` (0: the first); name, inode, its cookie."""
        self.touched = True
        await self._directory(ino)
        return self._namespace.page(ino, cookie, limit)

    async def readlink(self, ino: int) -> bytes:
        target = self._inode(ino).target
        if target is None:
            raise failed(errno.EINVAL)
        return target

    # -- attributes ------------------------------------------------------------------------------

    async def getattr(self, ino: int) -> Inode:
        """The inode, also one that was removed while somebody still holds it."""
        inode = self._store.inode(ino) or self._namespace.ghosts.get(ino)
        if inode is None:
            raise failed(errno.ESTALE)
        return inode

    @roomy
    async def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
        ctime: int | None = None,
    ) -> Inode:
        """chmod, chown, truncate, utimens, together or alone. Times in ns. Never waits for home."""
        self.touched = True
        inode, now = self._inode(ino), time.time_ns()
        changes: dict[str, int] = {"ctime": ctime or now}
        if size is not None:
            changes["mtime"] = now
        given = {"uid": uid, "gid": gid, "atime": atime, "mtime": mtime}
        changes |= {key: value for key, value in given.items() if value is not None}
        if mode is not None:
            changes["mode"] = inode.kind | stat.S_IMODE(mode)
        if size is not None and size != inode.size:
            now_changed = {key: changes[key] for key in ("ctime", "mtime")}
            await self.room.given(
                lambda: self._content.resize(inode, size, changes=now_changed), size - inode.size
            )
            if len(changes) == 2:
                return inode
        self._namespace.set_attributes(inode, changes)
        if mode is not None and self.settings.tunables.xattrs:
            self._xattrs.mode_changed(inode)
        return inode

    def occupied(self, inode: Inode) -> int:
        """Bytes that a file takes without its holes, as far as they are known here."""
        if not inode.whole:
            return inode.size
        fd = self._blobs.descriptor(inode)
        return 0 if fd is None else os.fstat(fd).st_blocks * 512

    def statfs(self) -> Statfs:
        """Home's size and free space as the gateway last saw them; available is the lesser of that
        and what the cache can still take."""
        here = os.statvfs(self.settings.cache)
        home = self._link.home.statvfs or self.remembered_statvfs()
        unit = home.get("bsize") or here.f_frsize
        room = self.room.available() // unit
        return Statfs(
            unit,
            home.get("blocks", here.f_blocks * here.f_frsize // unit),
            home.get("bfree", room),
            min(home.get("bavail", room), room),
            home.get("files", here.f_files),
            home.get("ffree", here.f_ffree),
            home.get("favail", here.f_favail),
            self.name_max,
        )

    # -- open files ------------------------------------------------------------------------------

    async def open(self, ino: int, flags: int) -> Inode:
        self.touched = True
        inode = self._inode(ino)
        self._usage.touch(ino)
        self._open[ino] = self._open.get(ino, 0) + 1
        try:
            if flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY:
                await self.setattr(ino, size=0)
        except BaseException:
            self.release(ino)
            raise
        return inode

    def release(self, ino: int) -> None:
        """One handle less; the last one of an unlinked file ends it."""
        left = self._open[ino] - 1
        if left:
            self._open[ino] = left
            return
        del self._open[ino]
        inode = self._store.inode(ino)
        if inode is not None and (not inode.nlink or ino in self._namespace.kept):
            self._namespace.reap(inode)

    async def read(self, ino: int, offset: int, size: int) -> bytes | bytearray:
        """Bytes at `offset`; fewer only at the end. EIO where uncached blocks can't be fetched."""
        self.touched = True
        inode = self._inode(ino)
        if self.room.failed and self._durable.is_doubtful(inode, offset, offset + size):
            raise failed(errno.EIO)
        if inode.whole:
            return await self._content.read(inode, offset, size)
        spare = await self._fetcher.ensure(inode, offset, offset + size)
        return await self._content.read(inode, offset, size, spare)

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        """All of `data` is in the cache and queued on return. Waits for home only where nothing but
        what home is yet to get fills the cache."""
        self.touched = True
        inode = self._inode(ino)
        try:
            return await self._content.write(inode, offset, data)
        except (OSError, sqlite3.Error) as exc:
            if not is_full(exc):
                raise
        need = max(len(data), offset + len(data) - inode.size)
        return await self.room.retry(
            lambda: self._content.write(self._inode(ino), offset, data), need, patient=True
        )

    async def fsync(self, ino: int) -> None:
        """The object is durable in the cache on return: its bytes, and what names it."""
        inode = self._store.inode(ino)
        if inode is None:
            await self._durable.sync_wal()
        else:
            await self._durable.fsync(inode)

    def forget(self, ino: int) -> None:
        """The kernel has dropped an inode."""
        self._namespace.ghosts.pop(ino, None)

    def _evicted(self, run: Run) -> None:
        """An eviction down to a limit has ended."""
        try:
            self.record_event("afmEvictEnd", files=run.files, bytes=run.bytes, reason=run.reason)
        except (OSError, sqlite3.Error) as exc:
            log.error("the end of an eviction can't be recorded: %s", exc)

    # -- extended attributes ---------------------------------------------------------------------

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        return self._xattrs.get(self._inode(ino), name)

    @roomy
    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self._xattrs.set(self._inode(ino), name, value, flags)

    async def listxattr(self, ino: int) -> list[bytes]:
        return self._xattrs.names(self._inode(ino))

    @roomy
    async def removexattr(self, ino: int, name: bytes) -> None:
        self._xattrs.remove(self._inode(ino), name)

    # -- life ------------------------------------------------------------------------------------

    def run_in(self, nursery: trio.Nursery) -> None:
        """Start everything that runs beside the requests."""
        super().run_in(nursery)
        self.evictions.nursery = nursery
        nursery.start_soon(self._kernel.run)
        self.trash.nursery = nursery
        nursery.start_soon(self.trash.run)
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


@asynccontextmanager
async def open_fileset(
    settings: Settings, start: StartGateway = start_gateway
) -> AsyncIterator[Fileset]:
    """A fileset that is served inside the block: recovered, its gateway running.

    Refused where home forbids it, or the first mount does not find home.
    """
    try:
        with opening(settings.cache):
            fileset = Fileset(settings, start)
            try:
                fileset.recover()
            except BaseException:
                fileset.abandon()
                raise
        async with trio.open_nursery() as link:
            fileset.start_link(link)
            try:
                async with trio.open_nursery() as nursery:
                    fileset.run_in(nursery)
                    await fileset.connect()
                    yield fileset
                    nursery.cancel_scope.cancel()
            finally:  # nothing runs beside it any more: no thread uses what is closed
                await fileset.close()
                link.cancel_scope.cancel()
    finally:
        if settings.lock is not None:
            settings.lock.close()
