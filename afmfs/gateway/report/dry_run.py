"""What a resync would do, object by object, changing nothing.

It judges by what the resync itself judges by, at the names that home has now; so the run that
follows does the same, unless somebody changes home or the cache in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import MayEnd
from afmfs.gateway.job.decision import Decision
from afmfs.gateway.job.examine import Examiner
from afmfs.gateway.job.reconcile import Reconciler
from afmfs.gateway.replay.work import Work
from afmfs.gateway.report.reports import Row
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.state.view import View
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.action import Place
from afmfs.model.entry import Op
from afmfs.model.names import source
from afmfs.model.ranges import total
from afmfs.model.resync import Do, Job, Kind

PAGE = 512

_FIGURES = (
    "objects", "pushed", "pushed_bytes", "made", "replaced", "aside", "aside_bytes", "nulled",
    "nulled_bytes", "adopted", "lost", "removed",
)  # fmt: skip


class DryRun:
    """`work` makes what looking at home needs."""

    def __init__(
        self,
        view: View,
        contact: Contact,
        book: TrashBook,
        work: Callable[[Home], Work],
    ) -> None:
        self._view, self._contact, self._book, self._work = view, contact, book, work

    def rows(self, options: dict[str, Any]) -> Iterator[Row]:
        """A row for each object of which home or the cache would be changed, and the summary.

        HomeAway if home can't be asked.
        """
        job = Job(
            id=0,
            kind=Kind.RESYNC,
            bound=0,
            manual=bool(options.get("manual", True)),
            keep_uncached=bool(options.get("keep_uncached")),
        )
        figures = dict.fromkeys(_FIGURES, 0)
        for row in self._removals():
            figures["removed"] += 1
            yield row
        after = 0
        while found := self._view.objects(after, PAGE):
            inos = [one.ino for one in found]
            after = inos[-1]
            yield {}
            for row in self._judged(job, inos):
                _add_up(figures, row)
                if row["do"] != Do.SKIP:
                    yield row
        yield {"summary": figures}

    def _judged(self, job: Job, inos: list[int]) -> list[Row]:
        found = []
        with self._contact.opened() as (connection, home):
            work = self._work(home)
            work.rows = self._view.rows(inos)
            work.locator = _WhereItWillBe(self._view, work.locator)
            reconciler = Reconciler(work, Examiner(work, self._book), self._book, job)
            for ino in inos:
                try:
                    decision, case = reconciler.look(ino, lambda: 0)
                except MayEnd as trouble:
                    found.append({"do": "fail", "path": "", "inode": ino, "reason": str(trouble)})
                    continue
                work.pulse()
                if case is not None and decision.at is not None:
                    found.append(_row(work, case.cached.valid, decision, ino))
            connection.check(home)
        return found

    def _removals(self) -> Iterator[Row]:
        """Names that pending changes take away."""
        after = 0
        while page := self._view.page(after, PAGE):
            after = page[-1].id
            locator = Locator(self._view, lambda entry: False)
            for entry in page:
                if entry.op == Op.REMOVE:
                    place = source(entry)
                    path = b"/".join((*(locator.directory(place[0]) or ()), place[1]))
                    yield {"do": "remove", "path": _text(path), "inode": entry.ino}


class _WhereItWillBe(Locator):
    """Home's names as they are; of what home does not hold yet, those that it is to have."""

    def __init__(self, view: View, now: Locator) -> None:
        super().__init__(view, lambda entry: False)
        self._now, self._names = now, view

    def places(self, ino: int) -> list[Place]:
        return self._now.places(ino) or sorted(self._names.names(ino))


def _row(work: Work, valid: tuple[tuple[int, int], ...], decision: Decision, ino: int) -> Row:
    at = decision.at
    assert at is not None
    row: Row = {"do": str(decision.do), "path": _text(work.path(at)) or "/", "inode": ino}
    if decision.do in (Do.MAKE, Do.PUSH):
        row["bytes"] = total(valid)
    if decision.asides:
        row["aside"] = [
            {"path": _text(a.path), "why": a.why, "bytes": a.size if stat.S_ISREG(a.kind) else 0}
            for a in decision.asides
        ]
    if decision.null:
        row["null_bytes"] = total(decision.null)
    return row


def _add_up(figures: dict[str, int], row: Row) -> None:
    figures["objects"] += 1
    do = row["do"]
    if do in (Do.MAKE, Do.PUSH):
        figures["pushed"] += 1
        figures["pushed_bytes"] += row["bytes"]
        figures["made"] += do == Do.MAKE
        figures["replaced"] += "aside" in row
    elif do == Do.ADOPT:
        figures["adopted"] += 1
    elif do == Do.LOST:
        figures["lost"] += 1
    for aside in row.get("aside", ()):
        figures["aside"] += 1
        figures["aside_bytes"] += aside["bytes"]
    if "null_bytes" in row:
        figures["nulled"] += 1
        figures["nulled_bytes"] += row["null_bytes"]


def _text(path: bytes) -> str:
    return os.fsdecode(path)
