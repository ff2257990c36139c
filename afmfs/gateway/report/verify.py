"""Comparing the cache with home, changing nothing: names, types, sizes, times, permissions and, if
asked for, the bytes of cached clean blocks.

Goes through the inodes page by page. What differs is told only once the cache was read, home looked
at, and the cache found unchanged since: replay, fetches and applications go on meanwhile. Home is
opened anew every few hundred objects, so that nothing below it stays open for long.
"""

from __future__ import annotations

import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.report.compare import Subject
from afmfs.gateway.report.contents import Tally
from afmfs.gateway.report.reports import Row
from afmfs.gateway.report.survey import LOST, UNREPRESENTABLE, Known, Remark, Survey
from afmfs.gateway.report.visit import Visit
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View
from afmfs.model.entry import ROOT
from afmfs.model.kinds import kind_name

OPEN_OBJECTS, OPEN_S = 256, 2.0
"""For so many objects, or so long, home stays open."""

PATIENCE_S = 2.0
"""How long one report waits, in all, for doubts to be settled."""


class Verify:
    """Makes reports. `due` says of an inode that a job is yet to see to it: what home has of it is
    no difference."""

    def __init__(
        self,
        view: View,
        progress: Progress,
        contact: Contact,
        cache: Path,
        directory: Path,
        due: Callable[[int], bool] = lambda ino: False,
    ) -> None:
        self._parts = view, progress, contact, due
        self._cache, self._directory = cache, directory

    def __call__(self, options: dict[str, Any]) -> Iterator[Row]:
        """Options: `data`, whether bytes are compared; `ino`, of what is compared with all below it
        (everything if it is missing)."""
        survey = Survey(self._cache, self._directory)
        try:
            run = Run(*self._parts, survey, data=bool(options.get("data")))
            yield from run.rows(options.get("ino") or ROOT)
        finally:
            survey.close()


class Run:
    """One comparison: what is left of it, and what was found."""

    def __init__(
        self,
        view: View,
        progress: Progress,
        contact: Contact,
        due: Callable[[int], bool],
        survey: Survey,
        *,
        data: bool,
    ) -> None:
        self.view, self.progress, self.contact, self.survey = view, progress, contact, survey
        self.tallies: deque[Tally] = deque()  # files whose bytes are to be compared
        self.subjects: deque[Subject] = deque()  # of this page
        self.remarks: deque[Remark] = deque()  # of this page
        self.patience = PATIENCE_S
        self.bytes = 0
        self._due, self._data = due, data
        self._until = 0.0
        self._pages: Iterator[list[Known]] = iter(())
        self._seen: Counter[str] = Counter()
        self._differences: Counter[str] = Counter()

    def rows(self, top: int) -> Iterator[Row]:
        survey = self.survey
        self._pages = survey.everything() if top == ROOT else survey.subtree(top)
        while self._is_left():
            with self.contact.opened() as (connection, home):
                self._until, visit = monotonic() + OPEN_S, Visit(self, connection, home)
                while self._is_left() and visit.objects < OPEN_OBJECTS and not self.is_late:
                    for row in visit.step():
                        if row:
                            self._differences[row["difference"]] += 1
                        yield row
                connection.check(home)  # all of it lay within one connection
        yield {"summary": self._summary()}

    @property
    def is_late(self) -> bool:
        """Whether home is to be closed."""
        return monotonic() >= self._until

    def _summary(self) -> Row:
        return {
            "files": self._seen["file"],
            "directories": self._seen["directory"],
            "others": self._seen.total() - self._seen["file"] - self._seen["directory"],
            "bytes_compared": self.bytes,
            "differences": dict(self._differences),
        }

    def _is_left(self) -> bool:
        while not (self.subjects or self.tallies or self.remarks):
            page = next(self._pages, None)
            if page is None:
                return False
            self._load(page)
        return True

    def _load(self, page: list[Known]) -> None:
        pending, remarks = self.survey.unsettled(page), self.survey.remarks(page)
        unheld, lost = _sort(remarks)
        for known in page:
            subject = Subject(
                known=known,
                pending=known.ino in pending,
                unheld=unheld.get(known.ino, frozenset()),
                lost=known.ino in lost,
            )
            self.subjects.append(subject)
        self.remarks.extend(remarks)

    def subject(self, ino: int) -> Subject | None:
        """All that is known of an inode at this moment; None if it is gone, or what home has of it
        is yet to change."""
        found = self.survey.known([ino])
        if not found or self._due(ino):
            return None
        unheld, lost = _sort(self.survey.remarks(found))
        return Subject(
            known=found[0],
            pending=bool(self.survey.unsettled(found)),
            names_change=stat.S_ISDIR(found[0].row.mode) and self.survey.names_change(ino),
            unheld=unheld.get(ino, frozenset()),
            lost=ino in lost,
            stamp=self.progress.stamp(ino),
            pushing=self.progress.is_pushing(ino),
        )

    def seen(self, subject: Subject) -> None:
        """Names and attributes of an object are compared."""
        row = subject.known.row
        self._seen[kind_name(row.mode)] += 1
        has_data = stat.S_ISREG(row.mode) and row.size and (row.whole or row.gen)
        # What is written to a file without a name here is queued nowhere.
        if self._data and has_data and row.nlink and not subject.lost:
            self.tallies.append(Tally(row.ino, row.size, subject.pending))


def _sort(remarks: list[Remark]) -> tuple[dict[int, frozenset[int]], set[int]]:
    """By inode the operations that home can't hold; and what is lost."""
    unheld: dict[int, frozenset[int]] = {}
    for remark in remarks:
        if remark.difference == UNREPRESENTABLE:
            unheld[remark.ino] = unheld.get(remark.ino, frozenset()) | {remark.op}
    return unheld, {remark.ino for remark in remarks if remark.difference == LOST}
