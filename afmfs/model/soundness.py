"""What must be true of single rows of cache.db, whatever the rest of it says.

A fault is a sentence about a row and, where the row itself tells what is right, the columns to set.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from afmfs.model import bitmap, blocks, ranges
from afmfs.model.bitmap import CHUNK
from afmfs.model.entry import FIRST_INO, ROOT, UNLINKED, Entry, Op
from afmfs.model.ranges import Range, Ranges

TYPES = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    }
)


class Fault(NamedTuple):
    text: str
    right: Mapping[str, int]  # columns and what they have to be; empty: the row tells too little


# -- inodes --------------------------------------------------------------------------------------

_NUMBERS = 14
"""So many columns of an inode, from the first on, have to be numbers."""


def is_inode(row: Sequence[Any]) -> bool:
    """Whether a row (in the order of `Inode`'s fields) can be an inode at all."""
    ino, mode, *rest = row[:_NUMBERS]
    if not all(type(value) is int for value in row[:_NUMBERS]):
        return False
    if stat.S_IFMT(mode) not in TYPES or not (ino in (ROOT, UNLINKED) or ino >= FIRST_INO):
        return False
    nlink, size, gen, home_valid = rest[3], rest[4], rest[8], rest[10]
    numbers = (nlink, size, gen, home_valid, *row[17:20])
    if not all(type(value) is int and value >= 0 for value in numbers):
        return False
    return stat.S_IFMT(mode) != stat.S_IFLNK or isinstance(row[20], bytes)


def inode_faults(inode: Any) -> Iterator[Fault]:
    """Of an inode that `is_inode`."""
    if inode.whole not in (0, 1):
        yield Fault(f"whole is {inode.whole}", {"whole": 0 if inode.is_file else 1})
    if inode.is_file:
        if inode.home_valid > inode.size:
            text = f"more is fetched ({inode.home_valid}) than it has bytes ({inode.size})"
            yield Fault(text, {"home_valid": inode.size})
    elif inode.gen or inode.home_valid or inode.whole != 1:
        right = {"gen": 0, "home_valid": 0, "whole": 1}
        yield Fault("it is no file and has bytes of one", right)
    if inode.is_dir and inode.listed not in (0, 1, 2):
        yield Fault(f"listed is {inode.listed}", {"listed": 2})
    if inode.retired > inode.changed:
        text = f"an entry is retired ({inode.retired}) after its last one ({inode.changed})"
        yield Fault(text, {"changed": inode.retired})


def version_fault(inode: Any) -> Fault | None:
    """What is wrong with the version that home is said to hold. One of the epoch is no known one:
    home's file is compared with what is cached before it is believed."""
    stamp = (inode.home_size, inode.home_mtime, inode.home_ino)
    if any(value is not None and type(value) is not int for value in stamp):
        return Fault("home's version is no number", {"home_size": inode.size, "home_mtime": 0})
    if (inode.home_size is None) != (inode.home_mtime is None):
        return Fault(
            "half of home's version is missing", {"home_size": inode.size, "home_mtime": 0}
        )
    if inode.home_size is not None and inode.home_size < 0:
        return Fault("home's size is negative", {"home_size": inode.size, "home_mtime": 0})
    return None


# -- block maps ----------------------------------------------------------------------------------


END = 1 << 62
"""No block has this number."""


class Map(NamedTuple):
    """The rows of a file's map."""

    chunks: dict[Any, Any]  # and runs of them
    spans: list[tuple[Any, Any]]


def map_faults(rows: Map, size: int, block: int) -> list[tuple[str, str]]:
    """Kind and sentence of what is wrong with the map of a file that is not whole."""
    found: list[tuple[str, str]] = []
    last = blocks.count(size, block)
    for chunk, stored in rows.chunks.items():
        if not _is_row(chunk, stored):
            found.append(("bad row", f"chunk {chunk} of its map can't be read"))
        elif chunk < 0 or any(bitmap.cached(chunk, stored, range(last, END))):
            found.append(("stale bit", f"blocks beyond its {size} bytes count as cached"))
    good = _good_rows(rows.chunks)
    for (chunk, stored), (following, _) in pairwise(good):
        if chunk + bitmap.reach(stored) > following:
            found.append(("overlap", f"chunk {following} of its map is in a run as well"))
    before = 0
    for start, end in sorted(rows.spans, key=str):
        if not (type(start) is int and type(end) is int and 0 <= start < end):
            found.append(("bad row", f"bytes {start}-{end} make no range"))
    for start, end in sorted(good_spans(rows.spans)):
        text = f"bytes {start}-{end}"
        if end > size:
            found.append(("stale bit", f"{text} count as cached, and it has {size} bytes"))
        elif start // block != (end - 1) // block:
            found.append(("overlap", f"{text} are noted as part of one block, and reach over two"))
        elif start < before or _bit(good, start // block):
            found.append(("overlap", f"{text} count as cached twice"))
        before = max(before, end)
    return found


def good_spans(spans: Sequence[tuple[Any, Any]]) -> list[Range]:
    return [(a, b) for a, b in spans if type(a) is int and type(b) is int and 0 <= a < b]


def _is_row(chunk: Any, stored: Any) -> bool:
    """Whether it can be one of a block map."""
    if type(chunk) is not int or not isinstance(stored, bytes):
        return False
    return bitmap.is_stored(stored) and 0 < bitmap.reach(stored) <= END // CHUNK


def _good_rows(chunks: Mapping[Any, Any]) -> list[tuple[int, bytes]]:
    return sorted(row for row in chunks.items() if _is_row(*row))


def _bit(rows: Sequence[tuple[int, bytes]], number: int) -> bool:
    """Whether a block is cached, by the last row that may be of it."""
    at = bisect_right(rows, number // CHUNK, key=lambda row: row[0]) - 1
    return at >= 0 and any(bitmap.cached(*rows[at], range(number, number + 1)))


def map_ranges(rows: Map, size: int, block: int) -> Ranges:
    """The bytes below `size` that the map calls valid, as far as it can be read."""
    found = good_spans(rows.spans)
    for chunk, stored in _good_rows(rows.chunks):
        if chunk >= 0:
            found += ((a * block, b * block) for a, b in bitmap.cached(chunk, stored, range(END)))
    return ranges.cut(ranges.union(found), size)


# -- entries -------------------------------------------------------------------------------------

_PLACES = {
    Op.MAKE: 1,
    Op.LINK: 1,
    Op.REMOVE: 1,
    Op.RENAME: 2,
    Op.EXCHANGE: 2,
    Op.WRITE: 0,
    Op.SIZE: 0,
    Op.ATTR: 0,
    Op.XATTR: 0,
}
"""Names that each operation is about."""


def entry_fault(row: Sequence[Any]) -> str:
    """What is wrong with a row of the queue (in the order of `Entry`'s fields); '' if nothing."""
    entry = Entry(*row)
    if any(type(value) is not int for value in (entry.id, entry.op, entry.ino, entry.kind)):
        return "its columns are no numbers"
    if entry.op not in _PLACES:
        return f"there is no operation {entry.op}"
    if entry.kind not in TYPES:
        return f"there is no type {entry.kind:o}"
    places = ((entry.parent, entry.name), (entry.parent2, entry.name2))
    for parent, name in places[: _PLACES[Op(entry.op)]]:
        if type(parent) is not int or not is_name(name):
            return "a name is missing"
    if entry.op == Op.EXCHANGE and type(entry.ino2) is not int:
        return "it exchanges with nothing"
    if entry.op == Op.XATTR and not isinstance(entry.name, bytes):
        return "the attribute's name is missing"
    numbers = (entry.start, entry.end, entry.flags, entry.queued_ns)
    if any(type(value) is not int or value < 0 for value in numbers):
        return "its columns are no numbers"
    if entry.op == Op.WRITE and entry.start >= entry.end:
        return f"bytes {entry.start}-{entry.end} make no range"
    return ""


def is_name(name: Any) -> bool:
    """Whether it can be a name in a directory."""
    return (
        isinstance(name, bytes)
        and 0 < len(name) <= 255
        and name not in (b".", b"..")
        and not set(name) & set(b"/\0")
    )
