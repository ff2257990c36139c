"""The priority queue, durable in gateway.db: what a resync, failover or recovery has still to do.

There is one row for each object, in the order in which home can take them: directories from the top
down, then everything else. What is decided about an object is kept with its row before anything of
it is done at home: who goes on after a crash does what was decided, and does not take the half of
its own work for somebody else's.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from afmfs.gateway.job.decision import Decision
from afmfs.gateway.replay.backoff import MOST_NS
from afmfs.gateway.replay.exchange import half_done
from afmfs.gateway.state.journal import Journal, Outcome
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.order import NOTHING_OWED, Owed
from afmfs.model.ranges import Ranges
from afmfs.model.resync import GROWN, Do, Job, Kind

AGAIN_NS = 10**9

COLLECTING, SETTLING, SEEKING = "collecting", "settling", "seeking"
PLANNING, PUSHING, WAITING, DONE = "planning", "pushing", "waiting", "done"
"""Phases of a job: what a recovery is about is noted; pending names are settled; objects that lost
entries have left elsewhere are sought; rows are written; rows are executed; only requeued ones are
left; everything is at home."""


class Due(NamedTuple):
    """A row of the priority queue."""

    n: int
    ino: int
    bytes: int
    decision: Decision | None  # None: nothing of it was begun
    tries: int = 0
    since_ns: int = 0


class Planned(NamedTuple):
    n: int
    ino: int
    bytes: int


class Refusal(NamedTuple):
    """Home refuses an object for now: it is tried again."""

    n: int
    errno: int
    reason: str
    tries: int
    next_try_ns: int
    since_ns: int
    begun: bool  # something of it may have been done: it is gone on with as it was decided


_DUE = "n, ino, bytes, verdict, tries, since_ns"
FIGURES = ("files", "bytes", "replaced", "aside", "nulled", "nulled_bytes", "adopted", "lost")


class Priority:
    """Raises sqlite3.Error where gateway.db can't be written."""

    def __init__(self, journal: Journal, book: TrashBook) -> None:
        self._journal, self._book = journal, book
        self.job: Job | None = None
        self.phase = DONE
        self.cursor = 0  # inode up to which the plan is written
        self.figures: dict[str, int] = {}
        self._lock = threading.Lock()
        self._running: frozenset[int] = frozenset()
        self._load()

    def _load(self) -> None:
        found = self._journal.query("SELECT record, phase, cursor, figures FROM job")
        if found:
            record, self.phase, self.cursor, figures = found[0]
            self.job, self.figures = as_job(json.loads(record)), json.loads(figures)
        self._owed: Owed | None = NOTHING_OWED
        self._count()

    def _count(self) -> None:
        row = self._journal.query("SELECT count(*), total(bytes), count(errno) FROM priority")[0]
        self.left, self.bytes_left, self.requeued = row[0], int(row[1]), row[2]
        self._owed = None

    # -- questions, from any thread --------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether a job has something to do but to try again what home refuses."""
        return self.job is not None and self.phase not in (DONE, WAITING)

    def due(self, ino: int) -> bool:
        """Whether the running job is yet to see to the inode, or is at it: what home has of it
        says nothing now."""
        if self.job is None or self.phase == DONE:
            return False
        if ino in self._running:
            return True
        if self.phase in (COLLECTING, SETTLING, SEEKING):
            return True
        if self.phase == PLANNING and not self.job.exact and ino > self.cursor:
            return True
        return bool(self._journal.query("SELECT 1 FROM priority WHERE ino=?", (ino,)))

    def owed(self) -> Owed:
        """What home refuses for now; the same object as long as that is so."""
        if self._owed is None:
            rows = self._journal.query(
                "SELECT ino, verdict IS NULL OR json_extract(verdict, '$[0]')=? FROM priority"
                " WHERE errno IS NOT NULL",
                (Do.MAKE,),
            )
            unmade = frozenset(ino for ino, is_unmade in rows if is_unmade)
            self._owed = Owed(frozenset(ino for ino, _ in rows), unmade)
        return self._owed

    def is_known(self, job: int) -> bool:
        return self.job is not None and self.job.id == job

    # -- changes, each durable on return ---------------------------------------------------------

    def begin(self, record: dict[str, Any]) -> None:
        """Take a job on; said again, nothing changes."""
        job = as_job(record)
        if self.is_known(job.id):
            return
        phase = COLLECTING if job.exact else SETTLING
        figures = dict.fromkeys(("total", "bytes_total", *FIGURES), 0)
        with self._journal.transaction() as db:
            db.execute("DELETE FROM job")
            db.execute("DELETE FROM priority")
            db.execute(
                "INSERT INTO job VALUES (?,?,?,0,?)",
                (job.id, json.dumps(record), phase, json.dumps(figures)),
            )
        self.job, self.phase, self.cursor, self.figures = job, phase, 0, figures
        self._count()

    def extend(self, through: int) -> Job:
        """The job takes care of entries up to there as well."""
        with self._journal.transaction() as db:
            (text,) = db.execute("SELECT record FROM job").fetchone()
            record = json.loads(text) | {"bound": through}
            db.execute("UPDATE job SET record=?", (json.dumps(record),))
        self.job = as_job(record)
        return self.job

    def end(self, job: int) -> None:
        """The mount process knows that the job is done."""
        if not self.is_known(job):
            return
        with self._journal.transaction() as db:
            db.execute("DELETE FROM job")
            db.execute("DELETE FROM priority")
        self.job, self.phase = None, DONE
        self._count()

    def enter(self, phase: str) -> None:
        if phase == self.phase:
            return
        with self._journal.transaction() as db:
            db.execute("UPDATE job SET phase=?, cursor=0", (phase,))
        self.phase, self.cursor = phase, 0

    def collect(self, inos: Sequence[int]) -> None:
        """Note some inodes that the job is about, without a place in the queue; also if it was
        said before."""
        with self._journal.transaction() as db:
            noted = db.executemany(
                "INSERT OR IGNORE INTO priority (n, ino, bytes) VALUES (?,?,0)",
                [(-ino, ino) for ino in inos],
            )
        self.left += noted.rowcount
        self.figures["total"] = self.left

    def collected(self, limit: int) -> list[int]:
        """The first inodes that are noted and have no place yet."""
        rows = self._journal.query(
            "SELECT ino FROM priority WHERE n<0 ORDER BY n DESC LIMIT ?", (limit,)
        )
        return [ino for (ino,) in rows]

    def plan(
        self,
        rows: Sequence[Planned],
        cursor: int,
        agreed: Sequence[Outcome] = (),
        collected: Sequence[int] = (),
    ) -> None:
        """Append a step of the plan; `agreed` is known of objects that need no row. It takes the
        place of what was collected of some inodes."""
        self.figures["total"] += len(rows) - len(collected)
        self.figures["bytes_total"] += sum(row.bytes for row in rows)

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM priority WHERE n=?", [(-ino,) for ino in collected])
            db.executemany("INSERT OR REPLACE INTO priority (n, ino, bytes) VALUES (?,?,?)", rows)
            self._save_figures(db)
            db.execute("UPDATE job SET cursor=?", (cursor,))

        self._journal.land(agreed, also=write)
        self.cursor = cursor
        self.left += len(rows) - len(collected)
        self.bytes_left += sum(row.bytes for row in rows)

    def next(self, rows: int, most_bytes: int, now_ns: int) -> list[Due]:
        """The next rows to execute: some that were begun, alone, or else some that were not."""
        found = self._select("verdict IS NOT NULL", now_ns, rows)
        found = found or self._select("verdict IS NULL", now_ns, rows)
        chosen: list[Due] = []
        total = 0
        for due in found:
            if chosen and (total + due.bytes > most_bytes or _rank(due.n) != _rank(chosen[0].n)):
                break
            chosen.append(due)
            total += due.bytes
        return chosen

    def _select(self, where: str, now_ns: int, limit: int) -> list[Due]:
        """Rows that need not wait (`is_early`)."""
        rows = self._journal.query(
            f"SELECT {_DUE} FROM priority"
            f" WHERE {where} AND (ifnull(next_try_ns,0)<=? OR next_try_ns>?) ORDER BY n LIMIT ?",
            (now_ns, now_ns + MOST_NS, limit),
        )
        return [
            Due(n, ino, size, text and Decision.load(text), tries or 0, since or 0)
            for n, ino, size, text, tries, since in rows
        ]

    def next_try(self) -> int | None:
        """When the first of the rows is due: at once, if home was not asked for it yet. Not as long
        as an exchange stands half done, under whose names they might be looked for: it is seen
        every second whether it does."""
        rows = self._journal.query("SELECT min(ifnull(next_try_ns, 0)) FROM priority")
        found: int | None = rows[0][0]
        if self.active or (found is not None and half_done(self._journal)):
            return max(found or 0, time.time_ns() + AGAIN_NS)
        return found

    def resume(self) -> None:
        """Requeued rows may be tried at once."""
        with self._journal.transaction() as db:
            db.execute("UPDATE priority SET next_try_ns=0 WHERE next_try_ns IS NOT NULL")

    def start(self, inos: Iterable[int]) -> None:
        """These are being executed: nobody may look at home for them meanwhile."""
        self._running = frozenset(inos)

    def decide(self, decisions: Sequence[tuple[Due, Decision]], now_ns: int) -> None:
        """Keep what was decided, and what is about to go to the trash."""
        assert self.job is not None
        self._owed = None
        with self._journal.transaction() as db:
            for due, decision in decisions:
                db.execute("UPDATE priority SET verdict=? WHERE n=?", (decision.dump(), due.n))
                for a in decision.asides:
                    self._book.intend(
                        db, a.number, self.job.id, a.path, due.ino, a.kind, a.size, a.why, now_ns
                    )

    def land(
        self,
        done: Sequence[tuple[Due, Decision]],
        outcomes: Sequence[Outcome],
        refused: Sequence[Refusal],
        undecided: Sequence[Due],
        written: Sequence[tuple[int, Ranges, int]],
        holes: Sequence[tuple[int, Ranges]] = (),
        above: Sequence[Planned] = (),
        unnamed: Sequence[tuple[Due, Decision]] = (),
    ) -> int:
        """Record what became of some rows; `undecided` are looked at anew, and what is `above` them
        before. Of `written` files home has these bytes, up to this size; `holes` are bytes that a
        file has grown by. Of what is `unnamed`, one of the others, only names are left to do."""
        assert self.job is not None
        job = self.job.id
        for due, decision in done:
            self._add_up(due, decision)
        for _, decision in unnamed:
            self._add_up_changes(decision)

        def write(db: sqlite3.Connection) -> None:
            for ino, ranges, size in written:
                self._book.written(db, ino, ranges, size)
            for ino, ranges in holes:
                self._book.null(db, ino, ranges, GROWN, None)
            for due, decision in (*done, *unnamed):
                for aside in decision.asides:
                    self._book.moved(db, aside.number)
                if decision.null:
                    trash = next(
                        (a.number for a in decision.asides if a.place == decision.at), None
                    )
                    self._book.null(db, due.ino, decision.null, job, trash)
            db.executemany("DELETE FROM priority WHERE n=?", [(due.n,) for due, _ in done])
            db.executemany(
                "UPDATE priority SET verdict=NULL WHERE n=?", [(d.n,) for d in undecided]
            )
            db.executemany("INSERT OR IGNORE INTO priority (n, ino, bytes) VALUES (?,?,?)", above)
            for r in refused:
                db.execute(
                    "UPDATE priority SET errno=?, reason=CAST(? AS TEXT), tries=?, next_try_ns=?,"
                    " since_ns=?" + ("" if r.begun else ", verdict=NULL") + " WHERE n=?",
                    (r.errno, os.fsencode(r.reason), r.tries, r.next_try_ns, r.since_ns, r.n),
                )
            self._save_figures(db)

        seq = self._journal.land(outcomes, also=write)
        self._running = frozenset()
        self.left -= len(done)
        self.bytes_left -= sum(due.bytes for due, _ in done)
        if self.requeued or refused or above:
            self._count()
        return seq

    def _add_up(self, due: Due, decision: Decision) -> None:
        figures = self.figures
        self._add_up_changes(decision)
        match decision.do:
            case Do.MAKE | Do.PUSH:
                figures["files"] += 1
                figures["bytes"] += due.bytes
                figures["replaced"] += bool(decision.asides)
            case Do.ADOPT:
                figures["adopted"] += 1
            case Do.LOST:
                figures["lost"] += 1
            case Do.SKIP:
                pass

    def _add_up_changes(self, decision: Decision) -> None:
        figures = self.figures
        figures["aside"] += len(decision.asides)
        if decision.null:
            figures["nulled"] += 1
            figures["nulled_bytes"] += sum(b - a for a, b in decision.null)

    def _save_figures(self, db: sqlite3.Connection) -> None:
        db.execute("UPDATE job SET figures=?", (json.dumps(self.figures),))


DIRECTORY_RANKS = 4096


def number(ino: int, depth: int | None) -> int:
    """The place in the queue of a directory, by its depth below home's root, or (None) of anything
    else."""
    rank = DIRECTORY_RANKS if depth is None else min(depth, DIRECTORY_RANKS - 1)
    return (rank << 48) + ino


def _rank(n: int) -> int:
    return n >> 48


def as_job(record: dict[str, Any]) -> Job:
    return Job(
        id=int(record["id"]),
        kind=Kind(record["kind"]),
        bound=int(record["bound"]),
        manual=bool(record.get("manual")),
        keep_uncached=bool(record.get("keep_uncached")),
        doubt=int(record.get("doubt") or 0),
        missing=int(record.get("missing") or 0),
    )
