"""Block arithmetic and the block map's chunks, against sets of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from afmfs.model import bitmap, blocks

SIZES = st.integers(0, 200)
BLOCKS = st.integers(1, 32)


def bytes_of(number: int, size: int, block: int) -> set[int]:
    return {b for b in range(size) if b // block == number}


@given(SIZES, SIZES, SIZES, BLOCKS)
def test_covered_blocks_are_those_whose_every_byte_is_in_the_range(
    start: int, length: int, size: int, block: int
) -> None:
    end = min(start + length, size)
    inside = set(range(start, end))
    expected = {n for n in range(blocks.count(size, block)) if bytes_of(n, size, block) <= inside}
    assert set(blocks.covered(start, end, size, block)) == (expected if start < end else set())


@given(SIZES, SIZES, BLOCKS)
def test_touched_blocks_are_those_with_a_byte_in_the_range(
    start: int, length: int, block: int
) -> None:
    end = start + length
    assert set(blocks.touched(start, end, block)) == {b // block for b in range(start, end)}


@given(SIZES, BLOCKS)
def test_bounds_part_the_file(size: int, block: int) -> None:
    parts = [blocks.bounds(n, size, block) for n in range(blocks.count(size, block))]
    assert [b for a, e in parts for b in range(a, e)] == list(range(size))


@given(st.integers(0, 3 * bitmap.CHUNK), st.integers(0, 3 * bitmap.CHUNK))
def test_parts_part_a_run_at_chunk_borders(first: int, length: int) -> None:
    pieces, inner = bitmap.parts(range(first, first + length))
    assert all(0 <= low < high <= bitmap.CHUNK for _, low, high in pieces)
    flat = [(c * bitmap.CHUNK + low, c * bitmap.CHUNK + high) for c, low, high in pieces]
    flat += [(c * bitmap.CHUNK, (c + 1) * bitmap.CHUNK) for c in inner]
    flat.sort()
    assert sum(b - a for a, b in flat) == length
    if length:
        assert flat[0][0] == first
        assert flat[-1][1] == first + length
        assert list(bitmap.chunks(range(first, first + length))) == [
            a // bitmap.CHUNK for a, _ in flat
        ]
    assert all(x[1] == y[0] for x, y in zip(flat, flat[1:], strict=False))


def test_parts_of_what_no_one_could_go_through() -> None:
    pieces, inner = bitmap.parts(range(1, (1 << 44) + 1))
    assert pieces == [(0, 1, bitmap.CHUNK), ((1 << 44) // bitmap.CHUNK, 0, 1)]
    assert inner == range(1, (1 << 44) // bitmap.CHUNK)


FIRST = 5 * bitmap.CHUNK
NEAR = st.integers(FIRST - 9, FIRST + 2 * bitmap.CHUNK + 9)


@given(st.sets(st.integers(0, bitmap.CHUNK - 1), max_size=9), st.integers(0, 2), NEAR, NEAR)
def test_what_a_row_says_of_some_blocks(members: set[int], full: int, start: int, end: int) -> None:
    """A row of a chunk that has `members`, or of a run of `full` chunks."""
    stored = bitmap.run(full)
    if not full:
        bits = bitmap.load(None)
        for n in members:
            bits[n] = True
        stored = bits.tobytes()
    have = set(range(full * bitmap.CHUNK)) if full else members
    assert bitmap.is_run(stored) == bool(full) and bitmap.is_stored(stored)
    assert bitmap.reach(stored) == (full or 1)
    assert bitmap.number(stored) == len(have)
    among = {FIRST + n for n in have} & set(range(start, end))
    runs = list(bitmap.cached(5, stored, range(start, end)))
    assert {n for a, b in runs for n in range(a, b)} == among
    assert bitmap.number_among(5, stored, range(start, end)) == len(among)
    if full:
        assert bitmap.load(stored).all()


@given(st.sets(st.integers(0, 99)), st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_runs_are_maximal_and_complete(members: set[int], low: int, high: int, value: bool) -> None:
    bits = bitmap.load(None)
    for n in members:
        bits[n] = True
    runs = list(bitmap.runs(bits, low, high, value))
    found = {n for a, b in runs for n in range(a, b)}
    assert found == {n for n in range(low, high) if (n in members) == value}
    assert all(x[1] < y[0] for x, y in zip(runs, runs[1:], strict=False))


@given(st.sets(st.integers(0, bitmap.CHUNK - 1)))
def test_a_chunk_is_a_kilobyte_and_comes_back(members: set[int]) -> None:
    bits = bitmap.load(None)
    for n in members:
        bits[n] = True
    stored = bits.tobytes()
    assert len(stored) == 1024
    assert bitmap.load(stored) == bits
