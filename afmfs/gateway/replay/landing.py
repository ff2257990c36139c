"""What became of a batch that is executed and synced at home, till it is recorded.

Outcomes are recorded only after a durable point that follows the execution (outcome-after-durable),
and before the next batch is executed (outcome-durable).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from afmfs.gateway.replay.backoff import pause_ns
from afmfs.gateway.replay.exchange import record_key
from afmfs.gateway.replay.execute import Result
from afmfs.gateway.replay.window import Pick
from afmfs.gateway.replay.work import Failed
from afmfs.gateway.state.journal import DONE, UNREPRESENTABLE, Journal, Outcome, Requeued
from afmfs.gateway.trash.book import TrashBook
from afmfs.model import remedies
from afmfs.model.action import Content, Exchange, Push

REACHED = "reached"
"""The journal's name for how far home had come when outcomes were last recorded."""


@dataclass(slots=True)
class Landing:
    outcomes: list[Outcome] = field(default_factory=list)
    requeued: list[Requeued] = field(default_factory=list)
    untouched: list[int] = field(default_factory=list)  # not begun: as they were before
    exchanges: list[int] = field(default_factory=list)
    reached: int = 0  # how far home has come with it (connection.Era)
    written: list[tuple[int, Content]] = field(default_factory=list)  # inodes, and what of them

    @property
    def executed(self) -> list[int]:
        return [outcome.id for outcome in self.outcomes]

    def record(self, journal: Journal) -> int:
        """Durable on return; the newest outcome's number."""

        def also(db: sqlite3.Connection) -> None:
            for ino, content in self.written:  # bytes of the cache, where a resync left nulls
                TrashBook.written(db, ino, content.ranges, content.smallest)
            if self.reached:
                db.execute("INSERT OR REPLACE INTO state VALUES (?,?)", (REACHED, self.reached))
            swaps = [(record_key(entry),) for entry in self.exchanges]
            db.executemany("DELETE FROM state WHERE key=?", swaps)

        return journal.land(self.outcomes, self.requeued, self.untouched, also)


def land(pick: Pick, result: Result, before: Mapping[int, Requeued]) -> Landing:
    """Sort what became of a batch; `before` are the entries that were requeued until now."""
    landing, entries = Landing(), pick.entries
    add = landing.outcomes.append
    for entry in pick.batch.settled:
        add(Outcome(entry, entries[entry].ino))
    for action, done in result.done:
        said = DONE if done.unrepresentable is None else UNREPRESENTABLE
        mine = action.ino
        for i in action.ids:
            ino = entries[i].ino
            stamp = done.stamp if ino == mine else None
            add(Outcome(i, ino, stamp, said, done.unrepresentable))
        if isinstance(action, Exchange):
            landing.exchanges += action.ids
        elif isinstance(action, Push) and action.content.changes_bytes:
            landing.written.append((mine, action.content))
    for action, failed in result.failed:
        landing.requeued += requeued(action.ids, failed, before)
    if not pick.doubt:
        begun = {o.id for o in landing.outcomes} | {r.id for r in landing.requeued}
        if result.broken is not None:
            begun.update(result.broken.ids)
        landing.untouched = [i for i in pick.batch.ids if i not in begun]
    return landing


def refusal(requeued: Iterable[Requeued]) -> str:
    """What home says to the oldest of these, and what to do about it; '' if there are none."""
    first = min(requeued, key=lambda one: one.id, default=None)
    return f"{first.reason}; {remedies.of_refusal(first.errno)}" if first else ""


def requeued(
    ids: Sequence[int], failed: Failed, before: Mapping[int, Requeued] = MappingProxyType({})
) -> list[Requeued]:
    """The entries of an action that home refuses, to be tried again later, all at one time: a part
    of them alone may be another action, at a name that they only passed."""
    now, trouble = time.time_ns(), failed.trouble
    tries = 1 + max((before[i].tries for i in ids if i in before), default=0)
    since = min((before[i].since_ns for i in ids if i in before), default=now)
    next_try, about = now + pause_ns(tries), (trouble.errno, trouble.reason)
    return [Requeued(i, *about, tries, next_try, since, failed.partial) for i in ids]
