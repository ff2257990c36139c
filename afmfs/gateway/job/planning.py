"""The plan of a job: the priority queue is written, a page of objects a step.

What a recovery is about, the queue tells, unless it has lost entries. That is noted first: once
names are settled their rows are gone.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable

from afmfs.gateway.home.trouble import MayEnd
from afmfs.gateway.job.concerned import concerned
from afmfs.gateway.job.examine import Examiner
from afmfs.gateway.job.priority import Planned, Priority, number
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.state.journal import RESYNCED, Outcome
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.state.view import Object
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.resync import Job, Kind

PAGE = 4096
"""Objects of one step."""


class Planning:
    def __init__(self, steps: Steps, priority: Priority, book: TrashBook) -> None:
        self._steps, self._priority, self._book = steps, priority, book

    def collect(self, job: Job) -> None:
        """Note what a recovery is about, where the queue tells all of it."""
        inos = concerned(self._steps.view, job.bound)
        for n in range(0, len(inos), PAGE):
            self._priority.collect(inos[n : n + PAGE])

    def step(self, job: Job) -> bool:
        """Plan a page; False if there is none left. A recovery takes what was noted, or all where
        the queue lost entries: no row tells of what lies below a directory that was moved. A
        failover takes what the new home does not have."""
        if job.exact:
            return self._plan_collected()
        steps, after = self._steps, self._priority.cursor
        found = steps.view.objects(after, PAGE)
        if not found:
            return False
        agreed = self._agreed(found) if job.kind is Kind.FAILOVER else []
        equal = {outcome.ino for outcome in agreed}
        rows = self._rows(one for one in found if one.ino not in equal)
        self._priority.plan(rows, found[-1].ino, agreed)
        if agreed:
            steps.say_outcomes()
        return True

    def _plan_collected(self) -> bool:
        inos = self._priority.collected(PAGE)
        if inos:
            found = self._steps.view.objects_among(inos)
            self._priority.plan(self._rows(found), inos[-1], collected=inos)
        return bool(inos)

    def _rows(self, found: Iterable[Object]) -> list[Planned]:
        steps = self._steps
        # Made anew for each page: it remembers every directory that it meets.
        locator = Locator(steps.view, steps.progress.executed, steps.progress.forgotten)
        return [Planned(number(o.ino, _depth(locator, o)), o.ino, o.bytes) for o in found]

    def _agreed(self, found: list[Object]) -> list[Outcome]:
        """Which objects the new home has already, in the version of the cache."""
        steps, agreed = self._steps, []
        with steps.contact.opened() as (connection, home):
            work = steps.site.work(home)
            work.rows = steps.view.rows(one.ino for one in found)
            examiner = Examiner(work, self._book)
            for one in found:
                try:
                    case = examiner.case(one.ino)
                except MayEnd:
                    continue  # its row will meet it again
                work.pulse()
                first = case.names[0] if case is not None else None
                if first and first.st and first.found and first.found.equal:
                    agreed.append(Outcome(0, one.ino, examiner.stamp(first.st), RESYNCED))
            connection.check(home)
        return agreed


def _depth(locator: Locator, one: Object) -> int | None:
    """Of a directory, below home's root; None of anything else."""
    if not stat.S_ISDIR(one.mode):
        return None
    path = locator.directory(one.ino)
    return len(path) if path is not None else 0
