"""The block map of a file: which blocks are cached, in chunks of 8192 bits.

A chunk is what a change rewrites on disk: one kilobyte, whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitarray import bitarray

CHUNK = 8192
"""Blocks in a chunk."""


def load(stored: bytes | None) -> bitarray:
    """A chunk from its stored form; none stored means that no block is cached."""
    bits = bitarray(endian="little")
    if stored is None:
        bits.frombytes(bytes(CHUNK // 8))
    else:
        bits.frombytes(stored)
    return bits


def pieces(blocks: range) -> Iterator[tuple[int, int, int]]:
    """Cut a run of blocks at chunk borders: (chunk, first bit, bit after the last)."""
    first = blocks.start
    while first < blocks.stop:
        chunk, low = divmod(first, CHUNK)
        high = min(CHUNK, low + blocks.stop - first)
        yield chunk, low, high
        first += high - low


def runs(bits: bitarray, low: int, high: int, value: bool) -> Iterator[tuple[int, int]]:
    """Maximal runs [a, b) of bits that equal `value`, within [low, high)."""
    while low < high:
        first = bits.find(value, low, high)
        if first < 0:
            return
        end = bits.find(not value, first, high)
        end = high if end < 0 else end
        yield first, end
        low = end
