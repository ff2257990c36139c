"""Rows of a damaged SQLite database, read page by page: also of pages that nothing leads to.

Of the file format (https://sqlite.org/fileformat2.html) no more than it takes to find the records
of b-tree pages that are in use: cells, their overflow chains, and the list of free pages, whose
rows are old. Whoever asks judges whether a record can be a row of a table; what can't be read is
passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"SQLite format 3\0"
_TABLE, _INDEX, _INDEX_INSIDE = 13, 10, 2
_INTS = (0, 1, 2, 3, 4, 6, 8)
"""Bytes of an integer, by its serial type."""


class Record(NamedTuple):
    rowid: int | None  # None: of a table without, or of an index
    values: tuple[Any, ...]


class Pages:
    """A database file without a log. Where its header is lost its pages have `size`."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("rb")
        head = self._file.read(100).ljust(100, b"\0")
        known = head.startswith(MAGIC)
        said = int.from_bytes(head[16:18], "big")
        said = 65536 if said == 1 else said
        self._size = said if known and said >= 512 and not said & (said - 1) else size
        self._usable = self._size - (head[20] if known else 0)
        self._count = path.stat().st_size // self._size
        self._free = self._free_pages(int.from_bytes(head[32:36], "big")) if known else set[int]()

    def close(self) -> None:
        self._file.close()

    def records(self) -> Iterator[Record]:
        for number in range(1, self._count + 1):
            if number not in self._free:
                yield from self._of_page(number)

    def _page(self, number: int) -> bytes:
        if not 1 <= number <= self._count:
            raise ValueError(f"there is no page {number}")
        self._file.seek((number - 1) * self._size)
        return self._file.read(self._size)

    def _free_pages(self, trunk: int) -> set[int]:
        """As far as their list can be followed."""
        found: set[int] = set()
        while trunk and trunk not in found and trunk <= self._count:
            found.add(trunk)
            page = self._page(trunk)
            trunk, count = struct.unpack_from(">II", page)
            count = min(count, self._usable // 4 - 2)
            found.update(struct.unpack_from(f">{count}I", page, 8))
        return found

    # -- pages and cells -------------------------------------------------------------------------

    def _of_page(self, number: int) -> Iterator[Record]:
        page = self._page(number)
        start = 100 if number == 1 else 0
        kind = page[start]
        if kind not in (_TABLE, _INDEX, _INDEX_INSIDE):
            return
        (cells,) = struct.unpack_from(">H", page, start + 3)
        first = start + (12 if kind == _INDEX_INSIDE else 8)
        for n in range(min(cells, (self._size - first) // 2)):
            (at,) = struct.unpack_from(">H", page, first + 2 * n)
            try:
                yield self._cell(page, at, kind)
            except (ValueError, IndexError, struct.error):
                continue

    def _cell(self, page: bytes, at: int, kind: int) -> Record:
        if kind == _INDEX_INSIDE:
            at += 4
        length, at = _varint(page, at)
        rowid = None
        if kind == _TABLE:
            rowid, at = _varint(page, at)
        return Record(rowid, _values(self._payload(page, at, length, kind)))

    def _payload(self, page: bytes, at: int, length: int, kind: int) -> bytes:
        """What a cell holds, with its overflow pages."""
        usable = self._usable
        most = usable - 35 if kind == _TABLE else (usable - 12) * 64 // 255 - 23
        if length <= most:
            data = page[at : at + length]
        else:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (length - least) % (usable - 4)
            local = local if local <= most else least
            data = page[at : at + local]
            (more,) = struct.unpack_from(">I", page, at + local)
            seen: set[int] = set()
            while len(data) < length:
                if more in seen:
                    raise ValueError("an overflow chain goes in a circle")
                seen.add(more)
                beyond = self._page(more)
                data += beyond[4 : min(usable, 4 + length - len(data))]
                more = int.from_bytes(beyond[:4], "big")
        if len(data) != length:
            raise ValueError("a cell reaches beyond its page")
        return data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            value = value << 8 | byte
            break
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return (value - (1 << 64) if value >> 63 else value), at + n + 1


def _values(data: bytes) -> tuple[Any, ...]:
    end, at = _varint(data, 0)
    place, found = end, []
    while at < end:
        kind, at = _varint(data, at)
        value, place = _value(data, place, kind)
        found.append(value)
    if place != len(data):
        raise ValueError("a record is longer than it says")
    return tuple(found)


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind == 7:
        return struct.unpack_from(">d", data, at)[0], at + 8
    if kind < 7:
        size = _INTS[kind]
        return int.from_bytes(data[at : at + size], "big", signed=True), at + size
    if kind < 12:
        raise ValueError(f"there is no serial type {kind}")
    size = (kind - 12) // 2
    raw = data[at : at + size]
    return (raw.decode("utf-8", "surrogateescape") if kind % 2 else raw), at + size
