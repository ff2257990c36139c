"""pyfuse3's handlers: translate, call the fileset, translate back.

A node id is an inode number, and a file handle too: the fileset counts opens, and `forget` needs no
table. Requests on the reserved numbers of `.afm` go to the control directory. The kernel has
applied the umask and checked the permissions (default_permissions) before it asks.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
    readdir_reply,
)

from mount import control
from mount.attrs import NO_ENTRY, changes_of, entry_of, space_of
from mount.control import RESERVED, ControlDirectory
from mount.errnos import handler

if TYPE_CHECKING:
    from afmfs.cache.fileset import Fileset
    from afmfs.cache.store.inode import Inode

log = logging.getLogger(__name__)

Rest = TypeVarTuple("Rest")
R = TypeVar("R")
Number = TypeVar("Number", bound=int)  # an inode or a handle

ROOT = pyfuse3.ROOT_INODE
PAGE = 128  # names asked of the fileset at once; a reply of the kernel's usual size takes about 200
SMALL = 1 << 16  # bytes up to which a file is taken to have no holes
CREATE_ONLY = os.O_CREAT | os.O_EXCL | os.O_TRUNC
STATE_XATTR = b"user.afm.state"
SET_ID = stat.S_ISUID | stat.S_ISGID


def routed(
    method: Callable[[Operations, Number, *Rest], Coroutine[Any, Any, R]],
) -> Callable[[Operations, Number, *Rest], Coroutine[Any, Any, R]]:
    """Requests whose first number is one of the control directory's are the control directory's."""
    name = method.__name__

    @functools.wraps(method)
    def route(self: Operations, number: Number, *rest: *Rest) -> Coroutine[Any, Any, R]:
        if number < RESERVED:
            return method(self, number, *rest)
        answer = getattr(self._control, name, self._control.refuse)
        return answer(number, *rest)  # of the same signature

    return route


class Operations(pyfuse3.Operations):
    """All that the kernel may ask, but what pyfuse3 has no handler for."""

    supports_dot_lookup = False

    def __init__(
        self, fileset: Fileset, control: ControlDirectory, *, xattrs: bool, writeback: bool
    ) -> None:
        super().__init__()
        self._fileset = fileset
        self._control = control
        self._xattrs = xattrs
        self.serving = trio.Event()  # the kernel has begun to ask
        self.enable_acl = xattrs
        self.enable_writeback_cache = writeback

    def init(self) -> None:
        self.serving.set()

    def _entry(self, row: Inode) -> EntryAttributes:
        """The answer's attributes; what a large file occupies is asked of the cache's disk."""
        entry = entry_of(row)
        entry.generation = self._fileset.generation(row.ino)
        if row.size > SMALL and stat.S_ISREG(row.mode):
            entry.st_blocks = self._fileset.occupied(row) >> 9
        return entry

    # --- names

    @handler
    @routed
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        if name == control.NAME and parent == ROOT:
            return self._control.entry()
        if len(name) > self._fileset.name_max:
            raise FUSEError(errno.ENAMETOOLONG)
        try:
            return self._entry(await self._fileset.lookup(parent, name))
        except FileNotFoundError:
            return NO_ENTRY

    @handler
    @routed
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        _check_new(parent, name)
        inode = await self._fileset.make(
            parent, name, mode=mode & 0o7777 | stat.S_IFREG, uid=ctx.uid, gid=ctx.gid
        )
        await self._fileset.open(inode.ino, flags & ~CREATE_ONLY)
        return FileInfo(fh=FileHandleT(inode.ino)), self._entry(inode)

    @handler
    @routed
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        _check_new(parent, name)
        inode = await self._fileset.make(
            parent, name, mode=mode, uid=ctx.uid, gid=ctx.gid, rdev=rdev
        )
        return self._entry(inode)

    @handler
    @routed
    async def mkdir(
        self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        _check_new(parent, name)
        return self._entry(
            await self._fileset.make(parent, name, mode=mode, uid=ctx.uid, gid=ctx.gid)
        )

    @handler
    @routed
    async def symlink(
        self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        _check_new(parent, name)
        inode = await self._fileset.make(
            parent, name, mode=stat.S_IFLNK | 0o777, uid=ctx.uid, gid=ctx.gid, target=target
        )
        return self._entry(inode)

    @handler
    @routed
    async def link(
        self, ino: InodeT, new_parent: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        _check_new(new_parent, new_name)
        return self._entry(await self._fileset.link(ino, new_parent, new_name))

    @handler
    @routed
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        _check_old(parent, name)
        await self._fileset.remove(parent, name, directory=False)

    @handler
    @routed
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        _check_old(parent, name)
        await self._fileset.remove(parent, name, directory=True)

    @handler
    @routed
    async def rename(
        self,
        parent: InodeT,
        name: FileNameT,
        new_parent: InodeT,
        new_name: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        _check_old(parent, name)
        _check_old(new_parent, new_name)
        if flags & ~(pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE):
            raise FUSEError(errno.EINVAL)
        await self._fileset.rename(parent, name, new_parent, new_name, flags)

    @handler
    @routed
    async def readlink(self, ino: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self._fileset.readlink(ino))

    # --- attributes

    @handler
    @routed
    async def getattr(self, ino: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fileset.getattr(ino))

    @handler
    @routed
    async def setattr(
        self,
        ino: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        return self._entry(await self._fileset.setattr(ino, **changes_of(attr, fields)))

    @handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return space_of(self._fileset.statfs())

    def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:  # type: ignore[override]
        # No coroutine: pyfuse3 awaits what it gets, if anything, and there is nothing to wait for.
        for ino, _lookups in inode_list:
            if ino < RESERVED:
                try:
                    self._fileset.forget(ino)
                except Exception:  # nobody waits for an answer, and the mount must go on
                    log.exception("forget of inode %d", ino)

    # --- files

    @handler
    @routed
    async def open(self, ino: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        inode = await self._fileset.open(ino, flags)
        if flags & os.O_TRUNC and ctx.uid and inode.mode & SET_ID:
            # The kernel does it at a write or truncate(2), but leaves an O_TRUNC to us.
            mode = stat.S_IMODE(inode.mode) & ~_shed(inode.mode)
            try:
                await self._fileset.setattr(ino, mode=mode)
            except BaseException:
                self._fileset.release(ino)  # an open that fails is followed by no release
                raise
        return FileInfo(fh=FileHandleT(ino))

    @handler
    @routed
    async def read(self, fh: FileHandleT, offset: int, size: int) -> bytes:
        # Its types ask for bytes; pyfuse3 takes any buffer, and a copy less is a copy less.
        return await self._fileset.read(fh, offset, size)  # type: ignore[return-value]

    @handler
    @routed
    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        return await self._fileset.write(fh, offset, data)

    @handler
    @routed
    async def flush(self, fh: FileHandleT) -> None:
        raise FUSEError(errno.ENOSYS)  # once, and the kernel asks no more at any close

    @handler
    @routed
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fileset.fsync(fh)

    @handler
    @routed
    async def release(self, fh: FileHandleT) -> None:
        self._fileset.release(fh)

    # --- directories

    @handler
    @routed
    async def opendir(self, ino: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(ino)

    @handler
    @routed
    async def readdir(self, fh: FileHandleT, start: int, token: ReaddirToken) -> None:
        """Positions 1 and 2 are those after `.` and `..`, the fileset's cookies follow."""
        for position, name in enumerate((b".", b"..")[start:], start + 1):
            inode = await self._fileset.lookup(fh, name)
            if not readdir_reply(token, FileNameT(name), self._entry(inode), position):
                return
        cookie = max(start - 2, 0)
        while page := await self._fileset.readdir(fh, cookie, PAGE):
            for name, inode, cookie in page:
                if not readdir_reply(token, FileNameT(name), self._entry(inode), cookie + 2):
                    return

    @handler
    @routed
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fileset.fsync(fh)

    @handler
    @routed
    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    # --- extended attributes

    @handler
    async def getxattr(self, ino: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        self._check_xattrs()
        if ino >= RESERVED:
            raise FUSEError(errno.ENODATA)
        if name == STATE_XATTR:
            return (await self._fileset.cached_state(ino)).encode()
        return await self._fileset.getxattr(ino, name)

    @handler
    async def setxattr(
        self, ino: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        self._check_xattrs()
        if ino >= RESERVED or name == STATE_XATTR:
            raise FUSEError(errno.EPERM)
        # pyfuse3 has dealt with XATTR_CREATE and XATTR_REPLACE by asking getxattr.
        await self._fileset.setxattr(ino, name, value, 0)

    @handler
    async def listxattr(self, ino: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        self._check_xattrs()
        if ino >= RESERVED:
            return []
        return [XAttrNameT(name) for name in await self._fileset.listxattr(ino)]

    @handler
    async def removexattr(self, ino: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self._check_xattrs()
        if ino >= RESERVED or name == STATE_XATTR:
            raise FUSEError(errno.EPERM)
        await self._fileset.removexattr(ino, name)

    def _check_xattrs(self) -> None:
        # ENOSYS once, and the kernel no longer asks for security.capability before each write.
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)


def _check_new(parent: int, name: bytes) -> None:
    """`.afm` is there already, and nothing can be made in it."""
    if parent >= RESERVED:
        raise FUSEError(errno.EPERM)
    if name == control.NAME and parent == ROOT:
        raise FUSEError(errno.EEXIST)


def _shed(mode: int) -> int:
    """The bits that a change by an unprivileged user takes from a file. Set-group-ID without
    execution by the group never was one."""
    return SET_ID if mode & stat.S_IXGRP else stat.S_ISUID


def _check_old(parent: int, name: bytes) -> None:
    """`.afm` is neither removed nor renamed nor replaced."""
    if parent >= RESERVED or (name == control.NAME and parent == ROOT):
        raise FUSEError(errno.EPERM)
