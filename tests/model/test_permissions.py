from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.model.permissions import Permissions, give_more

ALICE, BOB, STAFF, GUESTS = 1001, 1002, 50, 60


def may(user: int, groups: frozenset[int], bit: int, of: Permissions) -> bool:
    """As the kernel decides it (acl(5), ACCESS CHECK ALGORITHM)."""
    if user == of.uid:
        return True  # or may permit it to themselves
    return bool((of.mode >> 3 if of.gid in groups else of.mode) & bit)


modes = st.builds(lambda a, b, c: a << 6 | b << 3 | c, *[st.integers(0, 7)] * 3)
permissions = st.builds(
    Permissions, modes, st.sampled_from([0, ALICE, BOB]), st.sampled_from([STAFF, GUESTS])
)
MEMBERSHIPS = [
    frozenset(some) for n in range(3) for some in itertools.combinations((STAFF, GUESTS), n)
]


@given(permissions, permissions)
def test_where_it_says_no_nobody_gets_more(ours: Permissions, homes: Permissions) -> None:
    if give_more(ours, homes):
        return
    for user in (ALICE, BOB, 1003):
        for groups in MEMBERSHIPS:
            for bit in (4, 2):
                if may(user, groups, bit, ours) and user != homes.uid:
                    assert may(user, groups, bit, homes), (user, groups, bit)


@given(permissions)
def test_the_same_give_the_same(one: Permissions) -> None:
    assert not give_more(one, one)
    assert not give_more(one, one._replace(mode=0o666))


@pytest.mark.parametrize(
    "ours, homes, more",
    [
        ((0o644, ALICE, STAFF), (0o600, ALICE, STAFF), True),
        ((0o600, ALICE, STAFF), (0o644, ALICE, STAFF), False),
        ((0o600, ALICE, STAFF), (0o644, BOB, STAFF), True),
        ((0o666, 0, 0), (0o644, 0, 0), True),
        ((0o644, 0, 0), (0o644, 0, 0), False),
        ((0o640, ALICE, STAFF), (0o640, ALICE, GUESTS), True),
        ((0o640, ALICE, STAFF), (0o644, ALICE, GUESTS), False),
    ],
)
def test_examples(ours: tuple[int, int, int], homes: tuple[int, int, int], more: bool) -> None:
    assert give_more(Permissions(*ours), Permissions(*homes)) is more
