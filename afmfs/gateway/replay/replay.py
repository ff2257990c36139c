"""The replay: batch after batch of the queue to home.

The order of steps is what survives crashes (crash-rules.md; each rule is named where it is kept):

1. the stamps of all files that the batch will push to are compared
2. the batch is committed as in flight
3. a durable point at the cache
4. the outcomes of the *previous* batch are recorded, durably
5. the batch is executed and synced at home, within one connection
6. its outcomes wait for the next batch's durable point, or for one of their own
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.trouble import HomeAway, Inconsistent
from afmfs.gateway.job.job import Jobs
from afmfs.gateway.job.priority import SEEKING, SETTLING, Priority
from afmfs.gateway.protocol import Message
from afmfs.gateway.replay.drops import Drops
from afmfs.gateway.replay.exchange import clean
from afmfs.gateway.replay.execute import Execution, Result
from afmfs.gateway.replay.landing import Landing, land, refusal
from afmfs.gateway.replay.points import Points, Stopped
from afmfs.gateway.replay.site import Site
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.replay.window import Pick, Waiting, Window
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View
from afmfs.gateway.threads import Threads
from afmfs.gateway.trash.book import TrashBook

log = logging.getLogger(__name__)

BREAKS_S = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses after batches that broke off one after another; the last one repeats."""

_NS = 10**9

Send = Callable[[Message], None]


class Replay:
    def __init__(
        self,
        view: View,
        journal: Journal,
        progress: Progress,
        contact: Contact,
        threads: Threads,
        send: Send,
        hello: Message,
    ) -> None:
        self._points = Points(send, self._begun)
        self.book = TrashBook(journal)
        self.priority = Priority(journal, self.book)
        self.site = Site(view, journal, progress, contact, hello["tunables"])
        self.steps = steps = Steps(
            view=view, journal=journal, progress=progress, contact=contact, send=send,
            site=self.site, make_point=self._points.make,
        )  # fmt: skip
        self.jobs = Jobs(steps, self.priority, self.book, threads)
        delay_s = float(hello["tunables"].get("async_delay_s", 15.0))
        self._view, self._journal, self._progress = view, journal, progress
        self._contact, self._threads, self._send = contact, threads, send
        self._window = Window(view, journal, progress, delay_s)
        self._window.owed = self.priority.owed
        self._window.flush_through = int(hello.get("flush_through") or 0)
        self._stopped = bool(hello.get("stopped"))
        self._needs_resync = bool(hello.get("needs_resync"))
        self._changed = threading.Condition()
        self._awake = False
        self._ending = False
        self._drops = Drops(steps)
        self._landing: Landing | None = None
        self._breaks = 0
        self._said = ""
        self._clean = True  # whether something may have to be removed at home
        self.in_doubt = 0
        self.settled = False
        self.settled_through = 0
        self._asked = 0  # what was asked for, counted: what was looked at before says nothing of it
        self._mark_doubts()
        self._strange = journal.news is not None  # the cache has not taken note of the journal
        if self._strange:
            self.in_doubt, progress.doubt_through = 1, math.inf
        elif hello.get("job"):
            self.jobs.take(hello["job"])

    def _mark_doubts(self) -> None:
        """What was in flight when the last gateway ended may be half pushed."""
        ids = [i for flight in self._journal.flights().values() for i in flight]
        self.in_doubt = len(ids)
        self._progress.mark(self._view.entries(ids) if ids else ())

    # -- messages, from any thread ---------------------------------------------------------------

    def wake(self) -> None:
        with self._changed:
            self._awake = True
            self._changed.notify_all()

    def flush(self, through: int) -> None:
        self._window.flush_through = max(self._window.flush_through, through)
        self._unsettle()

    def resume(self) -> None:
        self._journal.resume(time.time_ns())
        self.priority.resume()
        self._unsettle()

    def _unsettle(self) -> None:
        """There may be something to do again."""
        self._asked += 1
        self.settled = False
        self.wake()

    def run_state(self, *, stopped: bool, needs_resync: bool) -> None:
        self._stopped, self._needs_resync = stopped, needs_resync
        self.wake()

    def take_job(self, record: dict[str, Any]) -> None:
        """A resync, failover or recovery is due; said again, nothing changes."""
        self.jobs.take(record)
        self._unsettle()

    def introduce(self) -> None:
        """Say which journal this is, where the cache knows another, or none. Nothing is done at
        home until it has taken note: what the other one knew may be in doubt."""
        journal = self._journal
        if journal.news is not None:
            about = {"id": journal.id, "reason": journal.news, "begun": journal.begun}
            self._send({"type": "journal", **about})

    def journal_known(self, journal: str) -> None:
        """The cache works with this journal from now on. It has said before which job settles what
        is in doubt, if an earlier one was lost."""
        if journal == self._journal.id:
            if self.priority.job is None:
                self._progress.doubt_through = 0
            self._strange = False
            self._tell_outcomes()
            self.wake()

    def _tell_outcomes(self) -> None:
        """Those that the last gateway recorded and could not tell of any more would count as
        pending until something else is executed."""
        if self._journal.seq and not self._strange:
            self.steps.say_outcomes()

    def _begun(self) -> dict[str, int]:
        """What a cache whose gateway.db is lost has to know."""
        return {"turn": self._journal.turn, "begun": max(self._journal.begun, self.jobs.begun)}

    def due(self, ino: int) -> bool:
        """Whether what home has of the inode says nothing now: something is yet to be settled."""
        return self._strange or self.priority.due(ino)

    def astray(self) -> bool:
        """Whether entries that moved directories may be lost, and what they moved is not in its
        place yet."""
        job = self.priority.job
        return job is not None and job.missing > 0 and self.priority.phase in (SETTLING, SEEKING)

    def job_taken(self, job: int) -> None:
        self.jobs.taken(job)
        self.wake()

    def point_done(self, rid: int, ok: bool) -> None:
        self._points.done(rid, ok)

    def drop(self, rid: int, entry: int) -> None:
        self._drops.ask(rid, entry)
        self.wake()

    def stop(self) -> None:
        self._points.stop()
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Until stopped. What it raises but for that is a defect, or the cache's disk."""
        try:
            self._tell_outcomes()
            while not self._ending:
                try:
                    self.step()
                except HomeAway as trouble:
                    log.info("replay: %s", trouble)
                    self._break_off()
                except sqlite3.OperationalError as exc:
                    # A full disk: what was begun is in doubt, as after a crash. A job's own memory
                    # does not stand that, and the next gateway goes on with it.
                    if self.jobs.active:
                        raise
                    self._say(exc)
                    self._break_off()
        except Stopped:
            pass

    def step(self) -> None:
        """One batch, or a wait for something to do. Raises HomeAway: the batch is in doubt."""
        with self._changed:
            self._awake, asked = False, self._asked
        self._journal.affirm()
        if self._drops.serve(self._landing, strange=self._strange):
            self._window.rewind()  # what has waited for it need not any more
        if self._landing is not None and (self._landing.requeued or self._landing.untouched):
            self._record_after_point()
            if self._landing is not None:
                return
        halted = self._stopped or self._strange
        if self._contact.is_up and not halted and self._job_step():
            return
        # While the priority queue holds anything but requeued rows, the normal one stands still.
        may_run = not (halted or self._needs_resync or self.jobs.active)
        may_run = may_run and self._contact.is_up
        found = self._window.pick(time.time_ns()) if may_run else Waiting(None, self.in_doubt)
        if isinstance(found, Pick):
            self.settled = False
            self._replay(found)
        elif self._landing is not None:
            self._record_after_point()
        else:
            self._idle(found, may_run=may_run, asked=asked)

    def _job_step(self) -> bool:
        """A step of the running job; what the replay has done before it is recorded first."""
        if self._landing is not None and self.jobs.active:
            self._record_after_point()
            return True
        worked = self.jobs.step()
        if worked:
            self._window.rewind()
            self._breaks = 0
        return worked

    def _idle(self, found: Waiting, *, may_run: bool, asked: int) -> None:
        if may_run and asked == self._asked:
            self.in_doubt = found.in_doubt
            self.settled_through = self._window.flush_through
            if not self.settled:
                self.settled = True
                self.send_status()
        due = self.jobs.next_try() if self._contact.is_up and not self._stopped else None
        tries = [t for t in (found.next_ns, due) if t is not None]
        pause = max(0.0, (min(tries) - time.time_ns()) / _NS) if tries else None
        self._wait(pause)

    def _wait(self, seconds: float | None) -> None:
        # Clocks are set: what is ripe by the wall clock is looked at again after a while.
        with self._changed:
            if not (self._awake or self._ending):
                self._changed.wait(60.0 if seconds is None else min(seconds, 10.0))

    def _say(self, exc: Exception) -> None:
        """Once for each trouble: it is met again and again as long as it lasts."""
        if str(exc) != self._said:
            log.error("replay: the cache's disk: %s", exc)
        self._said = str(exc)

    def _break_off(self) -> None:
        """All of the running batch is in doubt: it stays in flight (connection)."""
        self._progress.break_off()
        self._window.rewind()
        self.in_doubt = sum(map(len, self._journal.flights().values()))
        self.settled = False
        pause = BREAKS_S[min(self._breaks, len(BREAKS_S) - 1)]
        self._breaks += 1
        self.send_status()
        with self._changed:
            if not self._ending:
                self._changed.wait(pause)

    # -- one batch -------------------------------------------------------------------------------

    def _replay(self, pick: Pick) -> None:
        batch, ids = pick.batch, pick.batch.ids
        with self._contact.opened() as (connection, home), self._progress.replaying(home):
            work = self.site.work(home, connection)
            work.doubt, work.touched = pick.doubt, set(pick.batch.touched)
            execution = Execution(work, self._threads)
            if not pick.doubt:
                try:
                    execution.check(batch)  # before the mark: stamp-before-mark
                except Inconsistent as trouble:
                    self.report(trouble)
                    return
            self._progress.begin(ids, doubt=pick.doubt)
            self._journal.take_off(ids)  # before the point: in-flight-durable
            self._progress.mark(pick.entries.values())
            if not self._points.make():  # durable-before-batch
                self._give_back(pick)
                return
            self._record()  # of the batch before this one: outcome-durable
            self.send_status()
            if self._clean:
                clean(home, self._journal)
                self._clean = False
            # A name that was made and removed again may be somebody's new one by now: home's names
            # are derived without what needs nothing at home.
            self._progress.finish(batch.settled, 0, None)
            result = execution.run(batch)
            told = {failed.trouble.errno for _, failed in result.failed}
            self.site.sync(home, told)  # before any outcome is recorded: home-sync
            connection.check(home)  # else all is in doubt: connection
        self._land(pick, result)

    def _give_back(self, pick: Pick) -> None:
        """No durable point can be had: the batch was not begun."""
        if not pick.doubt:
            ids = pick.batch.ids
            self._journal.land((), untouched=ids)
            self._progress.unmark(ids)
        self._progress.break_off()
        self._wait(1.0)

    def _land(self, pick: Pick, result: Result) -> None:
        """The batch is executed, durably at home. Its outcomes wait for a durable point."""
        landing = land(pick, result, self._journal.requeued())
        self._progress.end()
        self._landing, self._breaks, self._said = landing, 0, ""
        self.site.wary = self.site.wary and bool(landing.requeued)
        landing.reached = self._contact.era.reached
        firsts = {action.ids[0] for action, _ in result.failed}
        for one in landing.requeued:
            if one.tries == 1 and one.id in firsts:
                detail = {"entry": one.id, "errno": one.errno, "reason": one.reason}
                self._send({"type": "event", "name": "afmCmdRequeued", "detail": detail})
        if result.inconsistent is not None:
            self.report(result.inconsistent)

    def report(self, trouble: Inconsistent) -> None:
        """Nothing more is replayed until the mount process says so."""
        self._needs_resync = True
        path = trouble.path.decode("utf-8", "surrogateescape")
        self._send({"type": "inconsistent", "reason": trouble.reason, "path": path})

    def put_back(self) -> None:
        """Home is not what it was: what it had and the queue has forgotten may be lost there."""
        self.report(
            Inconsistent(
                b"",
                "home is an older state of itself: put back from a snapshot or a backup, or what it"
                " had confirmed is lost",
            )
        )

    # -- outcomes --------------------------------------------------------------------------------

    def _record_after_point(self) -> None:
        if self._points.make():
            self._record()
        else:
            self._wait(1.0)

    def _record(self) -> None:
        """Record what became of the batch before; a durable point has followed it."""
        landing = self._landing
        if landing is None:
            return
        landing.record(self._journal)
        self._landing = None
        executed, progress = landing.executed, self._progress
        progress.recorded(executed)
        progress.unmark(executed)
        progress.unmark(landing.untouched)
        progress.unmark(r.id for r in landing.requeued if not r.pushing)
        self._clean |= bool(landing.exchanges)
        if landing.requeued or landing.untouched:
            self._window.rewind()
        self.steps.executed += len(executed)
        if executed:
            self.steps.say_outcomes()

    def send_status(self) -> None:
        requeued = self._journal.requeued()
        self._send(
            {
                "type": "status",
                "num_exec": self.steps.executed,
                "executing": len(self._progress.running),
                "requeued": len(requeued),
                "refusal": refusal(requeued.values()),
                "latency_ms": self._threads.latency * 1000,
                "stalled_s": self._contact.stalled_s,
                "statvfs": self._contact.statvfs or None,
                "settled": self.settled,
                "through": self.settled_through,
                "in_doubt": self.in_doubt,
            }
        )
        self.jobs.tell(now=True)
