"""The oracles' quick arithmetic against what it stands for, byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.harness.masks import differing, masked, positions

triples = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 1)))


@given(triples)
def test_byte_by_byte(triples: list[tuple[int, int, int]]) -> None:
    one, two, mask = (bytes(t[n] for t in triples) for n in range(3))
    assert masked(one, mask) == bytes(a if m else 0 for a, m in zip(one, mask, strict=True))
    assert differing(one, two, mask) == [
        n for n, (a, b, m) in enumerate(triples) if m and a != b
    ]  # fmt: skip
    assert positions(mask, 0) == [n for n, m in enumerate(mask) if not m]
