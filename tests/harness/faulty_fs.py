"""A home that a test can make slow, stuck or refusing: FUSE over a directory, faults on demand.

Nothing is remembered by the kernel, so that each call at home is at least one request; each request
waits for as long as the test says, then fails with the errno that the test says, or is done. Faults
come over standard input, a JSON object a line, each answered by a line once it holds. Run as root:
everybody is let in, and the kernel checks permissions.

    python -m tests.harness.faulty_fs SOURCE MOUNTPOINT
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

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
)

from afmfs.gateway.home import syscalls
from tests.harness.mounting import REPOSITORY, Watchdog, force_unmount, mounted_at

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OPENED = os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL


LOOK, CHANGE, GROW = "look", "change", "grow"
"""Kinds of requests. What grows takes room at home, which a change alone does not."""


def _faulty(
    kind: str,
) -> Callable[
    [Callable[Concatenate[FaultyFs, _P], Coroutine[Any, Any, _R]]],
    Callable[Concatenate[FaultyFs, _P], Coroutine[Any, Any, _R]],
]:
    """A handler behind the faults that are there for its kind."""

    def decorate(
        handler: Callable[Concatenate[FaultyFs, _P], Coroutine[Any, Any, _R]],
    ) -> Callable[Concatenate[FaultyFs, _P], Coroutine[Any, Any, _R]]:
        async def gated(self: FaultyFs, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            if self.delay:
                await trio.sleep(self.delay)
            if self.errno and kind in self.kinds and self._concerns(args[0]):
                raise FUSEError(self.errno)
            try:
                return await handler(self, *args, **kwargs)
            except OSError as exc:
                raise FUSEError(exc.errno or errno.EIO) from exc

        return gated

    return decorate


class FaultyFs(pyfuse3.Operations):
    """Each inode that the kernel knows is an O_PATH descriptor, so that renames mean nothing."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.delay, self.errno = 0.0, 0
        self.kinds: list[str] = []
        self.of = 0  # the number of the one inode that is concerned; 0: all are
        self._held = {pyfuse3.ROOT_INODE: os.open(source, os.O_PATH)}
        self._lookups = {pyfuse3.ROOT_INODE: 1}
        self._lists: dict[int, list[bytes]] = {}

    def set(self, faults: dict[str, Any]) -> None:
        """From the next request on."""
        self.delay, self.errno, self.kinds = faults["delay"], faults["errno"], faults["kinds"]
        self.of = faults["of"]

    def _concerns(self, number: Any) -> bool:
        """By a request's first argument: an inode or, where they are open, a descriptor."""
        held = number in self._held
        return not self.of or (number if held else os.fstat(number).st_ino) == self.of

    # -- inodes

    def _path(self, ino: int) -> str:
        return f"/proc/self/fd/{self._held[InodeT(ino)]}"

    def _attributes(self, fd: int, ino: int) -> EntryAttributes:
        st, entry = os.fstat(fd), EntryAttributes()
        for name in (
            "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize",
            "st_blocks", "st_atime_ns", "st_mtime_ns", "st_ctime_ns",
        ):  # fmt: skip
            setattr(entry, name, getattr(st, name))
        entry.st_ino = InodeT(ino)
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _found(self, parent: int, name: bytes) -> EntryAttributes:
        """The kernel comes to know one more name of an inode."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._held[InodeT(parent)])
        ino = InodeT(os.fstat(fd).st_ino)
        if ino in self._held:
            os.close(fd)
        else:
            self._held[ino], self._lookups[ino] = fd, 0
        self._lookups[ino] += 1
        return self._attributes(self._held[ino], ino)

    async def forget(self, inode_list: Any) -> None:
        for ino, count in inode_list:
            self._lookups[ino] -= count
            if not self._lookups[ino]:
                del self._lookups[ino]
                os.close(self._held.pop(ino))

    @_faulty(LOOK)
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._found(parent, name)

    @_faulty(LOOK)
    async def getattr(self, ino: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._held[ino], ino)

    @_faulty(CHANGE)
    async def setattr(
        self,
        ino: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        path, old = self._path(ino), os.fstat(self._held[ino])
        if fields.update_size:
            os.truncate(path, attr.st_size)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            os.chown(path, uid, attr.st_gid if fields.update_gid else -1)
        if fields.update_atime or fields.update_mtime:
            atime = attr.st_atime_ns if fields.update_atime else old.st_atime_ns
            mtime = attr.st_mtime_ns if fields.update_mtime else old.st_mtime_ns
            os.utime(path, ns=(atime, mtime))
        return self._attributes(self._held[ino], ino)

    # -- names

    @_faulty(LOOK)
    async def readlink(self, ino: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(os.readlink(b"", dir_fd=self._held[ino]))

    def _made(self, parent: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        os.chown(name, ctx.uid, ctx.gid, dir_fd=self._held[parent], follow_symlinks=False)
        return self._found(parent, name)

    @_faulty(GROW)
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        os.mknod(name, mode, rdev, dir_fd=self._held[parent])
        return self._made(parent, name, ctx)

    @_faulty(GROW)
    async def mkdir(
        self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        os.mkdir(name, mode, dir_fd=self._held[parent])
        return self._made(parent, name, ctx)

    @_faulty(GROW)
    async def symlink(
        self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        os.symlink(target, name, dir_fd=self._held[parent])
        return self._made(parent, name, ctx)

    @_faulty(GROW)
    async def link(
        self, ino: InodeT, parent: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        os.link(self._path(ino), name, dst_dir_fd=self._held[parent], follow_symlinks=True)
        return self._found(parent, name)

    @_faulty(CHANGE)
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.unlink(name, dir_fd=self._held[parent])

    @_faulty(CHANGE)
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.rmdir(name, dir_fd=self._held[parent])

    @_faulty(CHANGE)
    async def rename(
        self,
        parent: InodeT,
        name: FileNameT,
        parent2: InodeT,
        name2: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        syscalls.renameat2(self._held[parent], name, self._held[parent2], name2, flags)

    # -- directories

    @_faulty(LOOK)
    async def opendir(self, ino: InodeT, ctx: RequestContext) -> FileHandleT:
        fd = os.open(self._path(ino), os.O_RDONLY | os.O_DIRECTORY)
        self._lists[fd] = sorted(map(os.fsencode, os.listdir(fd)))
        return FileHandleT(fd)

    @_faulty(LOOK)
    async def readdir(self, fh: FileHandleT, start: int, token: ReaddirToken) -> None:
        ino = os.fstat(fh).st_ino
        parent = ino if InodeT(ino) in self._held else pyfuse3.ROOT_INODE
        for number, name in enumerate(self._lists[fh][start:], start + 1):
            try:
                entry = self._found(parent, name)
            except FileNotFoundError:
                continue
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, number):
                await self.forget([(entry.st_ino, 1)])
                return

    @_faulty(LOOK)
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        os.fsync(fh)

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._lists[fh]
        os.close(fh)

    # -- files

    @_faulty(LOOK)
    async def open(self, ino: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=FileHandleT(os.open(self._path(ino), flags & ~_OPENED)))

    @_faulty(GROW)
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        fd = os.open(name, flags | os.O_CREAT, mode, dir_fd=self._held[parent])
        return FileInfo(fh=FileHandleT(fd)), self._made(parent, name, ctx)

    @_faulty(LOOK)
    async def read(self, fh: FileHandleT, offset: int, size: int) -> bytes:
        return os.pread(fh, size, offset)

    @_faulty(GROW)
    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        return os.pwrite(fh, data, offset)

    @_faulty(LOOK)
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        os.fsync(fh)

    async def release(self, fh: FileHandleT) -> None:
        os.close(fh)

    @_faulty(LOOK)
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found, answer = os.fstatvfs(self._held[pyfuse3.ROOT_INODE]), StatvfsData()
        for name in (
            "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree",
            "f_favail", "f_namemax",
        ):  # fmt: skip
            setattr(answer, name, getattr(found, name))
        return answer


async def _take_faults(fs: FaultyFs) -> None:
    """Until whoever started it is gone."""
    buffer = b""
    while data := await trio.lowlevel.FdStream(os.dup(0)).receive_some():
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            fs.set(json.loads(line))
            os.write(1, b"ok\n")


def _serve(source: str, mountpoint: str) -> None:
    fs = FaultyFs(source)
    options = {*pyfuse3.default_options, "default_permissions", "allow_other", "fsname=faulty"}
    pyfuse3.init(fs, mountpoint, options)
    os.write(1, b"ok\n")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_faults, fs)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    trio.run(main)
    pyfuse3.close(unmount=False)


class FaultyHome:
    """Such a file system, mounted at `path` over `source`, and its daemon."""

    def __init__(self, source: Path, path: Path, *, watch: float = 180.0) -> None:
        self.source, self.path, self._watch = source, path, watch
        self.path.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._dog: Watchdog | None = None

    def mount(self) -> None:
        """Serves, without faults, on return."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.faulty_fs", str(self.source), str(self.path)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._await_answer()
        entry = mounted_at(self.path)
        assert entry is not None
        self._dog = Watchdog(entry, self._watch, self.path.with_name("faulty watchdog"))

    def set(
        self,
        *,
        delay: float = 0.0,
        errno: int = 0,
        kinds: Sequence[str] = (LOOK, CHANGE, GROW),
        of: str = "",
    ) -> None:
        """From now on each request takes `delay` seconds, and fails with `errno`, if any, where it
        is of these `kinds`, and about the object at path `of`, if any."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = (self.source / of).stat().st_ino if of else 0
        faults = {"delay": delay, "errno": errno, "kinds": list(kinds), "of": number}
        self._process.stdin.write(json.dumps(faults).encode() + b"\n")
        self._process.stdin.flush()
        self._await_answer()

    def _await_answer(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ok\n", "the faulty file system has ended"

    def stop(self) -> None:
        """It answers nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def cont(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """A dead mount stays."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()
        self._process = None

    def unmount(self) -> None:
        """Neither mount nor daemon are left, whatever state they are in."""
        if self._process is not None:
            self.kill()
        force_unmount(self.path)
        if self._dog is not None:
            assert not self._dog.call_off(), "home had to be freed"
            self._dog = None

    def __enter__(self) -> FaultyHome:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
