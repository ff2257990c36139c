from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.model.selection import LARGEST, Order, Selection, parse_size, select


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1k", 1024),
        ("10G", 10 << 30),
        ("5MiB", 5 << 20),
        ("2TB", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "10X", "9999999P", "١"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="a size in bytes"):
        parse_size(text)


def test_words() -> None:
    assert select("", ()) == Selection(Order.LRU, None, 1, LARGEST)
    chosen = select("size", ["FILENAME=*.o", "minfilesize=0", "MAXFILESIZE=1M"])
    assert chosen == Selection(Order.SIZE, b"*.o", 1, 1 << 20)


@pytest.mark.parametrize(
    ("order", "filters", "why"),
    [
        ("MRU", [], "LRU or SIZE"),
        ("", ["*.o"], "a filter is"),
        ("", ["COLOUR=red"], "a filter is"),
        ("", ["FILENAME=a", "FILENAME=b"], "twice"),
        ("", ["FILENAME=a/b"], "not for paths"),
        ("", ["FILENAME="], "not for paths"),
        ("", ["MINFILESIZE=some"], "a size in bytes"),
    ],
)
def test_what_is_no_selection(order: str, filters: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        select(order, filters)


@given(st.binary(min_size=1).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_names_of_any_bytes(name: bytes) -> None:
    assert Selection(pattern=b"*").names(name)
    assert Selection().names(name)


def test_patterns_are_those_of_a_shell() -> None:
    chosen = select("", ["FILENAME=[ab]?.\udcff*"])
    assert chosen.names(b"a1.\xff")
    assert not chosen.names(b"A1.\xff")
