"""The driver of a resync, a failover or a recovery: phase after phase, step after step.

    settling   pending changes of names, up to the job's bound, are settled
    planning   the priority queue is written: a row for each object (a failover compares first)
    pushing    the rows are executed; each batch as the replay's are (crash-rules.md):
                  look at home, and decide
                  keep what was decided
                  a durable point: what is sent is durable here before it is there
                  execute, and sync home, within one connection
                  a durable point, then the outcomes
    waiting    only rows that home refuses for now are left; the normal queue goes on meanwhile

After the last row every pending entry up to the bound is executed, too: its change is at home.
A step may be interrupted anywhere; the next one goes on from what is durable.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from afmfs.gateway.contact import Contact
from afmfs.gateway.examine import Examiner
from afmfs.gateway.execute import Directories
from afmfs.gateway.home import SCRATCH, Home
from afmfs.gateway.journal import RESYNCED, Journal, Outcome, Requeued
from afmfs.gateway.locate import Locator
from afmfs.gateway.priority import (
    DONE,
    PLANNING,
    PUSHING,
    WAITING,
    Aside,
    Decision,
    Due,
    Planned,
    Priority,
    Refusal,
    number,
)
from afmfs.gateway.progress import Progress
from afmfs.gateway.protocol import Message
from afmfs.gateway.reconcile import Landed, Reconciler, clear_beside
from afmfs.gateway.settle import Settler
from afmfs.gateway.threads import Threads
from afmfs.gateway.trash import INTENDED, TrashBook, Trashed, write_index
from afmfs.gateway.trouble import HomeAway, MayEnd
from afmfs.gateway.view import View
from afmfs.gateway.work import Failed, Work
from afmfs.model.action import Batch
from afmfs.model.coalesce import plan
from afmfs.model.entry import DATA_OPS, Entry
from afmfs.model.resync import Do, Job, Kind

log = logging.getLogger(__name__)

PAGE = 4096
"""Objects planned, or entries looked at, in one step."""

ROWS = 1024
BYTES = 16 << 20
"""Of one batch: what is sent once more after a kill."""

LOOKS = 5
"""How often an object that keeps changing is looked at anew before it is requeued."""

BACK_OFF_S, MOST_BACK_OFF_S = 1.0, 300.0
TOLD_S = 0.25

FORGIVING = "forgiving"
"""Where the journal keeps the last entry that was queued while a job ran."""

_NS = 10**9

Send = Callable[[Message], None]


class Jobs:
    """Called by the replay's thread, but for `take` and `taken`.

    `work` makes what a batch shares, `point` asks for a durable point, `sync` syncs home.
    """

    def __init__(
        self,
        view: View,
        journal: Journal,
        priority: Priority,
        book: TrashBook,
        progress: Progress,
        contact: Contact,
        threads: Threads,
        send: Send,
        *,
        work: Callable[[Home], Work],
        point: Callable[[], bool],
        sync: Callable[[Home], None],
    ) -> None:
        self._view, self._journal, self._priority, self._book = view, journal, priority, book
        self._progress, self._contact, self._threads, self._send = progress, contact, threads, send
        self._work, self._point, self._sync = work, point, sync
        self._after = 0  # entries up to here are settled
        self._looks: dict[int, int] = {}
        self._beside: list[bytes] = []
        self._numbers: Iterator[int] = iter(())
        self._index: list[Trashed] = []
        self._told = 0.0
        self.executed = 0  # rows, since the start

    # -- messages, from any thread ---------------------------------------------------------------

    def take(self, record: dict[str, Any]) -> None:
        """Begin a job, or go on with it; durable on return."""
        if not self._priority.is_known(int(record["id"])):
            self._priority.begin(record)
            self._after, self._looks = 0, {}
        self.tell(now=True)

    def taken(self, job: int) -> None:
        self._priority.end(job)

    # -- steps -----------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        return self._priority.active

    def step(self) -> bool:
        """Do something of the job; False if there is nothing to do now. HomeAway: it is done
        again."""
        priority = self._priority
        if priority.job is None or priority.phase == DONE:
            return False
        if priority.phase == WAITING and (priority.next_try() or 0) > time.time_ns():
            return False
        step = {PLANNING: self._plan, PUSHING: self._push, WAITING: self._push}
        step.get(priority.phase, self._settle)(priority.job)
        self.tell()
        return True

    def _enter(self, phase: str) -> None:
        self._priority.enter(phase)
        self.tell(now=True)

    # -- settling --------------------------------------------------------------------------------

    def _settle(self, job: Job) -> None:
        entries = self._unsettled(job)
        if not entries:
            self._enter(PLANNING)
            return
        batch = plan(entries)
        mine = {e.id: e for e in entries}
        ids = batch.ids
        with self._contact.opened() as (connection, home), self._progress.replaying(home):
            self._journal.take_off(ids)
            if not self._point():
                time.sleep(1.0)
                return
            self._progress.begin(ids)
            failed = self._settle_batch(home, job, batch)
            self._sync(home)
            connection.check(home)
        self._progress.end()
        if not self._point():
            raise HomeAway("Disconnected", "no durable point can be had: the cache's disk")
        lost = {i for f, action in failed for i in action}
        outcomes = [Outcome(i, mine[i].ino) for i in ids if i not in lost]
        requeued = [_requeued(i, f) for f, action in failed for i in action]
        self._land(outcomes, requeued)

    def _unsettled(self, job: Job) -> list[Entry]:
        """Pending changes of names: first those of a batch that was interrupted, by themselves."""
        waiting = self._journal.requeued()

        def wanted(e: Entry) -> bool:
            return e.op not in DATA_OPS and e.id <= job.bound and not self._progress.executed(e.id)

        for ids in self._journal.flights().values():
            entries = self._view.entries(ids)
            gone = set(ids) - {e.id for e in entries}
            if gone:
                self._journal.never_executed(gone)
            found = [e for e in entries if wanted(e) and e.id not in waiting]
            if found:
                return found
        while True:
            page = self._view.page(self._after, PAGE)
            found = [e for e in page if wanted(e) and e.id not in waiting]
            if found or not page or page[0].id > job.bound:
                return found
            self._after = page[-1].id

    def _settle_batch(
        self, home: Home, job: Job, batch: Batch
    ) -> list[tuple[Failed, tuple[int, ...]]]:
        work = self._work(home)
        work.touched |= batch.touched
        settler = Settler(work, job, self._next_number, lambda aside: self._keep(job, aside))
        failed = []
        self._progress.finish(batch.settled, 0, None)
        for action in batch.names:
            try:
                settler.settle(action)
            except Failed as exc:
                failed.append((exc, action.ids))
        self._write_index(home, job)
        Directories(work).finish()
        return failed

    def _keep(self, job: Job, aside: Aside) -> None:
        row = self._trashed(job, aside, None)
        with self._journal.transaction() as db:
            self._book.intend(db, *row[:8])
        self._index.append(row)

    @staticmethod
    def _trashed(job: Job, a: Aside, ino: int | None) -> Trashed:
        return Trashed(
            a.number, job.id, a.path, ino, a.kind, a.size, a.why, time.time_ns(), INTENDED
        )

    def _next_number(self) -> int:
        """A number of the trash; some are taken at a time."""
        for found in self._numbers:
            return found
        with self._journal.transaction() as db:
            self._numbers = iter([self._book.next_number(db) for _ in range(64)])
        return next(self._numbers)

    def _write_index(self, home: Home, job: Job) -> None:
        """Say at home what is in the trash. gateway.db knows it; nothing depends on this."""
        if self._index:
            with suppress(OSError):
                write_index(home, job.id, self._index)
            self._index.clear()

    # -- planning --------------------------------------------------------------------------------

    def _plan(self, job: Job) -> None:
        after = self._priority.cursor
        found = self._view.objects(after, PAGE, changed=job.kind is Kind.RECOVERY)
        if not found:
            self._enter(PUSHING)
            return
        inos = [one.ino for one in found]
        locator = Locator(self._view, self._progress.executed, self._progress.forgotten)
        agreed: list[Outcome] = []
        if job.kind is Kind.FAILOVER:
            agreed = self._compare(job, inos)
        equal = {outcome.ino for outcome in agreed}
        rows = []
        for one in found:
            if one.ino in equal:
                continue
            depth = None
            if stat.S_ISDIR(one.mode):
                path = locator.directory(one.ino)
                depth = len(path) if path is not None else 0
            rows.append(Planned(number(one.ino, depth), one.ino, one.bytes))
        self._priority.plan(rows, inos[-1], agreed)
        if agreed:
            self._say_outcomes()

    def _compare(self, job: Job, inos: list[int]) -> list[Outcome]:
        """Which objects the new home has already, in the version of the cache."""
        agreed = []
        with self._contact.opened() as (connection, home):
            work = self._work(home)
            work.rows = self._view.rows(inos)
            examiner = Examiner(work, self._book)
            for ino in inos:
                try:
                    case = examiner.case(ino)
                except MayEnd:
                    continue  # its row will meet it again
                work.pulse()
                first = case and case.names[0]
                if first and first.found and first.st and first.found.equal:
                    agreed.append(Outcome(0, ino, examiner.stamp(first.st), RESYNCED))
            connection.check(home)
        return agreed

    # -- pushing ---------------------------------------------------------------------------------

    def _push(self, job: Job) -> None:
        priority = self._priority
        dues = priority.next(ROWS, BYTES, time.time_ns())
        if not dues:
            self._finish(job)
            return
        landed = Landed()
        inos = [due.ino for due in dues]
        priority.start(inos)
        with self._contact.opened() as (connection, home), self._progress.replaying(home):
            clear_beside(self._work(home), self._beside)
            self._beside = []
            work = self._work(home)
            work.rows = self._view.rows(inos)  # sizes as they are before the point
            reconciler = Reconciler(work, Examiner(work, self._book), self._book, job)
            decided = self._decide(job, reconciler, dues, landed)
            if not self._point():  # durable here before it is there
                time.sleep(1.0)
                return
            self._threads.run(lambda one: reconciler.execute(one[0], one[1], landed), decided)
            self._write_index(home, job)
            Directories(work).finish()
            self._sync(home)
            connection.check(home)
        self._progress.end()
        if self._point():  # outcome-after-durable
            self._land_rows(landed)
            self._beside = reconciler.beside  # not before: it tells what is our own

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
                    decision = reconciler.decide(due, self._next_number)
                except MayEnd as trouble:
                    landed.failed.append((due, trouble))
                    continue
                if decision.do in (Do.MAKE, Do.PUSH):
                    new.append((due, decision))
            decided.append((due, decision))
        if new:
            self._priority.decide(new, time.time_ns())
        for due, decision in decided:
            self._index += [self._trashed(job, aside, due.ino) for aside in decision.asides]
        return decided

    def _land_rows(self, landed: Landed) -> None:
        now, refused, undecided = time.time_ns(), [], []
        for due in landed.undecided:
            self._looks[due.n] = self._looks.get(due.n, 0) + 1
            if self._looks[due.n] > LOOKS:
                landed.failed.append((due, MayEnd(16, "it keeps being changed at home")))
            else:
                undecided.append(due)
        for due, trouble in landed.failed:
            tries = due.tries + 1
            pause = min(BACK_OFF_S * 2 ** min(tries - 1, 20), MOST_BACK_OFF_S)
            begun = due.decision is not None
            refused.append(
                Refusal(
                    due.n, trouble.errno, trouble.reason, tries,
                    now + int(pause * _NS), due.since_ns or now, begun,
                )
            )  # fmt: skip
            if tries == 1:
                detail = {"inode": due.ino, "errno": trouble.errno, "reason": trouble.reason}
                self._send({"type": "event", "name": "afmCmdRequeued", "detail": detail})
        self._priority.land(landed.done, landed.outcomes, refused, undecided, landed.written)
        self.executed += len(landed.done)
        self._progress.recorded(())
        if landed.outcomes:
            self._say_outcomes()

    # -- the end ---------------------------------------------------------------------------------

    def _finish(self, job: Job) -> None:
        """Every entry up to the bound is at home with the objects that it changed."""
        priority, refused = self._priority, self._priority.waiting_inos()
        after = 0
        while True:
            page = [e for e in self._view.page(after, PAGE) if e.id <= job.bound]
            if not page:
                break
            after = page[-1].id
            held = self._journal.requeued()
            outcomes = [
                Outcome(e.id, e.ino)
                for e in page
                if not self._progress.executed(e.id)
                and e.ino not in refused
                and (e.op in DATA_OPS or e.id not in held)
            ]
            self._land(outcomes, [])
        if priority.left:
            self._enter(WAITING)
            return
        with self._contact.opened() as (_, home):
            sweep(home, job.id)
        # What was removed here while the job ran may never have come to home.
        self._journal.put(FORGIVING, self._view.last_entry())
        priority.enter(DONE)
        self.tell(now=True)

    def _land(self, outcomes: list[Outcome], requeued: list[Requeued]) -> None:
        if not outcomes and not requeued:
            return
        self._journal.land(outcomes, requeued)
        ids = [o.id for o in outcomes]
        self._progress.recorded(ids)
        self._progress.unmark(ids)
        self.executed += len(ids)
        if outcomes:
            self._say_outcomes()

    def _say_outcomes(self) -> None:
        self._send({"type": "outcomes", "seq": self._journal.seq, "num_exec": self.executed})

    # -- what is said ----------------------------------------------------------------------------

    def tell(self, *, now: bool = False) -> None:
        """How far it is, a few times a second at most."""
        priority = self._priority
        if priority.job is None or (not now and time.monotonic() - self._told < TOLD_S):
            return
        self._told = time.monotonic()
        message: Message = {
            "type": "progress",
            "id": priority.job.id,
            "phase": priority.phase,
            "left": priority.left,
            "total": priority.figures.get("total", 0),
            "bytes_left": priority.bytes_left,
            "bytes_total": priority.figures.get("bytes_total", 0),
            "requeued": priority.requeued,
            "num_exec": self.executed,
        }
        if priority.phase == DONE:
            message["summary"] = {k: v for k, v in priority.figures.items() if k != "total"}
        self._send(message)


def sweep(home: Home, job: int) -> None:
    """Remove what the job wrote beside and did not need any more."""
    prefix = b"job-"
    with suppress(OSError):
        fd = home.open_directory(SCRATCH)
        try:
            names = [name for name in map(os.fsencode, os.listdir(fd)) if name.startswith(prefix)]
            for name in names:
                with suppress(OSError):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)


def _requeued(entry: int, failed: Failed) -> Requeued:
    now, trouble = time.time_ns(), failed.trouble
    return Requeued(entry, trouble.errno, trouble.reason, 1, now + _NS, now, failed.partial)
