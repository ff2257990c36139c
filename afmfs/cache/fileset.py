"""The fileset: everything that the mount and the commands ask for, composed of the parts.

Runs on the loop thread. A stretch without an await is a critical section; what awaits between
reading and changing an inode holds its lock (`InodeLocks`), and looks up again what it knew. The
order, where several are needed: inode lock, then a durable point, then a transaction. Nothing waits
for home under any of them.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from afmfs.cache.evict.room import roomy
from afmfs.cache.home.link import StartGateway, start_gateway
from afmfs.cache.life import Life
from afmfs.cache.names.namespace import Unread, failed
from afmfs.cache.store.inode import LISTED, Inode
from afmfs.cache.store.opening import opening
from afmfs.cache.store.settings import Settings
from afmfs.errors import is_full
from afmfs.model.entry import ROOT, UNTOLD


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


class Fileset(Life):
    """One cache of one home, served."""

    # -- names -----------------------------------------------------------------------------------

    @property
    def name_max(self) -> int:
        """Longest name that home can hold, bytes."""
        return int(self._link.home.properties.get("name_max") or 255)

    def _check_links(self) -> None:
        """EPERM where home is known to have no hard links, as there; before it was ever seen,
        nothing is known."""
        known = self._link.home.properties or json.loads(self._store.get("properties") or "{}")
        if not known.get("hard_links", True):
            raise failed(errno.EPERM)

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
        self._sizes.looked_up(inode.ino)
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
        return self._namespace.make(
            directory, name, mode=mode, uid=uid, gid=gid, rdev=rdev, target=target,
            inherit=self._xattrs.inherit if self.settings.tunables.xattrs else None,
        )  # fmt: skip

    @roomy
    async def link(self, ino: int, parent: int, name: bytes) -> Inode:
        self.touched = True
        self._check_name(name)
        self._check_links()
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
        if target == UNTOLD:
            raise failed(errno.EPERM)  # as home has answered
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
        inode = self._inode(ino) if size is not None else await self.getattr(ino)
        now = time.time_ns()
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
            self._sizes.resized(ino, size)
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
        self._sizes.check_open(ino)
        self._usage.touch(ino)
        self._open[ino] = self._open.get(ino, 0) + 1
        try:
            if flags & os.O_TRUNC:  # also for reading: the kernel has asked for the right to write
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
        self._sizes.closed(ino)
        inode = self._store.inode(ino)
        if inode is not None and (not inode.nlink or ino in self._namespace.kept):
            self._namespace.reap(inode)
            self._content.retired(ino, 0)  # what is written to it is never queued

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
        if self._sizes.doubtful:
            self._sizes.check_write(ino, offset, offset + len(data))
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

    # -- extended attributes ---------------------------------------------------------------------

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        return self._xattrs.get(await self.getattr(ino), name)

    @roomy
    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self._xattrs.set(self._inode(ino), name, value, flags)

    async def listxattr(self, ino: int) -> list[bytes]:
        return self._xattrs.names(await self.getattr(ino))

    @roomy
    async def removexattr(self, ino: int, name: bytes) -> None:
        self._xattrs.remove(self._inode(ino), name)


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
