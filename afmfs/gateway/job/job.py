"""The driver of a resync, a failover or a recovery: phase after phase, step after step.

    collecting what a recovery is about is noted (planning.py)
    settling   pending changes of names, up to the job's bound, are settled (settling.py)
    seeking    what lost entries have moved is brought to its place (strays.py)
    planning   the priority queue is written: a row for each object (planning.py)
    pushing    the rows are executed (draining.py)
    waiting    only rows that home refuses for now are left; the normal queue goes on meanwhile

After the last row every pending entry up to the bound counts as executed: its change is at home
with the object that it changed. A step may be interrupted anywhere; the next one goes on from what
is durable.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from afmfs.gateway.home.home import SCRATCH, Home
from afmfs.gateway.home.trouble import Inconsistent, MayEnd
from afmfs.gateway.job.draining import Draining
from afmfs.gateway.job.intents import Intents
from afmfs.gateway.job.planning import Planning
from afmfs.gateway.job.priority import (
    AGAIN_NS,
    COLLECTING,
    DONE,
    PLANNING,
    PUSHING,
    SEEKING,
    SETTLING,
    WAITING,
    Priority,
)  # fmt: skip
from afmfs.gateway.job.reconcile import BESIDE
from afmfs.gateway.job.settling import Settling
from afmfs.gateway.job.strays import Strays
from afmfs.gateway.protocol import Message
from afmfs.gateway.replay.backoff import is_early
from afmfs.gateway.replay.steps import NoPoint, Steps
from afmfs.gateway.replay.work import FORGIVING
from afmfs.gateway.state.journal import Outcome
from afmfs.gateway.state.unexecuted import unexecuted
from afmfs.gateway.threads import Threads
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.entry import DATA_OPS
from afmfs.model.order import Held
from afmfs.model.resync import Job

log = logging.getLogger(__name__)

_SHOWN = {COLLECTING: PLANNING, SEEKING: SETTLING}

PAGE = 4096
TOLD_S = 0.25
PAUSE_S = 1.0
"""Between two attempts where the cache's disk can't be synced, or home refuses what all waits for.
"""


class Jobs:
    """Called by the replay's thread, but for `take` and `taken`."""

    def __init__(self, steps: Steps, priority: Priority, book: TrashBook, threads: Threads) -> None:
        self._steps, self._priority = steps, priority
        self._intents = Intents(steps.journal, book)
        self._settling = Settling(steps, self._intents)
        self._planning = Planning(steps, priority, book)
        self._strays = Strays(steps, self._intents)
        self._draining = Draining(steps, priority, book, self._intents, threads)
        self._told = 0.0
        self._said = ""  # of what it waits for
        self._changing = threading.Lock()  # which job there is
        self._working = False  # a step is under way
        self._next: dict[str, Any] | None = None  # the job to begin after it

    # -- messages, from any thread ---------------------------------------------------------------

    def take(self, record: dict[str, Any]) -> None:
        """Begin a job, or go on with it; durable on return, but in the middle of a step: what that
        does is to be recorded with the job that it belongs to."""
        with self._changing:
            if self._working and not self._priority.is_known(int(record["id"])):
                self._next = record
            else:
                self._begin(record)

    def _begin(self, record: dict[str, Any]) -> None:
        if not self._priority.is_known(int(record["id"])):
            self._priority.begin(record)
            self._intents.begin()
            self._settling.begin()
            self._draining.begin()
        job = self._priority.job
        self._steps.progress.doubt_through = job.doubt if job is not None else 0
        self.tell(now=True)

    def taken(self, job: int) -> None:
        """The mount process knows that it is done."""
        with self._changing:
            if self._priority.is_known(job):
                self._priority.end(job)
                self._steps.progress.doubt_through = 0

    # -- steps -----------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the normal queue has to stand still."""
        return self._priority.active

    @property
    def begun(self) -> int:
        """The last entry of which home may have seen something by the job, or 0."""
        job = self._priority.job
        return 0 if job is None else job.bound

    def step(self) -> bool:
        """Do something of the job; False if there is nothing to do now. HomeAway: it is done
        again."""
        with self._at_work():
            return self._try_step()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Keep the job; another one begins after the step."""
        with self._changing:
            self._working = True
        try:
            yield
        finally:
            with self._changing:
                self._working = False
                if self._next is not None:
                    self._begin(self._next)
                    self._next = None

    def _try_step(self) -> bool:
        priority = self._priority
        job = priority.job
        if job is None or priority.phase == DONE:
            return False
        if self._is_early(time.time_ns()):
            return False
        try:
            self._step(job)
        except NoPoint:
            time.sleep(PAUSE_S)
        except (MayEnd, Inconsistent) as trouble:  # of what it does beside single objects
            if str(trouble) != self._said:
                log.warning("the job waits: %s", trouble)
            self._said = str(trouble)
            time.sleep(PAUSE_S)
        self.tell()
        return True

    def _is_early(self, now_ns: int) -> bool:
        if self._priority.phase == SETTLING:
            return self._settling.is_early(now_ns)
        waits = self._priority.phase == WAITING
        return waits and is_early(self.next_try() or 0, now_ns)

    def next_try(self) -> int | None:
        """When the first of the requeued rows is due. Not while the normal queue has changes of
        names in doubt, which it settles first: rows would be looked for, and made, elsewhere."""
        found = self._priority.next_try()
        if found is not None and self._priority.phase == WAITING and self._steps.moves_in_doubt():
            return max(found, time.time_ns() + AGAIN_NS)
        return found

    def _step(self, job: Job) -> None:
        priority = self._priority
        if priority.phase in (COLLECTING, SETTLING):
            job = self._reaching(job)
        if priority.phase == COLLECTING:
            self._planning.collect(job)
            self._enter(SETTLING)
        elif priority.phase == SETTLING:
            if not self._settling.step(job):
                self._enter(SEEKING if job.missing else PLANNING)
        elif priority.phase == SEEKING:
            self._strays.bring_all(job)
            self._enter(PLANNING)
        elif priority.phase == PLANNING:
            if not self._planning.step(job):
                self._enter(PUSHING)
        elif not self._draining.step(job):
            self._finish(job)

    def _reaching(self, job: Job) -> Job:
        """The job, with all that is in doubt: what was begun after it was asked for, before the
        gateway heard of it, would be looked for under names that home may not have any more."""
        flights = self._steps.journal.flights().values()
        last = max((max(ids, default=0) for ids in flights), default=0)
        return job if last <= job.bound else self._priority.extend(last)

    def _enter(self, phase: str) -> None:
        self._priority.enter(phase)
        self.tell(now=True)

    def _finish(self, job: Job) -> None:
        """Every entry up to the bound is at home, but what home refuses."""
        priority, steps = self._priority, self._steps
        self._execute_entries(job)
        self._draining.brought.clear()  # what is queued from now on isn't there
        if priority.left:
            self._enter(WAITING)
            return
        with steps.contact.opened() as (connection, home):
            if self._intents.any(job):
                priority.figures["aside"] = self._intents.settle(home, job.id)
            self._intents.settle_given_up(home, job)
            sweep(home)
            connection.check(home)
        # What was removed here while the job ran may never have come to home.
        steps.journal.put(FORGIVING, steps.view.last_entry())
        self._enter(DONE)

    def _execute_entries(self, job: Job) -> None:
        """But for those of objects that home refuses, and what waits for changes of names that it
        refused when the others were settled: the object that these are about may not be there."""
        steps = self._steps
        after: int | None = 0
        held = Held(set(), self._priority.owed())
        while after is not None and after < job.bound and not held.is_full:
            todo, after = unexecuted(steps.view, steps.progress, after, PAGE)
            # Whatever became of them since, none was settled.
            held.requeued = {e.id for e in todo if e.op not in DATA_OPS}
            ready, _ = held.split(e for e in todo if e.id <= job.bound)
            if self._priority.phase == WAITING:
                # The object of what was held before may be there by now, without its data, which
                # the normal queue brings.
                ready = [e for e in ready if e.ino in self._draining.brought]
            steps.land([Outcome(e.id, e.ino) for e in ready])

    # -- what is said ----------------------------------------------------------------------------

    def tell(self, *, now: bool = False) -> None:
        """How far it is, a few times a second at most."""
        priority = self._priority
        if priority.job is None or (not now and time.monotonic() - self._told < TOLD_S):
            return
        self._told = time.monotonic()
        figures = priority.figures
        message: Message = {
            "type": "progress",
            "id": priority.job.id,
            "phase": _SHOWN.get(priority.phase, priority.phase),
            "left": priority.left,
            "total": figures["total"],
            "bytes_left": priority.bytes_left,
            "bytes_total": figures["bytes_total"],
            "requeued": priority.requeued,
            "num_exec": self._steps.executed,
        }
        if priority.phase == DONE:
            message["summary"] = {key: n for key, n in figures.items() if key != "total"}
        self._steps.send(message)


def sweep(home: Home) -> None:
    """Remove what jobs wrote beside and do not need any more. What can't be removed stays."""
    with suppress(OSError):
        fd = home.open_directory(SCRATCH)
        try:
            for name in map(os.fsencode, os.listdir(fd)):
                if name.startswith(BESIDE):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
