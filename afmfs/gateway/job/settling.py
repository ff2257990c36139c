"""The first phase of a job: pending changes of names, in batches as the replay takes them off."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.job.concerned import Claims
from afmfs.gateway.job.intents import Intents
from afmfs.gateway.job.settle import Settler
from afmfs.gateway.replay.backoff import is_early
from afmfs.gateway.replay.exchange import half_done
from afmfs.gateway.replay.execute import Directories
from afmfs.gateway.replay.landing import requeued
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.replay.work import Failed, Work
from afmfs.gateway.state.journal import RESYNCED, Outcome
from afmfs.gateway.state.unexecuted import unexecuted
from afmfs.model.action import Batch
from afmfs.model.coalesce import apart, plan
from afmfs.model.entry import DATA_OPS, Entry
from afmfs.model.order import Dependence, Held, split_held
from afmfs.model.resync import Job

PAGE = 4096
"""Entries looked at in one step."""

PAUSE_S = 1.0


@dataclass(slots=True)
class Settled:
    """What became of a batch."""

    reached: dict[int, Stamp]  # the directories that are new at home
    failed: list[tuple[Failed, tuple[int, ...]]] = field(default_factory=list)  # with its entries
    waiting: list[int] = field(default_factory=list)  # entries of what depends on that


class Settling:
    def __init__(self, steps: Steps, intents: Intents) -> None:
        self._steps, self._intents = steps, intents
        self._after = 0  # entries up to here are settled, or held
        self._held: Held | None = None  # what waits for changes that home refuses, of those
        self._claims: Claims | None = None

    def begin(self) -> None:
        """Another job starts."""
        self._after, self._held, self._claims = 0, None, None

    def _claimed(self, work: Work) -> Claims:
        """Looked up once: what is listed meanwhile is not where the cache moves names."""
        if self._claims is None:
            self._claims = Claims(work)
        return self._claims

    def is_early(self, now_ns: int) -> bool:
        """Whether an exchange that home refuses to finish has to be waited for.

        Nothing else is settled meanwhile, nor is anything planned: the two objects would be missed,
        made anew or counted as lost, as would all that is below them, and what is moved into or out
        of them is not known here. So it is where home may have done what it refuses now. Rare as it
        is, the whole job waits.
        """
        waiting = self._steps.journal.requeued()
        tries = [waiting[i].next_try_ns if i in waiting else 0 for i in self._half_done()]
        tries += [waiting[i].next_try_ns for i in self._steps.moves_in_doubt() if i in waiting]
        return is_early(min(tries, default=0), now_ns)

    def _half_done(self) -> list[int]:
        """Those that wait longest first: one that is refused lets the others be tried."""
        waiting = self._steps.journal.requeued()
        todo = [i for i in half_done(self._steps.journal) if not self._steps.progress.executed(i)]
        return sorted(todo, key=lambda i: waiting[i].next_try_ns if i in waiting else 0)

    def step(self, job: Job) -> bool:
        """Settle a batch; False if there is none. HomeAway, NoPoint: it is settled again."""
        entries = self._unsettled(job)
        if not entries:
            self._claims = None
            if doubts := self._steps.moves_in_doubt():  # each waits for one that is not due
                time.sleep(PAUSE_S)
            return bool(doubts)
        # Merged, they would pass over names where home may have what they move.
        batch = apart(entries) if job.careful else plan(entries)
        steps, ids = self._steps, batch.ids
        with steps.contact.opened() as (connection, home):
            with steps.progress.replaying(home):
                fresh = not any(map(steps.journal.in_flight, ids))
                steps.journal.take_off(ids)  # in-flight-durable
                steps.point()  # durable-before-batch
                steps.progress.begin(ids, doubt=True)
                settled = self._settle(home, job, batch)
                steps.site.sync(home)  # home-sync
            connection.check(home)
        steps.progress.end()
        steps.point()  # outcome-after-durable
        before = steps.journal.requeued()
        refused = [one for exc, its in settled.failed for one in requeued(its, exc, before)]
        if not fresh:  # an earlier attempt may have done it, and what waits for it
            refused = [one._replace(pushing=True) for one in refused]
        left = {*settled.waiting, *(one.id for one in refused)}
        inos = {e.id: e.ino for e in entries}
        told = [Outcome(0, ino, stamp, RESYNCED) for ino, stamp in settled.reached.items()]
        told += [Outcome(i, inos[i]) for i in ids if i not in left]
        # What an earlier attempt may have done stays in doubt.
        steps.land(told, refused, settled.waiting if fresh else ())
        return True

    def _unsettled(self, job: Job) -> list[Entry]:
        """First what stands half done, then the changes of a batch that was interrupted, by
        themselves, as it was cut. What home refuses, and what waits for it, is left to the normal
        queue: a name that it is to free may be another object's by now, and one that it is to make
        is not there yet."""
        steps, refused = self._steps, self._steps.refused_names(time.time_ns())

        def wanted(e: Entry) -> bool:
            due = e.id <= job.bound and e.op not in DATA_OPS
            return due and not steps.progress.executed(e.id)

        if half := steps.view.entries(self._half_done()[:1]):
            return half
        for ids in steps.journal.flights().values():
            entries = steps.view.entries(ids)
            gone = set(ids) - {e.id for e in entries}
            if gone:
                steps.journal.never_executed(gone)
            found = [e for e in split_held(entries, refused)[0] if wanted(e)]
            if found:
                return found
        if steps.moves_in_doubt():
            return []
        held = self._held_by(refused)
        while self._after < job.bound and not held.is_full:
            todo, last = unexecuted(steps.view, steps.progress, self._after, PAGE)
            ahead = held.ahead()
            found = [e for e in ahead.split(todo)[0] if wanted(e)]
            if found or last is None:
                return found
            held.follow(ahead)
            self._after = last
        return []

    def _held_by(self, refused: set[int]) -> Held:
        """What waits for these, of the entries that were looked at: anew, if fewer are refused."""
        held = self._held
        if held is None or not held.requeued <= refused:
            held, self._after = Held(refused), 0
        held.requeued, self._held = refused, held
        return held

    def _settle(self, home: Home, job: Job, batch: Batch) -> Settled:
        work = self._steps.site.work(home)
        work.touched |= batch.touched
        settler = Settler(
            work,
            job,
            self._intents.number,
            lambda aside: self._intents.keep(job, aside),
            {place for action in batch.names for place in action.places},
            self._claimed,
        )
        settled, dependence, stopped = Settled(settler.reached), Dependence(batch.names), set[int]()
        self._steps.progress.finish(batch.settled, 0, None)
        for action in batch.names:
            if action.ids[0] in stopped:
                settled.waiting += action.ids
                continue
            try:
                settler.settle(action)
            except Failed as exc:
                settled.failed.append((exc, action.ids))
                stopped |= dependence.fail(action)
                if exc.partial:  # nobody knows where names lead: see `is_early`
                    stopped.update(other.ids[0] for other in batch.names)
        self._intents.say(home, job)
        Directories(work).finish()
        return settled
