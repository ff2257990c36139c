"""Block arithmetic: block n of a file covers bytes [n * block, (n + 1) * block)."""

from __future__ import annotations

from typing import TypeGuard

MIN_BLOCK = 4 << 10
MAX_BLOCK = 16 << 20
DEFAULT_BLOCK = 1 << 20


def is_block_size(size: object) -> TypeGuard[int]:
    """Whether blocks can be as large: a power of two, within bounds."""
    return type(size) is int and MIN_BLOCK <= size <= MAX_BLOCK and not size & (size - 1)


def count(size: int, block: int) -> int:
    """Blocks of a file of `size` bytes; the last may be short."""
    return -(-size // block)


def touched(start: int, end: int, block: int) -> range:
    """Blocks that hold a byte of [start, end)."""
    return range(start // block, count(end, block)) if start < end else range(0)


def covered(start: int, end: int, size: int, block: int) -> range:
    """Blocks every byte of which below `size` lies in [start, end).

    The short last block counts as covered when the range reaches the end of the file.
    """
    last = count(end, block) if end >= size else end // block
    return range(count(start, block), max(count(start, block), last))


def bounds(number: int, size: int, block: int) -> tuple[int, int]:
    """Byte range of a block, cut at the end of the file."""
    return number * block, min((number + 1) * block, size)


SHARDS = 256
"""Directories that hold the blobs."""


def blob_name(gen: int) -> str:
    """Path of the blob of a generation below `blobs/`. Neighbours in time share a directory: they
    are found, and made, in what the disk's cache holds."""
    return f"{(gen >> 10) % SHARDS:02x}/{gen:x}"


LONGEST_BLOB = 1 << 40
"""Every disk holds files of this length; what a file has beyond need not be in its blob's."""


def blob_length(size: int) -> int:
    """The least length of the blob of a file of `size` bytes. A shorter one has lost its tail."""
    return min(size, LONGEST_BLOB)
