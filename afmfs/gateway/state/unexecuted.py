"""Rows of the queue that home has not seen."""

from __future__ import annotations

from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View
from afmfs.model.entry import Entry


def unexecuted(
    view: View, progress: Progress, after: int, count: int
) -> tuple[list[Entry], int | None]:
    """What is not executed of the next `count` rows of the queue, and the number to go on after
    (None at the end). Read while no outcome was forgotten: a row that was retired and forgotten
    since would look as if it were still to do."""
    while True:
        before = progress.forgotten()
        page = view.page(after, count)
        todo = [e for e in page if not progress.executed(e.id)]
        if progress.forgotten() == before:
            return todo, page[-1].id if len(page) == count else None
