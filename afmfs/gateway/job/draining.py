"""The third phase of a job: the rows of the priority queue, batch by batch.

Each batch as the replay's are (crash-rules.md): look at home and decide; keep what was decided; a
durable point, so that what is sent is durable here before it is there; execute, and sync home,
within one connection; a durable point, and then the outcomes.
"""

from __future__ import annotations

import errno
import time

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import MayEnd
from afmfs.gateway.job.concerned import data_entries
from afmfs.gateway.job.decision import Decision
from afmfs.gateway.job.examine import Examiner
from afmfs.gateway.job.intents import Intents
from afmfs.gateway.job.priority import Due, Planned, Priority, Refusal, number
from afmfs.gateway.job.reconcile import Landed, Reconciler, clear_beside
from afmfs.gateway.replay.backoff import pause_ns
from afmfs.gateway.replay.execute import Directories
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.replay.work import FORGIVING
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.threads import Threads
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.entry import ROOT
from afmfs.model.resync import Do, Job

ROWS = 1024
BYTES = 16 << 20
"""Of one batch: what is sent once more after a kill."""

LOOKS = 5
"""How often an object that keeps changing is looked at anew before it is requeued."""


class Draining:
    def __init__(
        self, steps: Steps, priority: Priority, book: TrashBook, intents: Intents, threads: Threads
    ) -> None:
        self._steps, self._priority, self._book = steps, priority, book
        self._intents, self._threads = intents, threads
        self._looks: dict[int, int] = {}
        self.brought: set[int] = set()  # objects whose rows were done since entries were executed
        self._beside: list[bytes] = []  # what was written beside, and is not needed any more

    def begin(self) -> None:
        """Another job starts."""
        self._looks, self.brought = {}, set()

    def step(self, job: Job) -> bool:
        """Execute a batch; False if nothing is due. HomeAway, NoPoint: it is executed again."""
        steps, dues = self._steps, self._priority.next(ROWS, BYTES, time.time_ns())
        if not dues:
            return False
        inos = [due.ino for due in dues]
        self._priority.start(inos)
        landed = Landed()
        with steps.contact.opened() as (connection, home):
            with steps.progress.replaying(home):
                work = steps.site.work(home, connection)  # one bad object does not stop the job
                self._clear(home)
                work.rows = steps.view.rows(inos)  # sizes as they are before the point
                through = job.bound if job.exact else job.doubt
                changes = data_entries(steps.view, inos, through) if through else {}
                examiner = Examiner(work, self._book, job, changes)
                reconciler = Reconciler(work, examiner, self._book, job)
                decided = self._decide(job, reconciler, dues, landed)
                steps.point()
                self._threads.run(lambda one: reconciler.execute(*one, landed), decided)
                self._intents.say(home, job)
                Directories(work).finish()
                steps.site.sync(home, {trouble.errno for _, trouble, _ in landed.failed})
            connection.check(home)
        steps.progress.end()
        steps.point()
        self._land(landed, self._above([due for due, _ in landed.undecided]))
        self._beside = reconciler.beside  # only now: till then they tell what is our own
        return True

    def _clear(self, home: Home) -> None:
        clear_beside(home, self._beside)
        self._beside = []

    def _decide(
        self, job: Job, reconciler: Reconciler, dues: list[Due], landed: Landed
    ) -> list[tuple[Due, Decision]]:
        """What is done about each; durable on return where anything is done at home."""
        decided: list[tuple[Due, Decision]] = []
        new = []
        for due in dues:
            decision = due.decision
            if decision is None:
                try:
                    decision = reconciler.decide(due, self._intents.number)
                except MayEnd as trouble:
                    landed.failed.append((due, trouble, False))
                    continue
                if decision.do in (Do.MAKE, Do.PUSH) or decision.asides:
                    new.append((due, decision))
            decided.append((due, decision))
        if new:
            self._priority.decide(new, time.time_ns())
        for due, decision in decided:
            for aside in decision.asides:
                self._intents.note(job, aside, due.ino)
        return decided

    def _above(self, dues: list[Due]) -> list[Planned]:
        """The directories above some objects, to be looked at once more: one that somebody removed
        or replaced after its own row was done would keep all that is in it from home for ever."""
        steps, rows = self._steps, dict[int, Planned]()
        locator = Locator(steps.view, steps.progress.executed, steps.progress.forgotten)
        todo = [parent for due in dues for parent, _ in locator.places(due.ino)]
        while todo:
            ino = todo.pop()
            path = locator.directory(ino)
            if ino != ROOT and ino not in rows and path is not None:
                rows[ino] = Planned(number(ino, len(path)), ino, 0)
                todo += [parent for parent, _ in locator.places(ino)]
        return list(rows.values())

    def _land(self, landed: Landed, above: list[Planned]) -> None:
        refused, undecided = [], []
        for due, met in landed.undecided:
            self._looks[due.n] = self._looks.get(due.n, 0) + 1
            if self._looks[due.n] > LOOKS:
                landed.failed.append((due, MayEnd(errno.EBUSY, f"{met}, again and again"), False))
            else:
                undecided.append(due)
        unnamed = {due.n for due, _ in landed.unnamed}
        for due, trouble, begun in landed.failed:
            refused.append(_refusal(due, trouble, begun and due.n not in unnamed))
            if not due.tries:
                detail = {"inode": due.ino, "errno": trouble.errno, "reason": trouble.reason}
                self._steps.send({"type": "event", "name": "afmCmdRequeued", "detail": detail})
        # What was removed here meanwhile may never have come to home. Kept before the rows are
        # done: while others wait, the normal queue goes on.
        self._steps.journal.put(FORGIVING, self._steps.view.last_entry())
        self._priority.land(
            landed.done, landed.outcomes, refused, undecided, landed.written, landed.holes, above,
            landed.unnamed,
        )  # fmt: skip
        self.brought.update(due.ino for due, _ in landed.done)
        self._steps.executed += len(landed.done)
        self._steps.progress.recorded(())
        if landed.outcomes:
            self._steps.say_outcomes()


def _refusal(due: Due, trouble: MayEnd, begun: bool) -> Refusal:
    now, tries = time.time_ns(), due.tries + 1
    then, since = now + pause_ns(tries), due.since_ns or now
    return Refusal(due.n, trouble.errno, trouble.reason, tries, then, since, begun)
