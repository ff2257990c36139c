"""A file system that holds disk images and remembers every write and every flush, in their order.

`python -m tests.power.recorder MOUNTPOINT DIRECTORY` serves the images of DIRECTORY (files named
0, 1, 2, ...) until it is unmounted. A loop device over one of them writes through: what ext4 asks
of its disk arrives here as WRITE and FSYNC. Each is appended to DIRECTORY/index (and its bytes to
DIRECTORY/bytes) before it is answered, so the length of `index` is the moment: what was recorded
before a program looked had been asked for before.

One request at a time, nothing but its own files: it must never wait for what waits for it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from struct import Struct

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FUSEError, InodeT

RECORD = Struct("<BBxxxxxxQQQ")
"""Disk, kind; offset on the disk, length, where the bytes are in `bytes`."""
WRITE, FLUSH = 0, 1

FIRST = 2
"""Inode number of image 0."""


class Recorder(pyfuse3.Operations):
    enable_writeback_cache = False

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._index = os.open(directory / "index", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._bytes = os.open(directory / "bytes", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._end = os.fstat(self._bytes).st_size
        self._images: dict[int, int] = {}

    def _image(self, number: int) -> int:
        """A descriptor of an image; the test may put new ones there at any time."""
        if number not in self._images:
            try:
                self._images[number] = os.open(self._directory / str(number), os.O_RDWR)
            except FileNotFoundError:
                raise FUSEError(errno.ENOENT) from None
        return self._images[number]

    def _record(self, disk: int, kind: int, offset: int = 0, length: int = 0) -> None:
        os.write(self._index, RECORD.pack(disk, kind, offset, length, self._end))

    def _attributes(self, inode: int) -> EntryAttributes:
        found = EntryAttributes()
        found.st_ino = InodeT(inode)
        found.st_mode = stat.S_IFDIR | 0o700
        found.st_nlink = 1
        if inode >= FIRST:
            found.st_mode = stat.S_IFREG | 0o600
            found.st_size = os.fstat(self._image(inode - FIRST)).st_size
            found.st_blksize = 4096
        found.attr_timeout = found.entry_timeout = 3600
        return found

    async def getattr(self, inode: InodeT, ctx: object = None) -> EntryAttributes:
        return self._attributes(inode)

    async def setattr(self, inode: InodeT, *words: object) -> EntryAttributes:
        return self._attributes(inode)  # a loop device sets the times

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: object = None
    ) -> EntryAttributes:
        if not name.isdigit():
            raise FUSEError(errno.ENOENT)
        return self._attributes(FIRST + int(name))

    async def open(self, inode: InodeT, flags: int, ctx: object = None) -> FileInfo:
        return FileInfo(fh=FileHandleT(inode - FIRST))

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self._image(fh), size, off)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        os.write(self._bytes, buf)
        self._record(fh, WRITE, off, len(buf))
        self._end += len(buf)
        return os.pwrite(self._image(fh), buf, off)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        self._record(fh, FLUSH)

    async def flush(self, fh: FileHandleT) -> None:
        """A close: no promise of anything."""

    async def release(self, fh: FileHandleT) -> None:
        pass


def main() -> None:
    point, directory = sys.argv[1:]
    options = set(pyfuse3.default_options) | {"fsname=recorder"}
    options.discard("default_permissions")
    pyfuse3.init(Recorder(Path(directory)), point, options)
    try:
        # One task: what is recorded first was asked for first.
        trio.run(pyfuse3.main, 1, 1)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
