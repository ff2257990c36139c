"""Access control lists against the mode bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.model import acl
from afmfs.model.acl import GROUP, GROUP_OBJ, MASK, NO_ID, OTHER, USER, USER_OBJ, Ace

PERM = st.integers(0, 7)
MODE = st.integers(0, 0o777)


@st.composite
def lists(draw: st.DrawFn) -> list[Ace]:
    named = draw(st.lists(st.tuples(st.sampled_from([USER, GROUP]), PERM, st.integers(0, 9))))
    entries = [Ace(tag, draw(PERM), NO_ID) for tag in (USER_OBJ, GROUP_OBJ, OTHER)]
    if named:
        entries += [Ace(*one) for one in named] + [Ace(MASK, draw(PERM), NO_ID)]
    return sorted(entries)


@given(lists())
def test_a_list_comes_back_from_its_attribute(entries: list[Ace]) -> None:
    assert acl.load(acl.dump(entries)) == entries


@pytest.mark.parametrize("value", [b"", b"\2\0\0\0\1", b"\1\0\0\0"])
def test_what_is_no_list_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="access control list"):
        acl.load(value)


@given(lists(), MODE)
def test_chmod_shows_in_the_mode(entries: list[Ace], mode: int) -> None:
    assert acl.mode_of(acl.with_mode(entries, mode), 0) == mode


@given(lists(), MODE)
def test_a_default_list_only_narrows(entries: list[Ace], mode: int) -> None:
    access, given_mode = acl.inherited(entries, mode)
    assert given_mode & ~mode == 0
    assert acl.mode_of(access, 0) == given_mode


@given(lists(), MODE)
def test_without_lists_nobody_gets_more(entries: list[Ace], mode: int) -> None:
    """Whoever a named entry speaks of may come in as group or other."""
    shown = acl.narrowest(entries, acl.mode_of(entries, mode))
    mask = next((e.perm for e in entries if e.tag == MASK), 7)
    for entry in entries:
        if entry.tag in (USER, GROUP):
            assert (shown & 7) & ~entry.perm == 0
            assert (shown >> 3 & 7) & ~(entry.perm & mask) == 0
    assert shown & 0o700 == acl.mode_of(entries, mode) & 0o700


def test_a_minimal_list_is_only_the_mode() -> None:
    entries = [Ace(USER_OBJ, 6, NO_ID), Ace(GROUP_OBJ, 4, NO_ID), Ace(OTHER, 0, NO_ID)]
    assert acl.is_minimal(entries)
    assert not acl.is_minimal([*entries, Ace(MASK, 7, NO_ID)])
    assert acl.mode_of(entries, 0o100777) == 0o100640
