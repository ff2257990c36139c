"""Bytes from home that the cache can't keep, for those who read them.

A disk that is full of what must stay, or takes no more, is no reason not to read. What has come is
held for the reads that wait for it, and a moment longer: the kernel asks for a block in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from afmfs.model import ranges
from afmfs.model.ranges import Ranges

MOST = 32 << 20
"""Bytes that are held, but for what is waited for."""

HELD_S = 2.0


Pieces = Sequence[tuple[int, bytes]]
"""Bytes, and where they begin."""


class _Spare:
    """A run of bytes of one inode. `wanted`: somebody waits for it."""

    __slots__ = ("data", "ino", "since", "start", "void", "wanted")

    def __init__(self, ino: int, start: int, data: bytes, wanted: Callable[[], bool]) -> None:
        self.ino, self.start, self.data, self.wanted = ino, start, data, wanted
        self.since = trio.current_time()
        self.void = False


class Spares:
    def __init__(self) -> None:
        self._held: deque[_Spare] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, ino: int, start: int, data: bytes, wanted: Callable[[], bool]) -> None:
        """Hold bytes of an inode that begin at `start`."""
        self._held.append(_Spare(ino, start, data, wanted))
        self._bytes += len(data)
        self._trim()

    def void(self, ino: int | None = None) -> None:
        """What is held of the inode (None: of all) is worthless."""
        for spare in self._held:
            if ino in (None, spare.ino):
                spare.void = True

    def of(self, ino: int, wanted: Ranges) -> Pieces | None:
        """Pieces that cover all that is wanted; None if there are none."""
        self._trim()
        found = [one for one in self._held if one.ino == ino and not one.void]
        covered = ranges.union((one.start, one.start + len(one.data)) for one in found)
        if any(ranges.gaps(covered, start, end) for start, end in wanted):
            return None
        return [(one.start, one.data) for one in found]

    def _trim(self) -> None:
        old = trio.current_time() - HELD_S
        while self._held:
            first = self._held[0]
            if first.wanted() or not (first.void or first.since < old or self._bytes > MOST):
                return
            self._held.popleft()
            self._bytes -= len(first.data)
