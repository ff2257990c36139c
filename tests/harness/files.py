"""The same calls on a directory of the kernel and on the engine without a kernel.

Paths are bytes, relative to a root, without a leading slash. A handle is whatever `open` returns.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from tests.harness.syscalls import renameat2


class Look(NamedTuple):
    """What a stat tells that two file systems must agree on."""

    mode: int
    nlink: int
    owner: tuple[int, int]
    size: int | None  # of files and symlinks


class Times(NamedTuple):
    atime: int
    mtime: int


class Files(Protocol):
    """A tree that a test works on."""

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> Any: ...
    def close(self, handle: Any) -> None: ...
    def write(self, handle: Any, offset: int, data: bytes) -> int: ...
    def append(self, handle: Any, data: bytes) -> int: ...
    def read(self, handle: Any, offset: int, size: int) -> bytes: ...
    def map_write(self, handle: Any, offset: int, data: bytes) -> None: ...
    def cut(self, handle: Any, size: int) -> None: ...
    def look_at(self, handle: Any) -> Look: ...
    def fsync(self, handle: Any) -> None: ...
    def truncate(self, path: bytes, size: int) -> None: ...
    def mkdir(self, path: bytes, mode: int) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def rename(self, path: bytes, target: bytes, flags: int) -> None: ...
    def link(self, path: bytes, target: bytes) -> None: ...
    def symlink(self, text: bytes, path: bytes) -> None: ...
    def readlink(self, path: bytes) -> bytes: ...
    def chmod(self, path: bytes, mode: int) -> None: ...
    def stamp(self, path: bytes, times: Times) -> Times: ...
    def look(self, path: bytes) -> Look: ...
    def names(self, path: bytes) -> list[bytes]: ...
    def change_xattr(self, path: bytes, name: str, value: bytes | None) -> None: ...


def look_of(mode: int, nlink: int, uid: int, gid: int, size: int) -> Look:
    sized = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
    return Look(mode, nlink, (uid, gid), size if sized else None)


class KernelFiles:
    """A directory: of a local file system, or of a mount."""

    def __init__(self, root: os.PathLike[str]) -> None:
        self.root = os.fsencode(root)

    def at(self, path: bytes) -> bytes:
        return os.path.join(self.root, path) if path else self.root

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> int:
        return os.open(self.at(path), flags, mode)

    def close(self, handle: int) -> None:
        os.close(handle)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        return os.pwrite(handle, data, offset)

    def append(self, handle: int, data: bytes) -> int:
        return os.write(handle, data)

    def read(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    def map_write(self, handle: int, offset: int, data: bytes) -> None:
        with mmap.mmap(handle, 0) as mapping:
            mapping[offset : offset + len(data)] = data

    def cut(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def look_at(self, handle: int) -> Look:
        return self._look(os.fstat(handle))

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self.at(path), size)

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def rename(self, path: bytes, target: bytes, flags: int) -> None:
        renameat2(self.at(path), self.at(target), flags)

    def link(self, path: bytes, target: bytes) -> None:
        os.link(self.at(path), self.at(target), follow_symlinks=False)

    def symlink(self, text: bytes, path: bytes) -> None:
        os.symlink(text, self.at(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self.at(path))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def stamp(self, path: bytes, times: Times) -> Times:
        os.utime(self.at(path), ns=tuple(times), follow_symlinks=False)
        info = os.lstat(self.at(path))
        return Times(info.st_atime_ns, info.st_mtime_ns)

    def look(self, path: bytes) -> Look:
        return self._look(os.lstat(self.at(path)))

    def names(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(self.at(path)))

    def change_xattr(self, path: bytes, name: str, value: bytes | None) -> None:
        """Set an extended attribute; None removes it."""
        if value is None:
            os.removexattr(self.at(path), name)
        else:
            os.setxattr(self.at(path), name, value)

    @staticmethod
    def _look(info: os.stat_result) -> Look:
        return look_of(info.st_mode, info.st_nlink, info.st_uid, info.st_gid, info.st_size)


Call = Callable[..., Any]
"""Runs an async function of the engine with its arguments, on the engine's thread."""


class EngineFiles:
    """A fileset without a kernel: does what the kernel does before it asks a file system."""

    UMASK = 0o022
    LINKS = 40  # symlinks that a walk follows

    def __init__(self, fileset: Any, call: Call) -> None:
        self.fileset = fileset
        self._call = call

    def ask(self, method: Callable[..., Awaitable[Any]], *words: Any, **named: Any) -> Any:
        async def run() -> Any:
            return await method(*words, **named)

        return self._call(run)

    # --- the kernel's part: walking paths

    def walk(self, path: bytes, *, follow: bool = False) -> Any:
        """The inode at a path."""
        inode, _, _ = self._walk(path, follow, links=[0])
        if inode is None:
            raise OSError(errno.ENOENT, path)
        return inode

    def place(self, path: bytes, *, follow: bool = False) -> tuple[Any, bytes, Any]:
        """Parent directory, last name, and what is there or None."""
        inode, parent, name = self._walk(path, follow, links=[0])
        return parent, name, inode

    def _walk(
        self, path: bytes, follow: bool, links: list[int], start: Any = None
    ) -> tuple[Any, Any, bytes]:
        inode = start or self.ask(self.fileset.getattr, 1)
        parent, name = inode, b"."
        parts = [part for part in path.split(b"/") if part]
        for number, name in enumerate(parts):
            parent, last = inode, number == len(parts) - 1
            if parent is None:
                raise OSError(errno.ENOENT, path)
            if not stat.S_ISDIR(parent.mode):
                raise OSError(errno.ENOTDIR, path)
            if len(name) > self.fileset.name_max:
                raise OSError(errno.ENAMETOOLONG, path)
            inode = self._lookup(parent, name)
            if inode is not None and stat.S_ISLNK(inode.mode) and (follow or not last):
                links[0] += 1
                if links[0] > self.LINKS:
                    raise OSError(errno.ELOOP, path)
                inode, parent, name = self._walk(inode.target, True, links, parent)
        return inode, parent, name

    def _lookup(self, parent: Any, name: bytes) -> Any:
        try:
            return self.ask(self.fileset.lookup, parent.ino, name)
        except FileNotFoundError:
            return None

    # --- files

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> list[int]:
        exclusive = flags & os.O_CREAT and flags & os.O_EXCL
        parent, name, inode = self.place(path, follow=not exclusive)
        if inode is None:
            if not flags & os.O_CREAT:
                raise OSError(errno.ENOENT, path)
            inode = self._make(parent, name, stat.S_IFREG | mode)
            flags &= ~os.O_TRUNC
        elif exclusive:
            raise OSError(errno.EEXIST, path)
        if stat.S_ISDIR(inode.mode) and flags & (os.O_ACCMODE | os.O_CREAT):
            raise OSError(errno.EISDIR, path)
        self.ask(self.fileset.open, inode.ino, flags)
        return [inode.ino]

    def _make(self, parent: Any, name: bytes, mode: int, target: bytes | None = None) -> Any:
        if not stat.S_ISLNK(mode):
            mode &= ~self.UMASK
        owner = {"uid": os.geteuid(), "gid": os.getegid()}
        return self.ask(self.fileset.make, parent.ino, name, mode=mode, target=target, **owner)

    def close(self, handle: list[int]) -> None:
        async def release() -> None:
            self.fileset.release(handle[0])

        self._call(release)

    def write(self, handle: list[int], offset: int, data: bytes) -> int:
        return int(self.ask(self.fileset.write, handle[0], offset, data))

    def append(self, handle: list[int], data: bytes) -> int:
        return self.write(handle, self.ask(self.fileset.getattr, handle[0]).size, data)

    def read(self, handle: list[int], offset: int, size: int) -> bytes:
        return bytes(self.ask(self.fileset.read, handle[0], offset, size))

    def map_write(self, handle: list[int], offset: int, data: bytes) -> None:
        """As the kernel does it: whole pages are read, changed, and written up to the size."""
        size = self.ask(self.fileset.getattr, handle[0]).size
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        end = min(size, -(-(offset + len(data)) // mmap.PAGESIZE) * mmap.PAGESIZE)
        pages = bytearray(self.read(handle, start, end - start))
        pages[offset - start : offset - start + len(data)] = data
        self.write(handle, start, bytes(pages))

    def cut(self, handle: list[int], size: int) -> None:
        self.ask(self.fileset.setattr, handle[0], size=size)

    def look_at(self, handle: list[int]) -> Look:
        return self._look(self.ask(self.fileset.getattr, handle[0]))

    def fsync(self, handle: list[int]) -> None:
        self.ask(self.fileset.fsync, handle[0])

    def truncate(self, path: bytes, size: int) -> None:
        inode = self.walk(path, follow=True)
        if stat.S_ISDIR(inode.mode):
            raise OSError(errno.EISDIR, path)
        self.ask(self.fileset.setattr, inode.ino, size=size)

    # --- names

    def mkdir(self, path: bytes, mode: int) -> None:
        parent, name = self._free(path)
        self._make(parent, name, stat.S_IFDIR | mode & 0o1777)

    def symlink(self, text: bytes, path: bytes) -> None:
        parent, name = self._free(path)
        self._make(parent, name, stat.S_IFLNK | 0o777, text)

    def _free(self, path: bytes) -> tuple[Any, bytes]:
        parent, name, inode = self.place(path)
        if inode is not None:
            raise OSError(errno.EEXIST, path)
        return parent, name

    def link(self, path: bytes, target: bytes) -> None:
        inode = self.walk(path)
        parent, name = self._free(target)
        self.ask(self.fileset.link, inode.ino, parent.ino, name)

    def rmdir(self, path: bytes) -> None:
        self._remove(path, directory=True)

    def unlink(self, path: bytes) -> None:
        self._remove(path, directory=False)

    def _remove(self, path: bytes, *, directory: bool) -> None:
        parent, name, inode = self.place(path)
        if inode is None:
            raise OSError(errno.ENOENT, path)
        self.ask(self.fileset.remove, parent.ino, name, directory=directory)

    def rename(self, path: bytes, target: bytes, flags: int) -> None:
        parent, name, inode = self.place(path)
        parent2, name2, other = self.place(target)
        if inode is None or (flags == 2 and other is None):
            raise OSError(errno.ENOENT, path)
        if flags == 1 and other is not None:
            raise OSError(errno.EEXIST, target)
        if inode.ino in self._above(parent2.ino):
            raise OSError(errno.EINVAL, target)
        if other is not None and other.ino in self._above(parent.ino):
            raise OSError(errno.EINVAL if flags == 2 else errno.ENOTEMPTY, target)
        self.ask(self.fileset.rename, parent.ino, name, parent2.ino, name2, flags)

    def _above(self, ino: int) -> list[int]:
        """A directory and those that it is in."""
        found = [ino]
        while found[-1] != 1:
            found.append(self.ask(self.fileset.lookup, found[-1], b"..").ino)
        return found

    def readlink(self, path: bytes) -> bytes:
        inode = self.walk(path)
        if not stat.S_ISLNK(inode.mode):
            raise OSError(errno.EINVAL, path)
        return bytes(self.ask(self.fileset.readlink, inode.ino))

    # --- attributes

    def chmod(self, path: bytes, mode: int) -> None:
        self.ask(self.fileset.setattr, self.walk(path, follow=True).ino, mode=mode)

    def stamp(self, path: bytes, times: Times) -> Times:
        ino = self.walk(path).ino
        inode = self.ask(self.fileset.setattr, ino, atime=times.atime, mtime=times.mtime)
        return Times(inode.atime, inode.mtime)

    def look(self, path: bytes) -> Look:
        return self._look(self.walk(path))

    def names(self, path: bytes) -> list[bytes]:
        directory, found, cookie = self.walk(path, follow=True), [], 0
        if not stat.S_ISDIR(directory.mode):
            raise OSError(errno.ENOTDIR, path)
        while page := self.ask(self.fileset.readdir, directory.ino, cookie, 3):
            found += [name for name, _, _ in page]
            cookie = page[-1][2]
        return sorted(found)

    def change_xattr(self, path: bytes, name: str, value: bytes | None) -> None:
        ino, key = self.walk(path, follow=True).ino, os.fsencode(name)
        if value is None:
            self.ask(self.fileset.removexattr, ino, key)
        else:
            self.ask(self.fileset.setxattr, ino, key, value)

    @staticmethod
    def _look(inode: Any) -> Look:
        return look_of(inode.mode, inode.nlink, inode.uid, inode.gid, inode.size)
