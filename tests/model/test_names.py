"""Home's names by rule. That they are right at every step: `check_places` in test_coalesce.py."""

from __future__ import annotations

import pytest

from afmfs.model.action import Place
from afmfs.model.entry import Entry, Op
from afmfs.model.names import home_places

A: Place = (1, b"a")
B: Place = (1, b"b")
C: Place = (7, b"c")
INO, OTHER = 100, 200

CASES = [
    ("nothing is pending", [A, B], [], {A, B}),
    ("made", [A], [Entry(1, Op.MAKE, INO, 0, *A)], set()),
    ("linked", [A, B], [Entry(1, Op.LINK, INO, 0, *B)], {A}),
    ("removed", [], [Entry(1, Op.REMOVE, INO, 0, *A)], {A}),
    ("renamed", [B], [Entry(1, Op.RENAME, INO, 0, *A, *B, OTHER)], {A}),
    ("replaced", [A], [Entry(1, Op.RENAME, OTHER, 0, *C, *B, INO)], {A, B}),
    ("exchanged", [B], [Entry(1, Op.EXCHANGE, INO, 0, *A, *B, OTHER)], {A}),
    ("exchanged with another", [A], [Entry(1, Op.EXCHANGE, OTHER, 0, *A, *B, INO)], {B}),
    ("written", [A], [Entry(1, Op.WRITE, INO)], {A}),
]


@pytest.mark.parametrize(
    ("present", "pending", "home"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_one_entry_is_undone(present: list[Place], pending: list[Entry], home: set[Place]) -> None:
    assert home_places(INO, present, pending) == home


def test_the_newest_is_undone_first() -> None:
    pending = [
        Entry(4, Op.REMOVE, INO, 0, *B),
        Entry(3, Op.RENAME, INO, 0, *C, *B),
        Entry(2, Op.RENAME, INO, 0, *A, *C),
        Entry(1, Op.MAKE, INO, 0, *A),
    ]
    assert home_places(INO, [], pending[:3]) == {A}
    assert home_places(INO, [], pending) == set()
