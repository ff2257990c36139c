"""Steps of SQLite's machine: what a request costs, the same on any computer."""

from __future__ import annotations

import sqlite3
from types import TracebackType

EVERY = 10
"""How finely they are counted."""


class StepsCounted:
    """Counts while it is entered. What takes more than `most` is ended: without that, a loop that a
    test looks for might never come back."""

    def __init__(self, db: sqlite3.Connection, most: int | None = None) -> None:
        self._db, self._most, self.steps = db, most, 0

    def __enter__(self) -> StepsCounted:
        self._db.set_progress_handler(self._count, EVERY)
        return self

    def _count(self) -> bool:
        self.steps += EVERY
        return self._most is not None and self.steps > self._most

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.set_progress_handler(None, 0)
        if self._most is not None and self.steps > self._most:
            raise AssertionError(f"more than {self._most} steps") from exc
