"""Ranges against sets of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from afmfs.model import ranges
from afmfs.model.ranges import Ranges

AT = st.integers(0, 40)
ANY = st.lists(st.tuples(AT, AT), max_size=12)


def bytes_of(rs: list[tuple[int, int]] | Ranges) -> set[int]:
    return {n for a, b in rs for n in range(a, b)}


def check(rs: Ranges, want: set[int]) -> None:
    assert bytes_of(rs) == want
    assert all(a < b for a, b in rs)
    assert all(left[1] < right[0] for left, right in zip(rs, rs[1:], strict=False))


@given(ANY)
def test_union(some: list[tuple[int, int]]) -> None:
    check(ranges.union(some), bytes_of(some))


@given(ANY, AT, AT)
def test_one_range_with_many(some: list[tuple[int, int]], a: int, b: int) -> None:
    have = ranges.union(some)
    both, one = bytes_of(some), set(range(a, b))
    check(ranges.add(have, a, b), both | one)
    check(ranges.cut(have, a), {n for n in both if n < a})
    check(ranges.subtract(have, a, b), both - one)
    check(ranges.within(have, a, b), both & one)
    check(ranges.gaps(have, a, b), one - both)
    assert ranges.total(have) == len(both)


@given(ANY, ANY)
def test_many_without_many(some: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    rest = ranges.difference(ranges.union(some), ranges.union(other))
    check(rest, bytes_of(some) - bytes_of(other))
