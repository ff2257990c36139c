"""The block map of a file: which blocks are cached, in rows of chunks of 8192 bits.

A chunk is what a change rewrites on disk: one kilobyte, whatever the size of the file. Where no row
is, nothing is cached. A run is one row for any number of chunks that are full: else a file that was
cached as a whole, and no longer is, would take a row for each chunk of a size that costs nothing.

A row is (chunk, stored), where `stored` are the bits of the chunk, or the length of a run that
begins with it. No two rows are of the same chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitarray import bitarray

CHUNK = 8192
"""Blocks in a chunk."""

_RUN = 8
"""Bytes of a stored run; a stored chunk has CHUNK // 8."""


def load(stored: bytes | None) -> bitarray:
    """A chunk from its stored form, or one of a run; none stored: no block is cached."""
    bits = bitarray(endian="little")
    if stored is None:
        bits.frombytes(bytes(CHUNK // 8))
    elif is_run(stored):
        bits.frombytes(b"\xff" * (CHUNK // 8))
    else:
        bits.frombytes(stored)
    return bits


def run(chunks: int) -> bytes:
    """The stored form of so many full chunks."""
    return chunks.to_bytes(_RUN, "little")


def is_stored(content: bytes) -> bool:
    """Whether it can be what is stored in a row, by its length."""
    return len(content) in (_RUN, CHUNK // 8)


def is_run(stored: bytes) -> bool:
    return len(stored) == _RUN


def reach(stored: bytes) -> int:
    """Chunks that a row is of, from its own on."""
    return int.from_bytes(stored, "little") if is_run(stored) else 1


def number(stored: bytes) -> int:
    """Blocks that a row says are cached."""
    if is_run(stored):
        return reach(stored) * CHUNK
    return int.from_bytes(stored, "little").bit_count()


def number_among(chunk: int, stored: bytes, blocks: range) -> int:
    """Those of them that are among `blocks`."""
    low, high = _within(chunk, stored, blocks)
    if low >= high:
        return 0
    return high - low if is_run(stored) else load(stored).count(True, low, high)


def cached(chunk: int, stored: bytes, blocks: range) -> Iterator[tuple[int, int]]:
    """Runs of blocks [a, b) among `blocks` that a row says are cached."""
    base = chunk * CHUNK
    low, high = _within(chunk, stored, blocks)
    if is_run(stored):
        if low < high:
            yield base + low, base + high
        return
    for a, b in runs(load(stored), low, high, True):
        yield base + a, base + b


def _within(chunk: int, stored: bytes, blocks: range) -> tuple[int, int]:
    """What of `blocks` a row is of, counted from its first block."""
    base, most = chunk * CHUNK, reach(stored) * CHUNK
    return max(0, blocks.start - base), min(most, blocks.stop - base)


def chunks(blocks: range) -> range:
    """The chunks that have any of `blocks`."""
    return range(blocks.start // CHUNK, -(-blocks.stop // CHUNK)) if blocks else range(0)


def parts(blocks: range) -> tuple[list[tuple[int, int, int]], range]:
    """A run of blocks cut at chunk borders: the pieces of chunks at its ends (chunk, first bit, bit
    after the last), and the chunks that it covers."""
    if not blocks:
        return [], range(0)
    (first, low), (last, high) = divmod(blocks.start, CHUNK), divmod(blocks.stop, CHUNK)
    if first == last:
        return [(first, low, high)], range(0)
    pieces = [(first, low, CHUNK)] if low else []
    if high:
        pieces.append((last, 0, high))
    return pieces, range(first + bool(low), last)


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
