"""Sets of bytes as sorted, disjoint, non-touching half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """`ranges` with [start, end) in it; neighbours that touch become one."""
    if start >= end:
        return ranges
    first = bisect_left(ranges, start, key=lambda r: r[1])
    last = bisect_right(ranges, end, key=lambda r: r[0])
    if first < last:
        start, end = min(start, ranges[first][0]), max(end, ranges[last - 1][1])
    return (*ranges[:first], (start, end), *ranges[last:])


def union(ranges: Iterable[Range]) -> Ranges:
    """Any ranges, in any order, as one set: O(n log n), where repeated `add` is quadratic."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def cut(ranges: Ranges, size: int) -> Ranges:
    """`ranges` below `size`."""
    return tuple((a, min(b, size)) for a, b in ranges if a < size)


def subtract(ranges: Ranges, start: int, end: int) -> Ranges:
    """`ranges` without [start, end)."""
    if start >= end:
        return ranges
    kept: list[Range] = []
    for a, b in ranges:
        kept += [(x, y) for x, y in ((a, min(b, start)), (max(a, end), b)) if x < y]
    return tuple(kept)


def difference(ranges: Ranges, other: Ranges) -> Ranges:
    """`ranges` without what is in `other`, in one pass over both."""
    kept: list[Range] = []
    n = 0
    for start, end in ranges:
        while n < len(other) and other[n][1] <= start:
            n += 1
        at = n  # the last one may reach into the next range as well
        while at < len(other) and other[at][0] < end:
            if start < other[at][0]:
                kept.append((start, other[at][0]))
            start = max(start, other[at][1])
            at += 1
        if start < end:
            kept.append((start, end))
    return tuple(kept)


def within(ranges: Ranges, start: int, end: int) -> Ranges:
    """The part of `ranges` that lies in [start, end)."""
    clipped = ((max(a, start), min(b, end)) for a, b in ranges)
    return tuple((a, b) for a, b in clipped if a < b)


def gaps(ranges: Ranges, start: int, end: int) -> Ranges:
    """The part of [start, end) that is not in `ranges`."""
    missing: list[Range] = []
    for a, b in within(ranges, start, end):
        if start < a:
            missing.append((start, a))
        start = b
    if start < end:
        missing.append((start, end))
    return tuple(missing)


def total(ranges: Iterable[Range]) -> int:
    """Bytes in `ranges`."""
    return sum(b - a for a, b in ranges)
