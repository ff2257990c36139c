"""The first phase of a job: pending changes of names, in batches as the replay takes them off."""

from __future__ import annotations

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.job.concerned import Claims
from afmfs.gateway.job.intents import Intents
from afmfs.gateway.job.settle import Settler
from afmfs.gateway.replay.execute import Directories
from afmfs.gateway.replay.landing import requeued
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.replay.work import Failed, Work
from afmfs.gateway.state.journal import RESYNCED, Outcome
from afmfs.model.action import Batch
from afmfs.model.coalesce import apart, plan
from afmfs.model.entry import DATA_OPS, Entry
from afmfs.model.resync import Job

PAGE = 4096
"""Entries looked at in one step."""


class Settling:
    def __init__(self, steps: Steps, intents: Intents) -> None:
        self._steps, self._intents = steps, intents
        self._after = 0  # entries up to here are settled
        self._claims: Claims | None = None

    def begin(self) -> None:
        """Another job starts."""
        self._after, self._claims = 0, None

    def _claimed(self, work: Work) -> Claims:
        """Looked up once: what is listed meanwhile is not where the cache moves names."""
        if self._claims is None:
            self._claims = Claims(work)
        return self._claims

    def step(self, job: Job) -> bool:
        """Settle a batch; False if there is none. HomeAway, NoPoint: it is settled again."""
        entries = self._unsettled(job)
        if not entries:
            self._claims = None
            return False
        # Merged, they would pass over names where home may have what they move.
        batch = apart(entries) if job.careful else plan(entries)
        steps, ids = self._steps, batch.ids
        with steps.contact.opened() as (connection, home):
            with steps.progress.replaying(home):
                steps.journal.take_off(ids)  # in-flight-durable
                steps.point()  # durable-before-batch
                steps.progress.begin(ids, doubt=True)
                failed, reached = self._settle(home, job, batch)
                steps.site.sync(home)  # home-sync
            connection.check(home)
        steps.progress.end()
        steps.point()  # outcome-after-durable
        lost = {i for _, ids in failed for i in ids}
        inos = {e.id: e.ino for e in entries}
        refused = [requeued(i, exc) for exc, ids in failed for i in ids]
        told = [Outcome(0, ino, stamp, RESYNCED) for ino, stamp in reached.items()]
        steps.land([*told, *(Outcome(i, inos[i]) for i in ids if i not in lost)], refused)
        return True

    def _unsettled(self, job: Job) -> list[Entry]:
        """First the changes of a batch that was interrupted, by themselves, as it was cut."""
        steps, waiting = self._steps, self._steps.journal.requeued()

        def wanted(e: Entry) -> bool:
            due = e.id <= job.bound and e.id not in waiting
            return due and e.op not in DATA_OPS and not steps.progress.executed(e.id)

        for ids in steps.journal.flights().values():
            entries = steps.view.entries(ids)
            gone = set(ids) - {e.id for e in entries}
            if gone:
                steps.journal.never_executed(gone)
            found = [e for e in entries if wanted(e)]
            if found:
                return found
        while True:
            page = steps.view.page(self._after, PAGE)
            found = [e for e in page if wanted(e)]
            if found or not page or page[0].id > job.bound:
                return found
            self._after = page[-1].id

    def _settle(
        self, home: Home, job: Job, batch: Batch
    ) -> tuple[list[tuple[Failed, tuple[int, ...]]], dict[int, Stamp]]:
        """What home refuses for now, with its entries, and the directories that are new there."""
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
        failed = []
        self._steps.progress.finish(batch.settled, 0, None)
        for action in batch.names:
            try:
                settler.settle(action)
            except Failed as exc:
                failed.append((exc, action.ids))
        self._intents.say(home, job)
        Directories(work).finish()
        return failed, settler.reached
