"""A fileset in memory with the interface of the real one, to try the FUSE adapter alone.

python -m tests.harness.fake_fileset MOUNTPOINT CACHE [-f] [OPTION,...]
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import trio

from afmfs.cache.report.status import Status
from afmfs.cache.store.inode import Inode
from afmfs.errors import Refused, UnknownCommand
from afmfs.model import tunables
from afmfs.model.tunables import MountOptions, Tunables

NEVER_ENDS = b"never-ends"


class Statfs(NamedTuple):
    bsize: int = 4096
    blocks: int = 1000
    bfree: int = 500
    bavail: int = 400
    files: int = 100
    ffree: int = 50
    favail: int = 40
    namemax: int = 255


@dataclass(frozen=True)
class FakeSettings:
    fileset: str
    device: str
    target: str
    cache: Path
    tunables: Tunables
    mountpoint: Path
    lock: None = None


def failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class FakeFileset:
    name_max = 255
    invalidator: Any = None

    def __init__(self, settings: FakeSettings) -> None:
        self.settings = settings
        now = time.time_ns()
        root = Inode(1, stat.S_IFDIR | 0o755, os.getuid(), os.getgid(), 0, 2, 0, now, now, now)
        self.inodes = {1: root}
        self.names: dict[int, dict[bytes, tuple[int, int]]] = {1: {}}  # name -> ino, cookie
        self.data: dict[int, bytearray] = {}
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        self.opened: dict[int, int] = {}
        self.next = 2

    def generation(self, ino: int) -> int:
        return 0

    def _at(self, parent: int, name: bytes) -> Inode:
        if parent not in self.names:
            raise failed(errno.ENOTDIR)
        if name not in self.names[parent]:
            raise failed(errno.ENOENT)
        return self.inodes[self.names[parent][name][0]]

    async def lookup(self, parent: int, name: bytes) -> Inode:
        if name in (b".", b".."):
            return self.inodes[parent]
        if name == b"strange-error":
            raise ValueError("a bug")
        return self._at(parent, name)

    async def getattr(self, ino: int) -> Inode:
        if ino not in self.inodes:
            raise failed(errno.ESTALE)
        return self.inodes[ino]

    async def setattr(self, ino: int, **changes: Any) -> Inode:
        inode = self.inodes[ino]
        now = time.time_ns()
        if (size := changes.pop("size", None)) is not None:
            self._resize(inode, size)
            changes.setdefault("mtime", now)
        if (mode := changes.pop("mode", None)) is not None:
            inode.mode = stat.S_IFMT(inode.mode) | mode
        for key, value in changes.items():
            setattr(inode, key, value)
        inode.ctime = now
        return inode

    def _resize(self, inode: Inode, size: int) -> None:
        data = self.data[inode.ino]
        del data[size:]
        data.extend(bytes(size - len(data)))
        inode.size = size

    async def readlink(self, ino: int) -> bytes:
        return self.inodes[ino].target or b""

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
        if name in self.names[parent]:
            raise failed(errno.EEXIST)
        now = time.time_ns()
        ino, self.next = self.next, self.next + 1
        links = 2 if stat.S_ISDIR(mode) else 1
        size = len(target) if target else 0
        inode = Inode(ino, mode, uid, gid, rdev, links, size, now, now, now, target=target)
        self.inodes[ino] = inode
        self.names[parent][name] = (ino, ino)
        if inode.is_dir:
            self.names[ino] = {}
            self.inodes[parent].nlink += 1
        if inode.is_file:
            self.data[ino] = bytearray()
        self.inodes[parent].mtime = self.inodes[parent].ctime = now
        return inode

    async def remove(self, parent: int, name: bytes, *, directory: bool) -> None:
        inode = self._at(parent, name)
        if directory:
            if self.names[inode.ino]:
                raise failed(errno.ENOTEMPTY)
            inode.nlink = 0
            self.inodes[parent].nlink -= 1
        else:
            inode.nlink -= 1
        del self.names[parent][name]

    async def rename(
        self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int
    ) -> None:
        here, there = self.names[parent], self.names[parent2]
        self._at(parent, name)
        if flags == 1 and name2 in there:
            raise failed(errno.EEXIST)
        if flags == 2:
            self._at(parent2, name2)
            here[name], there[name2] = there[name2], here[name]
            return
        if name2 in there:
            await self.remove(parent2, name2, directory=self._at(parent2, name2).is_dir)
        there[name2] = here.pop(name)

    async def link(self, ino: int, parent: int, name: bytes) -> Inode:
        inode = self.inodes[ino]
        inode.nlink += 1
        self.next += 1
        self.names[parent][name] = (ino, self.next)
        return inode

    async def open(self, ino: int, flags: int) -> Inode:
        inode = self.inodes[ino]
        if flags & os.O_TRUNC:
            self._resize(inode, 0)
        self.opened[ino] = self.opened.get(ino, 0) + 1
        return inode

    def release(self, ino: int) -> None:
        self.opened[ino] -= 1

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        if any(ino == at[0] and name == NEVER_ENDS for name, at in self.names[1].items()):
            await trio.sleep_forever()
        return bytes(self.data[ino][offset : offset + size])

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        inode = self.inodes[ino]
        if offset > inode.size:
            self._resize(inode, offset)
        self.data[ino][offset : offset + len(data)] = data
        inode.size = len(self.data[ino])
        inode.mtime = inode.ctime = time.time_ns()
        return len(data)

    async def fsync(self, ino: int) -> None:
        pass

    async def readdir(self, ino: int, cookie: int, limit: int) -> list[tuple[bytes, Inode, int]]:
        entries = sorted((at, i, name) for name, (i, at) in self.names[ino].items() if at > cookie)
        return [(name, self.inodes[i], at) for at, i, name in entries[:limit]]

    def occupied(self, inode: Inode) -> int:
        return inode.size

    def statfs(self) -> Statfs:
        return Statfs()

    def forget(self, ino: int) -> None:
        if self.inodes[ino].nlink == 0 and not self.opened.get(ino):
            del self.inodes[ino]

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        if name not in self.xattrs.get(ino, {}):
            raise failed(errno.ENODATA)
        return self.xattrs[ino][name]

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self.xattrs.setdefault(ino, {})[name] = value

    async def listxattr(self, ino: int) -> list[bytes]:
        return list(self.xattrs.get(ino, {}))

    async def removexattr(self, ino: int, name: bytes) -> None:
        await self.getxattr(ino, name)
        del self.xattrs[ino][name]

    def serving(self) -> None:
        pass

    async def cached_state(self, ino: int) -> str:
        return "cached"

    def status(self) -> Status:
        one = self.settings
        return Status(
            device=one.device,
            fileset=one.fileset,
            target=one.target,
            state="Active",
            gateway="here",
        )

    async def execute(self, line: str) -> str:
        if line == "busy":
            raise Refused("busy just now")
        if line != "hello":
            raise UnknownCommand(f"no such command: {line}")
        return "hello\n" + "hello yourself\n" * 20000

    async def queue_lines(self) -> AsyncIterator[bytes]:
        for number in range(100_000):
            yield b'{"id": %d}\n' % number

    async def report_lines(self) -> AsyncIterator[bytes]:
        yield b'{"path": "a"}\n{"summary": {}}\n'

    def events(self) -> list[dict[str, object]]:
        return [{"name": "afmFilesetMounted", "detail": {}}]


class FakeEngine:
    def prepare(self, target: str | None, point: Path, options: MountOptions) -> FakeSettings:
        assert options.cache is not None
        if target == "refused":
            raise Refused("the cache is in use")
        return FakeSettings(
            "fake",
            "fake-device",
            target or "",
            options.cache,
            Tunables().updated(options.tunables),
            point,
        )

    @contextlib.asynccontextmanager
    async def open_fileset(self, settings: FakeSettings) -> AsyncIterator[FakeFileset]:
        yield FakeFileset(settings)
        if settings.target == "hangs":
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()


def main() -> None:
    from mount import daemon, mountpoint

    foreground = "-f" in sys.argv
    point, cache, target, *lists = (word for word in sys.argv[1:] if word != "-f")
    mountpoint.check(Path(point))
    options = tunables.parse([f"cache={cache}", *lists])
    request = daemon.Request(target, Path(point), options)
    run = daemon.in_foreground if foreground else daemon.in_background
    sys.exit(run(request, FakeEngine()))  # type: ignore[arg-type]  # a fake of their shape


if __name__ == "__main__":
    main()
