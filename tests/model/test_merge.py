"""Merged content does at home what its entries would, one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from afmfs.model.action import Content
from afmfs.model.entry import Entry, Op
from afmfs.model.merge import merge

AT = st.integers(0, 12)
CHANGE = st.tuples(st.sampled_from([Op.WRITE, Op.WRITE, Op.SIZE, Op.ATTR]), AT, AT)


def resized(data: list[int], size: int) -> list[int]:
    return (data + [0] * size)[:size]


def apply(data: list[int], content: Content, now: list[int]) -> list[int]:
    if content.smallest is not None:
        data = data[: content.smallest]
    if content.size is not None:
        data = resized(data, content.size)
    for start, end in content.ranges:
        data = resized(data, max(len(data), end))
        data[start:end] = resized(now, end)[start:end]
    return data


@settings(max_examples=400)
@given(st.integers(0, 12), st.lists(CHANGE, max_size=10), st.booleans())
def test_merged_is_one_by_one(size: int, changes: list[tuple[Op, int, int]], known: bool) -> None:
    home = [-1] * size
    now, entries = list(home), []
    for n, (op, a, b) in enumerate(changes, 1):
        start, end = (min(a, b), max(a, b)) if op == Op.WRITE else (0, a)
        if op == Op.WRITE and start < end:
            now = resized(now, max(len(now), end))
            now[start:end] = [n] * (end - start)
        elif op == Op.SIZE:
            now = resized(now, end)
        elif op == Op.WRITE:
            continue
        entries.append(Entry(n, op, 100, start=start, end=end))
    content = merge(entries, size=size if known else None)
    assert apply(home, content, now) == now
    assert apply(apply(home, content, now), content, now) == now  # and again, when in doubt
    assert content.attr == any(e.op == Op.ATTR for e in entries)
    assert all(content.size is None or end <= content.size for _, end in content.ranges)


def test_extended_attributes_are_named() -> None:
    entries = [Entry(n, Op.XATTR, 100, name=name) for n, name in enumerate([b"a", b"b", b"a"])]
    assert merge(entries) == Content(xattrs=frozenset({b"a", b"b"}))
