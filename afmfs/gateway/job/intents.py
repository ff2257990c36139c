"""What a job is about to move to home's trash: numbered, kept, and said at home."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from afmfs.gateway.home.home import Home
from afmfs.gateway.job.priority import Aside
from afmfs.gateway.state.journal import Journal
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

    def settle(self, home: Home, job: Job) -> int:
        """See which of the job's intents came to be; how many things are in its trash."""
        moved, missing = [], []
        directory = home.own_directory(directory_of(job.id))
        for row in self._book.rows(job.id):
            try:
                home.lstat(directory, file_name(row.number))
                moved.append(row)
            except FileNotFoundError:
                missing.append(row)
        with self._journal.transaction() as db:
            for row in moved:
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
