"""Bytes from a blob into an open file at home, holes included.

A hole in the blob reads as zeros. At home a hole is made, not zeros written, where home can do
that. Data moves inside the kernel where it can. Errors of home's file are plain OSErrors; those of
the blob are BlobError, so that the cache's disk is never taken for home. A blob that is missing, or
shorter than its inode, was damaged: zeros in the place of what it lost must not go over home's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from afmfs.gateway.home.syscalls import KEEP_SIZE, PUNCH_HOLE, fallocate
from afmfs.gateway.state.view import Row, Sources, View
from afmfs.model.blocks import blob_length
from afmfs.model.ranges import Ranges

SMALL = 64 << 10
"""Up to here a read and a write cost less than asking for holes and copying in the kernel."""

STEP = 8 << 20
"""Bytes moved by one call: between two of them a sign of life can be given."""

Pulse = Callable[[], None]

PAGE = bytes(4096)
"""Holes are no smaller than this on any file system."""

_CANNOT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}
)


class BlobError(Exception):
    """The cache's own copy can't be read."""

    def __init__(self, exc: OSError) -> None:
        super().__init__(f"the cache's own copy can't be read: {exc.strerror}")
        self.errno = exc.errno or errno.EIO


def push(
    view: View,
    ino: int,
    row: Row | None,
    ranges: Ranges,
    fd: int,
    size: int,
    pulse: Pulse = lambda: None,
) -> tuple[Row | None, int]:
    """Bring `ranges` of the inode into home's file `fd`, which is `size` bytes long.

    Only what is valid here is pushed; what is neither valid nor beyond all that home has is left as
    it is at home. The file grows where a range ends beyond its end. Returns the row that was used
    (None if the inode is gone, and nothing was pushed) and the size of home's file. `row` spares a
    query where it is current; `pulse` is called whenever some megabytes have been moved.
    """
    while True:
        sources = view.sources(ino, ranges, row)
        if sources is None:
            return None, size
        blob = view.open_blob(ino, sources.row.gen)
        try:
            if sources.valid and (trouble := _damage(sources.row, blob)):
                row = view.row(ino)
                if row is not None and _content(row) == _content(sources.row):
                    raise _damaged(view, ino, trouble)
                continue  # truncated, or written again meanwhile: another blob has the bytes
            return sources.row, _push_all(sources, blob, fd, size, pulse)
        finally:
            if blob is not None:
                os.close(blob)


def require_blob(view: View, row: Row) -> None:
    """BlobError unless the blob is as it should be: before anything at home is destroyed that a
    push is to write anew."""
    now: Row | None = row
    while now is not None:
        row = now
        blob = view.open_blob(row.ino, row.gen)
        try:
            trouble = _damage(row, blob)
        finally:
            if blob is not None:
                os.close(blob)
        if not trouble:
            return
        now = view.row(row.ino)
        if now is not None and _content(now) == _content(row):
            raise _damaged(view, row.ino, trouble)


def _damaged(view: View, ino: int, trouble: str) -> BlobError:
    view.harmed(f"the blob of inode {ino}: {trouble}")
    return BlobError(OSError(errno.EIO, f"{trouble}; check the cache"))


def _content(row: Row) -> tuple[int, int]:
    return row.gen, row.size


def _damage(row: Row, blob: int | None) -> str:
    """What is wrong with an inode's blob, if the row is still the present one."""
    if blob is None:
        return "it is missing" if row.gen else ""
    short = os.fstat(blob).st_size < blob_length(row.size)
    return "its end is missing" if short else ""


def _push_all(sources: Sources, blob: int | None, fd: int, end: int, pulse: Pulse) -> int:
    for start, stop in sources.valid:
        if blob is None:
            make_hole(fd, start, stop, end)
        elif stop - start <= SMALL:
            _push_small(blob, fd, start, stop, end)
        else:
            _push_sparse(blob, fd, start, stop, end, pulse)
        end = max(end, stop)
    for start, stop in sources.zeros:
        make_hole(fd, start, stop, end)
        end = max(end, stop)
    return end


def _push_small(blob: int, fd: int, start: int, stop: int, size: int) -> None:
    try:
        data = os.pread(blob, stop - start, start)
    except OSError as exc:
        raise BlobError(exc) from exc
    if len(data) < stop - start or PAGE in data or not data.strip(b"\0"):
        _push_sparse(blob, fd, start, stop, size)  # may be a hole: find out
    else:
        write_all(fd, data, start)


def _push_sparse(
    blob: int, fd: int, start: int, stop: int, size: int, pulse: Pulse = lambda: None
) -> None:
    position = start
    for first, end in stored(blob, start, stop):
        make_hole(fd, position, first, size)
        copy(blob, fd, first, end, pulse)
        position, size = end, max(size, end)
    make_hole(fd, position, stop, size)


def stored(blob: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of [start, stop) that the blob has data for."""
    position = start
    while position < stop:
        try:
            first = os.lseek(blob, position, os.SEEK_DATA)
            if first >= stop:
                return
            position = min(os.lseek(blob, first, os.SEEK_HOLE), stop)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return  # no data from here on
            raise BlobError(exc) from exc
        yield first, position


def make_hole(fd: int, start: int, stop: int, size: int) -> None:
    """[start, stop) reads as zeros afterwards; `size` is what home's file has now.

    Beyond its end nothing is stored: it only grows.
    """
    if start >= stop:
        return
    if start < size:
        _clear(fd, start, min(stop, size))
    if stop > size:
        os.ftruncate(fd, stop)


def _clear(fd: int, start: int, stop: int) -> None:
    try:
        fallocate(fd, KEEP_SIZE | PUNCH_HOLE, start, stop - start)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        while start < stop:
            count = min(len(_ZEROS), stop - start)
            write_all(fd, _ZEROS[:count], start)
            start += count


_ZEROS = memoryview(bytes(1 << 20))


def copy(blob: int, fd: int, start: int, stop: int, pulse: Pulse) -> None:
    """The blob's bytes [start, stop), all of which it stores, to the same place in `fd`."""
    if stop - start > SMALL:
        start = _copy_in_kernel(blob, fd, start, stop, pulse)
    while start < stop:
        try:
            data = os.pread(blob, min(stop - start, 1 << 20), start)
        except OSError as exc:
            raise BlobError(exc) from exc
        if not data:
            os.ftruncate(fd, max(stop, os.fstat(fd).st_size))  # cut since: the rest is zeros
            return
        write_all(fd, data, start)
        start += len(data)
        pulse()


def _copy_in_kernel(blob: int, fd: int, start: int, stop: int, pulse: Pulse) -> int:
    """Copy by copy_file_range, else sendfile, as far as they go; returns where they stopped.

    An error is left to the plain copy, which meets it again and knows whose it is.
    """
    try:
        while start < stop:
            done = os.copy_file_range(blob, fd, min(stop - start, STEP), start, start)
            if not done:
                return start
            start += done
            pulse()
        return start
    except OSError as exc:
        if exc.errno not in _CANNOT:
            return start
    try:
        os.lseek(fd, start, os.SEEK_SET)
        while start < stop:
            done = os.sendfile(fd, blob, start, min(stop - start, STEP))
            if not done:
                return start
            start += done
            pulse()
    except OSError:
        pass  # the plain copy meets it again
    return start


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


def agrees(blob: int | None, fd: int, ranges: Ranges) -> bool:
    """Whether home's file holds the same bytes as the blob in all of `ranges`."""
    if ranges and os.fstat(fd).st_size < ranges[-1][1]:
        return False
    for start, stop in ranges:
        position = start
        while (position := next_stored(blob, fd, position, stop)) < stop:
            count = min(1 << 20, stop - position)
            theirs = os.pread(fd, count, position)
            try:
                ours = b"" if blob is None else os.pread(blob, count, position)
            except OSError as exc:
                raise BlobError(exc) from exc
            if len(theirs) != count or ours.ljust(count, b"\0") != theirs:
                return False
            position += count
    return True


def next_stored(blob: int | None, fd: int, start: int, stop: int) -> int:
    """Where in [start, stop) the blob or home's file has data; `stop` where none of them has."""
    data = _next_data(fd, start, stop)
    return data if blob is None else min(data, _next_data(blob, start, stop))


def _next_data(fd: int, start: int, stop: int) -> int:
    """Who can't tell has data."""
    try:
        return min(os.lseek(fd, start, os.SEEK_DATA), stop)
    except OSError as exc:
        return stop if exc.errno == errno.ENXIO else start
