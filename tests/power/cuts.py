"""What a disk may hold after its power was cut: pure, from a record of writes and flushes.

A disk keeps every write that it had answered before a flush that it has answered. Of what came
after, it keeps what it likes, in any order: each such write may be there or not, or in some of its
sectors only.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.power.recorder import FLUSH, RECORD, WRITE

SECTOR = 512
"""Bytes that a disk writes as a whole."""

WHOLE = 4096
"""The first bytes of a disk are never torn. They hold ext4's superblock, with its checksum and in
no journal: ext4 counts on disks that write so much as a whole, as those of today do."""


class Write(NamedTuple):
    position: int
    offset: int
    length: int
    data: int  # where in the file of bytes


class Piece(NamedTuple):
    """Some sectors of a write that survived."""

    offset: int
    length: int
    data: int


class Log:
    """What was asked of the disks, by the recorder's positions."""

    def __init__(self, directory: Path) -> None:
        self._bytes = directory / "bytes"
        self._writes: dict[int, list[Write]] = {}
        self._flushes: dict[int, list[int]] = {}
        index = (directory / "index").read_bytes()
        whole = len(index) // RECORD.size * RECORD.size
        self.end = whole // RECORD.size
        for position, row in enumerate(RECORD.iter_unpack(index[:whole])):
            disk, kind, offset, length, data = row
            if kind == WRITE:
                write = Write(position, offset, length, data)
                self._writes.setdefault(disk, []).append(write)
            else:
                assert kind == FLUSH
                self._flushes.setdefault(disk, []).append(position)

    def flushes(self, disk: int) -> list[int]:
        return self._flushes.get(disk, [])

    def split(self, disk: int, position: int) -> tuple[list[Write], list[Write]]:
        """The writes before `position` that the last flush before it made durable, and the rest."""
        writes, flushes = self._writes.get(disk, []), self.flushes(disk)
        last = bisect_left(flushes, position) - 1
        durable = flushes[last] if last >= 0 else -1
        middle = bisect_left(writes, (durable,))
        return writes[:middle], writes[middle : bisect_left(writes, (position,))]

    def build(self, base: Path, pieces: Iterable[Piece | Write], image: Path) -> None:
        """An image: `base` and what of the writes has survived."""
        _copy_sparse(base, image)
        source = os.open(self._bytes, os.O_RDONLY)
        target = os.open(image, os.O_WRONLY)
        try:
            for piece in pieces:
                os.pwrite(target, os.pread(source, piece.length, piece.data), piece.offset)
        finally:
            os.close(source)
            os.close(target)


def everything(log: Log, disk: int, position: int) -> list[Write]:
    """A disk that goes on having power."""
    durable, loose = log.split(disk, position)
    return durable + loose


MANNERS = ("all", "none", "some", "most", "few", "torn")
"""How much of what no flush has made durable survives."""


def survivors(
    log: Log, disk: int, position: int, manner: str, dice: random.Random
) -> list[Piece | Write]:
    """What a disk keeps whose power is cut at `position`."""
    durable, loose = log.split(disk, position)
    return [*durable, *_kept(loose, manner, dice)]


def _kept(loose: list[Write], manner: str, dice: random.Random) -> Iterator[Piece | Write]:
    share = {"all": 1.0, "none": 0.0, "some": 0.5, "most": 0.9, "few": 0.1, "torn": 0.5}[manner]
    for write in loose:
        if manner == "torn" and dice.random() < 0.5 and write.offset >= WHOLE:
            yield from _torn(write, dice)
        elif dice.random() < share:
            yield write


def _torn(write: Write, dice: random.Random) -> Iterator[Piece]:
    for start in range(0, write.length, SECTOR):
        if dice.random() < 0.5:
            length = min(SECTOR, write.length - start)
            yield Piece(write.offset + start, length, write.data + start)


def _copy_sparse(source: Path, target: Path) -> None:
    size = source.stat().st_size
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(size)
        end = 0
        while end < size:
            try:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
            except OSError:  # holes to the end
                break
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.lseek(new.fileno(), start, os.SEEK_SET)
            os.lseek(old.fileno(), start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(new.fileno(), old.fileno(), start, end - start)
