"""Which entries are executed next.

What is in doubt comes first, by itself and batch by batch, as it was taken off. Then the queue in
its order: what is ripe and does not depend on anything that has to wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from afmfs.gateway.replay.backoff import is_early
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.unexecuted import unexecuted
from afmfs.gateway.state.view import View
from afmfs.model.action import Batch
from afmfs.model.coalesce import plan
from afmfs.model.entry import DATA_OPS, Entry, Op
from afmfs.model.order import NOTHING_OWED, Held, Owed, moves_tree

ENTRIES = 8192
"""Entries of a window; fewer where the journal has little room."""

LEAST = 64
"""Entries of the shortest window."""

BYTES = 256 << 20
"""Bytes that a window's writes cover, about: what is lost to a connection that breaks."""

REQUEUED = 100_000
"""Entries that home may refuse before no others are tried: each is kept in memory."""

_NS = 10**9


class Pick(NamedTuple):
    batch: Batch
    entries: dict[int, Entry]
    doubt: bool


class Waiting(NamedTuple):
    """Nothing can be executed now."""

    next_ns: int | None  # wall clock when there may be something; None: not by waiting
    in_doubt: int  # entries whose execution is in doubt


class _Reach(NamedTuple):
    """How far the queue was looked at without finding anything to execute."""

    through: int  # every entry up to here is executed, or held
    held: Held


class Unsure:
    """What it is not known of which names home has for it: entries that may have changed them."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        names = [e for e in entries if e.op not in DATA_OPS]
        self.of_trees = any(map(moves_tree, names))  # then of nothing
        self.inos = {ino for e in names for ino in (e.ino, e.ino2) if ino is not None}


class Window:
    """Used by the replay's thread only."""

    def __init__(
        self, view: View, journal: Journal, progress: Progress, async_delay_s: float
    ) -> None:
        self._view, self._journal, self._progress = view, journal, progress
        self._delay_ns = int(async_delay_s * _NS)
        self._start = 0  # entries up to here are executed
        self._last: tuple[int, tuple[int, ...]] | None = None  # see _go_on
        self._reach: _Reach | None = None  # as long as the same entries are in the way
        self._most = max(LEAST, min(ENTRIES, journal.most_at_once))
        self._limit = self._most
        self._until: float = math.inf  # entries beyond are not tried for now
        self.flush_through = 0  # entries up to here are ripe whatever their age
        self.owed: Callable[[], Owed] = lambda: NOTHING_OWED  # what home refuses of a job, for now

    def rewind(self) -> None:
        """Entries that counted as executed are in doubt."""
        self._start, self._last, self._reach = 0, None, None

    def _go_on(self) -> None:
        """Start behind the last window, if all of it is executed, without reading it again."""
        if self._last is not None and all(map(self._progress.executed, self._last[1])):
            self._start = self._last[0]
        self._last = None

    def pick(self, now_ns: int) -> Pick | Waiting:
        requeued = self._journal.requeued()
        late = {i: r for i, r in requeued.items() if is_early(r.next_try_ns, now_ns)}
        self._until = max(requeued) if len(requeued) >= REQUEUED else math.inf
        tries = [r.next_try_ns for r in late.values()]
        doubts = self._doubts()
        unsure = Unsure(e for entries in doubts for e in entries if e.id in late)
        for entries in [] if unsure.of_trees else doubts:
            ready, _ = Held(late.keys(), self._owed(unsure)).split(entries)
            if ready:
                return _pick(ready, doubt=True)
        in_flight = {e.id for entries in doubts for e in entries}
        unsure = Unsure(e for entries in doubts for e in entries)
        if unsure.of_trees:
            return Waiting(min(tries, default=None), len(in_flight))
        self._go_on()
        blocked = late.keys() | in_flight
        ready, next_ns = self._ripe(blocked, self._owed(unsure), now_ns)
        if ready:
            pick = _pick(ready, doubt=False)
            if not blocked and len(pick.entries) == len(ready):
                self._last = ready[-1].id, pick.batch.ids
            # Where batches are cut short, reading and planning a long window each time is waste.
            self._limit = min(self._most, max(LEAST, 2 * len(pick.entries)))
            return pick
        if next_ns is not None:
            tries.append(next_ns)
        return Waiting(min(tries, default=None), len(in_flight))

    def _owed(self, unsure: Unsure) -> Owed:
        owed = self.owed()
        return owed._replace(inos=owed.inos | unsure.inos) if unsure.inos else owed

    def _doubts(self) -> list[list[Entry]]:
        """What is in doubt of each batch that was broken off, each by itself, as it was cut
        (doubt-cut): merged, they might do harm. Those that change names come first: till these are
        settled it is not known what an older push, that home refused in part, would be done to."""
        found: list[list[Entry]] = []
        for ids in self._journal.flights().values():
            # What is executed and not recorded yet is in flight, and in no doubt.
            ids = [i for i in ids if not self._progress.executed(i)]
            entries = self._view.entries(ids) if ids else []
            lost = set(ids) - {e.id for e in entries}
            if lost:
                self._journal.never_executed(lost)
                self._progress.unmark(lost)
            if entries:
                found.append(entries)
        return sorted(found, key=lambda entries: all(e.op in DATA_OPS for e in entries))

    def _ripe(self, blocked: Set[int], owed: Owed, now_ns: int) -> tuple[list[Entry], int | None]:
        """The next entries to execute, and else when the first of them will be ripe."""
        if blocked or owed.inos:
            return self._cut(self._beside(blocked, owed, now_ns), now_ns)
        self._reach = None
        ready: list[Entry] = []
        after: int | None = self._start
        while after is not None and len(ready) < self._limit:
            todo, last = unexecuted(self._view, self._progress, after, self._limit)
            if not ready:  # all before is executed
                self._start = todo[0].id - 1 if todo else last or after
            ready += todo
            after = last
            if ready and not self._is_ripe(ready[-1], now_ns):
                break
        return self._cut(ready, now_ns)

    def _beside(self, blocked: Set[int], owed: Owed, now_ns: int) -> list[Entry]:
        """The next entries that wait neither for `blocked` ones nor for what is `owed`.

        What was held when it was looked at is so until others are in the way: it is not read again
        each time that there is something new behind it.
        """
        reach = self._reach
        if reach is None or (reach.held.requeued, reach.held.owed) != (blocked, owed):
            reach = self._reach = _Reach(self._start, Held(blocked, owed))
        ready: list[Entry] = []
        ahead, after, count = reach.held.ahead(), reach.through, self._limit
        while len(ready) < self._limit and not ahead.is_full:
            todo, last = unexecuted(self._view, self._progress, after, count)
            ready += ahead.split(todo)[0]
            if not ready:
                reach.held.follow(ahead)
                ahead, count = reach.held.ahead(), min(2 * count, self._most)
                through = last or (todo[-1].id if todo else after)
                self._reach = reach = _Reach(through, reach.held)
            if last is None or (ready and not self._is_ripe(ready[-1], now_ns)):
                break
            after = last
        return ready

    def _is_ripe(self, entry: Entry, now_ns: int) -> bool:
        age = now_ns - entry.queued_ns
        # One from the future was queued before the clock was set back.
        return age >= self._delay_ns or age < 0 or entry.id <= self.flush_through

    def _cut(self, ready: list[Entry], now_ns: int) -> tuple[list[Entry], int | None]:
        total = 0
        for n, entry in enumerate(ready):
            if entry.id > self._until:
                return ready[:n], None
            if entry.id > self.flush_through and not self._is_ripe(entry, now_ns):
                return ready[:n], entry.queued_ns + self._delay_ns
            if entry.op == Op.WRITE:
                total += entry.end - entry.start
            if n + 1 == self._limit or total >= BYTES:
                return ready[: n + 1], None
        return ready, None


def _pick(entries: list[Entry], *, doubt: bool) -> Pick:
    batch = plan(entries)
    ids = set(batch.ids)
    return Pick(batch, {e.id: e for e in entries if e.id in ids}, doubt)
