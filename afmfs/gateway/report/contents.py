"""The bytes of a cached file and of home's, side by side.

Only clean bytes are compared: valid here, and not covered by an entry. What neither side stores is
not read. The file may be written, pushed, evicted and fetched meanwhile, so what differs is looked
at twice, and the caller has to see that nothing of it has changed in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from dataclasses import dataclass

from afmfs.gateway.home.home import Home
from afmfs.gateway.state.transfer import BlobError, next_stored
from afmfs.gateway.state.view import View
from afmfs.model.ranges import Range, Ranges, cut, union, within

WINDOW = 16 << 20
"""Bytes of a file that are compared between two looks at where it is."""

_STEP = 1 << 20
_GRAIN = 4096
"""Differences are told in pieces of this size, at multiples of it."""

_MOST = 64
"""Ranges remembered of one file; beyond them neighbours count as one."""


Contents = Generator[int, None, Ranges | None]

Settled = Callable[[int, Ranges], Ranges]
"""The part of some bytes of an inode that no entry covers."""


@dataclass(slots=True)
class Tally:
    """How far a file is compared, and what was found so far."""

    ino: int
    size: int  # it is compared up to here
    pending: bool  # there are entries of it
    offset: int = 0
    hole: int = 0  # up to here neither side stores anything
    compared: int = 0  # bytes of the present window
    tries: int = 0  # at it
    ranges: Ranges = ()  # that differ

    @property
    def window(self) -> Range:
        return self.offset, min(max(self.offset + WINDOW, self.hole), self.size)

    def end(self) -> None:
        """The rest is not to be compared."""
        self.offset = self.size

    def passed(self, differing: Ranges) -> int:
        """The present window is compared; how many bytes of it."""
        self.offset, self.tries = self.window[1], 0
        if differing:
            ranges = union([*self.ranges, *differing])
            if len(ranges) > _MOST:
                ranges = (*ranges[: _MOST - 1], (ranges[_MOST - 1][0], ranges[-1][1]))
            self.ranges = ranges
        return self.compared


def open_quietly(home: Home, dirfd: int, name: bytes) -> tuple[int, os.stat_result]:
    """Home's file, to read; its access time stays as it is where we may ask for that."""
    try:
        return home.open_file(dirfd, name, os.O_RDONLY | os.O_NOATIME)
    except PermissionError:
        return home.open_file(dirfd, name, os.O_RDONLY)


def compare(view: View, settled: Settled, tally: Tally, fd: int, size: int) -> Contents:
    """What differs in the window of a file that is `size` bytes long at home, and open as `fd`.

    None if its blob was replaced meanwhile. Yields numbers of bytes as they are compared. BlobError
    where the cache's own copy can't be read, OSError where home's can't.
    """
    tally.hole = 0
    gen, ranges = _clean(view, settled, tally)
    blob = view.open_blob(tally.ino, gen)
    try:
        if blob is None and gen and _clean(view, settled, tally)[0] != gen:
            return None
        tally.hole = next_stored(blob, fd, tally.offset, tally.size)
        if tally.hole > tally.offset + WINDOW:  # of petabytes, perhaps: passed in one window
            now, ranges = _clean(view, settled, tally)
            if now != gen:
                return None
        differing: list[Range] = []
        for start, end in cut(ranges, size):
            yield from _compare(blob, fd, start, end, differing)
        if not differing:
            return ()
        # Evicted bytes read as zeros, and may have been fetched again.
        still = _clean(view, settled, tally)
        again: list[Range] = []
        for first, last in union(differing):
            for start, end in within(still[1], first, last):
                for _ in _compare(blob, fd, start, end, again):
                    yield 0
        return union(again) if still[0] == gen else None
    finally:
        if blob is not None:
            os.close(blob)


def _clean(view: View, settled: Settled, tally: Tally) -> tuple[int, Ranges]:
    """Generation of the blob, and the bytes of the window that are valid here and that no entry
    covers; nothing of an inode that is gone."""
    sources = view.sources(tally.ino, (tally.window,))
    if sources is None:
        return 0, ()
    row, valid = sources.row, sources.valid
    pending = tally.pending or row.changed > row.retired
    return row.gen, settled(tally.ino, valid) if pending else valid


def _compare(
    blob: int | None, fd: int, start: int, stop: int, differing: list[Range]
) -> Generator[int, None, None]:
    """Compare [start, stop); adds to `differing`. Yields numbers of bytes as it goes on."""
    while start < stop:
        data = next_stored(blob, fd, start, stop)
        if data > start:
            yield data - start  # a hole in both
            start = data
            continue
        count = min(_STEP, stop - start)
        theirs = os.pread(fd, count, start).ljust(count, b"\0")
        ours = _read(blob, count, start)
        if ours != theirs:
            differing += _grains(ours, theirs, start)
        yield count
        start += count


def _read(blob: int | None, count: int, offset: int) -> bytes:
    """What the blob does not store reads as zeros."""
    try:
        return (b"" if blob is None else os.pread(blob, count, offset)).ljust(count, b"\0")
    except OSError as exc:
        raise BlobError(exc) from exc


def _grains(ours: bytes, theirs: bytes, offset: int) -> list[Range]:
    """The grains in which two strings of one length, which begin at `offset`, differ."""
    found, at = [], 0
    while at < len(ours):
        end = min(at + _GRAIN - (offset + at) % _GRAIN, len(ours))
        if ours[at:end] != theirs[at:end]:
            found.append((offset + at, offset + end))
        at = end
    return found
