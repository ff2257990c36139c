"""Blobs: one sparse file for each inode and generation, holding the bytes that are valid here.

A blob is never longer than its inode: what a crash left beyond is cut when the blob is first
opened. It may be shorter, or not exist: then the missing bytes read as zeros. Local system calls
only; nothing here knows which bytes are valid.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from afmfs.cache.inode import Inode

OPEN_BLOBS = 512
SHARDS = 256


def blob_name(ino: int, gen: int) -> str:
    """Path of a blob below `blobs/`."""
    return f"{ino & 0xFF:02x}/{ino:x}.{gen:x}"


class Blobs:
    def __init__(self, cache: Path) -> None:
        self._root = cache / "blobs"
        for shard in range(SHARDS):
            (self._root / f"{shard:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._dir = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._in_threads: dict[int, int] = {}  # descriptors in use by threads
        self._to_close: set[int] = set()
        self.created: set[int] = set()  # inodes whose blob's name may not be durable yet
        self.in_reclaim: set[int] = set()  # inodes whose shrink is not durable: tails must stay

    def descriptor(self, inode: Inode, *, create: bool = False) -> int | None:
        """An open descriptor of the inode's blob, valid until the next call on the loop thread
        (a thread that needs it longer borrows it). None if there is no blob."""
        key = (inode.ino, inode.gen)
        fd = self._open.get(key)
        if fd is not None:
            return fd
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            fd = os.open(blob_name(*key), flags, 0o600, dir_fd=self._dir)
        except FileNotFoundError:
            return None
        if os.fstat(fd).st_size == 0:
            self.created.add(inode.ino)
        else:
            # Killed between a blob write and its transaction: a later extension of the file must
            # not show these bytes.
            self._cut_excess(fd, inode)
        self._open[key] = fd
        if len(self._open) > OPEN_BLOBS:
            self._close(self._open.popitem(last=False)[1])
        return fd

    def write(self, inode: Inode, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`; on failure no byte beyond the inode's size stays behind."""
        fd = self.descriptor(inode, create=True)
        assert fd is not None
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += os.pwrite(fd, view[done:], offset + done)
        except OSError:
            self._cut_excess(fd, inode)
            raise

    def _cut_excess(self, fd: int, inode: Inode) -> None:
        """A blob is never longer than its inode, but for a tail that waits for its reclaim."""
        if inode.ino not in self.in_reclaim and os.fstat(fd).st_size > inode.size:
            os.ftruncate(fd, inode.size)

    def cut(self, inode: Inode, size: int) -> None:
        """Destroy the blob's bytes at and beyond `size`."""
        fd = self.descriptor(inode)
        if fd is not None and os.fstat(fd).st_size > size:
            os.ftruncate(fd, size)

    def remove(self, ino: int, gen: int) -> None:
        """Destroy a whole blob; none there is fine."""
        fd = self._open.pop((ino, gen), None)
        if fd is not None:
            self._close(fd)
        try:
            os.unlink(blob_name(ino, gen), dir_fd=self._dir)
        except FileNotFoundError:
            pass  # reclaimed before a crash took its row's removal back

    # -- descriptors that threads use ------------------------------------------------------------

    def borrow(self, fd: int) -> None:
        self._in_threads[fd] = self._in_threads.get(fd, 0) + 1

    def give_back(self, fd: int) -> None:
        self._in_threads[fd] -= 1
        if not self._in_threads[fd]:
            del self._in_threads[fd]
            if fd in self._to_close:
                self._to_close.remove(fd)
                os.close(fd)

    def _close(self, fd: int) -> None:
        if fd in self._in_threads:
            self._to_close.add(fd)
        else:
            os.close(fd)

    def shard_descriptor(self, ino: int) -> int:
        """A new descriptor of the directory that holds the inode's blobs."""
        return os.open(
            f"{ino & 0xFF:02x}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._dir
        )

    @property
    def root_descriptor(self) -> int:
        return self._dir

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])
        os.close(self._dir)
