"""The priority queue's figures, and when it has something to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from afmfs.gateway.job.decision import Decision
from afmfs.gateway.job.priority import WAITING, Planned, Priority, Refusal
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.resync import Do

LATE = 1_000_000_000


@pytest.fixture
def priority(tmp_path: Path) -> Iterator[Priority]:
    journal = Journal(tmp_path)
    priority = Priority(journal, TrashBook(journal))
    priority.begin({"id": 1, "kind": "resync", "bound": 0})
    yield priority
    journal.close()


def test_what_is_collected_counts_once(priority: Priority) -> None:
    priority.collect([16, 17])
    priority.collect([17, 18])
    assert (priority.left, priority.figures["total"]) == (3, 3)
    assert priority.collected(9) == [16, 17, 18]


def test_what_home_was_not_asked_for_waits_for_nothing(priority: Priority) -> None:
    """A row that came with a refused one does not wait for that one's next attempt."""
    priority.plan([Planned(16, 16, 0), Planned(17, 17, 0)], 17)
    priority.enter(WAITING)
    (first, *_) = priority.next(1, 0, 1)
    priority.decide([(first, Decision(Do.PUSH))], 1)
    refusal = Refusal(first.n, 13, "no", 1, LATE, 1, begun=False)
    priority.land([], [], [refusal], [], [])
    assert priority.next_try() == 0
    (other,) = priority.next(1, 0, 1)
    priority.land([(other, Decision(Do.SKIP))], [], [], [], [])
    assert priority.next_try() == LATE
