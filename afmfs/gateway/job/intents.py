"""What a job is about to move to home's trash: numbered, kept, and said at home."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from afmfs.gateway.home.home import Home
from afmfs.gateway.job.decision import Aside
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.trash.aside import is_aside
from afmfs.gateway.trash.book import (
    INTENDED,
    TrashBook,
    Trashed,
    directory_of,
    file_name,
    write_index,
)
from afmfs.model.resync import Job

_AT_ONCE = 64


class Intents:
    def __init__(self, journal: Journal, book: TrashBook) -> None:
        self._journal, self._book = journal, book
        self._numbers: Iterator[int] = iter(())
        self._unsaid: list[Trashed] = []

    def begin(self) -> None:
        """Another job starts."""
        self._unsaid.clear()

    def number(self) -> int:
        """A number of the trash; some are taken at a time, and those not used are lost."""
        for found in self._numbers:
            return found
        with self._journal.transaction() as db:
            self._numbers = iter([self._book.next_number(db) for _ in range(_AT_ONCE)])
        return next(self._numbers)

    def keep(self, job: Job, aside: Aside) -> None:
        """Durable on return."""
        row = self.note(job, aside, None)
        with self._journal.transaction() as db:
            self._book.intend(db, *row[:8])

    def note(self, job: Job, a: Aside, ino: int | None) -> Trashed:
        """To be said at home with the batch."""
        row = Trashed(
            a.number, job.id, a.path, ino, a.kind, a.size, a.why, time.time_ns(), INTENDED
        )
        self._unsaid.append(row)
        return row

    def any(self, job: Job) -> bool:
        """Whether the job has, or may have, anything in the trash."""
        return next(self._book.rows(job.id), None) is not None

    def settle_given_up(self, home: Home, job: Job) -> None:
        """As `settle`, of jobs whose place another one has taken: what they were about to move may
        be in the trash, and is nowhere else."""
        rows = [row for row in self._book.in_state(INTENDED) if row.job != job.id]
        for other in {row.job for row in rows}:
            with suppress(OSError):
                write_index(home, other, (row for row in rows if row.job == other))
                self.settle(home, other)

    def settle(self, home: Home, job: int) -> int:
        """See which of the job's intents came to be; how many things are in its trash. Of what home
        does not tell the next job sees to."""
        moved, missing = list[Trashed](), list[Trashed]()
        directory = home.own_directory(directory_of(job))
        for row in self._book.rows(job):
            with suppress(OSError):
                there = is_aside(home, directory, file_name(row.number))
                (moved if there else missing).append(row)
        with self._journal.transaction() as db:
            for row in moved:
                self._book.stands_alone(db, row.number)
                self._book.moved(db, row.number)
            for row in missing:
                self._book.missing(db, row.number)
        return len(moved)

    def say(self, home: Home, job: Job) -> None:
        """Write the index of the trash. gateway.db knows all of it: nothing depends on this."""
        if self._unsaid:
            with suppress(OSError):
                write_index(home, job.id, self._unsaid)
            self._unsaid.clear()
