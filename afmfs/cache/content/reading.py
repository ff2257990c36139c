"""Reading bytes of files that need nothing from home.

A blob that is missing, or shorter than its inode, has lost bytes that are not known elsewhere:
zeros in their place would be taken for data, so a read of them fails.
"""

from __future__ import annotations

import errno
import os

import trio

from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.damage import Damage
from afmfs.cache.content.spare import Pieces
from afmfs.cache.content.validity import Validity
from afmfs.cache.store.inode import Inode
from afmfs.model.blocks import blob_length
from afmfs.model.ranges import Ranges


class Reading:
    """The half of `Content` that changes nothing."""

    def __init__(self, blobs: Blobs, validity: Validity, damage: Damage) -> None:
        self._blobs, self.validity, self.damage = blobs, validity, damage
        self._nowait = os.RWF_NOWAIT

    async def read(
        self, inode: Inode, offset: int, size: int, spare: Pieces = ()
    ) -> bytes | bytearray:
        """Bytes that need nothing from home: the caller has fetched what was missing. `spare` is
        what of it could not be kept."""
        end = min(offset + size, inode.size)
        if offset >= end:
            return b""
        if inode.ino in self.damage.inos:
            self.damage.check(inode.ino, offset, end)
        fd, gen = self._blobs.descriptor(inode), inode.gen
        if fd is None:
            if gen and self.validity.valid(inode, offset, end):
                raise self._blobs.lost(inode)
            return _laid(offset, end, spare)
        if inode.whole:
            pieces: Ranges = ((offset, end),)
        else:
            pieces = self.validity.valid(inode, offset, end)
        if pieces == ((offset, end),):
            data = await self._read_blob(fd, offset, end - offset)
            return self._missing(inode, gen, offset, end) if data is None else data
        out = _laid(offset, end, spare)  # not valid and not missing is beyond home_valid: zeros
        self._blobs.borrow(fd)  # an eviction on the way takes the blob from the inode, not from us
        try:
            for a, b in pieces:
                data = await self._read_blob(fd, a, b - a)
                out[a - offset : b - offset] = data or self._missing(inode, gen, a, b)
        finally:
            self._blobs.give_back(fd)
        return out

    def _missing(self, inode: Inode, gen: int, start: int, end: int) -> bytes:
        """What a read gets of [start, end) that the blob does not reach to."""
        if inode.gen == gen and inode.size >= end:
            raise self._blobs.lost_end(inode)
        return bytes(end - start)  # it was cut, or evicted, while we read

    async def _read_blob(self, fd: int, offset: int, size: int) -> bytearray | None:
        """None: it ends before."""
        buffer = bytearray(size)
        done = self._read_from_memory(fd, buffer, offset)
        if done < size:
            length = os.fstat(fd).st_size
            if length < blob_length(offset + size):
                return None
            if length > offset + done:
                await self._read_slowly(fd, buffer, done, offset)
        return buffer

    def _read_from_memory(self, fd: int, buffer: bytearray, offset: int) -> int:
        """What can be read without waiting for the disk."""
        try:
            return os.preadv(fd, [buffer], offset, self._nowait)
        except BlockingIOError:
            return 0
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP or not self._nowait:
                raise
            self._nowait = 0  # tmpfs, for one, can't tell: then all is read at once
            return os.preadv(fd, [buffer], offset)

    async def _read_slowly(self, fd: int, buffer: bytearray, done: int, offset: int) -> None:
        """The rest of a read that memory alone does not answer; what lies past the end is zeros."""

        def fill(done: int = done) -> None:
            while done < len(buffer):
                n = os.preadv(fd, [memoryview(buffer)[done:]], offset + done)
                if n == 0:
                    return
                done += n

        self._blobs.borrow(fd)
        try:
            await trio.to_thread.run_sync(fill)
        finally:
            self._blobs.give_back(fd)


def _laid(start: int, end: int, pieces: Pieces) -> bytearray:
    """[start, end) of what lies in `pieces`, zeros elsewhere."""
    out = bytearray(end - start)
    for first, data in pieces:
        low, high = max(start, first), min(end, first + len(data))
        if low < high:
            out[low - start : high - start] = data[low - first : high - first]
    return out
