"""What the phases of a job share: the gateway's parts, and how outcomes are landed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.protocol import Message
from afmfs.gateway.replay.backoff import is_early
from afmfs.gateway.replay.site import Site
from afmfs.gateway.state.journal import Journal, Outcome, Requeued
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View
from afmfs.model.entry import DATA_OPS, Op

MOVES = (Op.RENAME, Op.EXCHANGE)


class NoPoint(Exception):
    """The cache's disk can't be synced: nothing can be done at home now."""


@dataclass(slots=True, kw_only=True)
class Steps:
    view: View
    journal: Journal
    progress: Progress
    contact: Contact
    send: Callable[[Message], None]
    site: Site
    make_point: Callable[[], bool]
    executed: int = 0  # entries and rows of the priority queue, since the start

    def point(self) -> None:
        """Make a durable point. NoPoint if none can be made."""
        if not self.make_point():
            raise NoPoint

    def refused_names(self, now_ns: int | None = None) -> set[int]:
        """The entries that home refuses, of those that make, move or free names; at a time, without
        those that are due for another attempt."""
        requeued = self.journal.requeued().values()
        late = [r.id for r in requeued if now_ns is None or is_early(r.next_try_ns, now_ns)]
        return {e.id for e in self.view.entries(sorted(late)) if e.op not in DATA_OPS}

    def moves_in_doubt(self) -> list[int]:
        """Entries that have moved something at home, or not: it is not known where it is."""
        ids = [i for ids in self.journal.flights().values() for i in ids]
        ids = sorted(i for i in ids if not self.progress.executed(i))
        return [e.id for e in self.view.entries(ids) if e.op in MOVES] if ids else []

    def land(
        self,
        outcomes: Sequence[Outcome],
        requeued: Sequence[Requeued] = (),
        untouched: Sequence[int] = (),
    ) -> None:
        """Record what became of entries of the queue; durable on return."""
        if not (outcomes or requeued or untouched):
            return
        self.journal.land(outcomes, requeued, untouched)
        ids = [outcome.id for outcome in outcomes]
        self.progress.recorded(ids)
        self.progress.unmark(ids)
        self.executed += len(ids)
        if outcomes:
            self.say_outcomes()

    def say_outcomes(self) -> None:
        """The mount process may take over what is recorded."""
        seq = self.journal.seq
        self.send({"type": "outcomes", "seq": seq, "num_exec": self.executed})
