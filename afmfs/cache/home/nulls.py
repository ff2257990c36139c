"""What gateway.db says of bytes that a job made null at home, for reports. Read-only."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from afmfs.model.ranges import Ranges
from afmfs.model.resync import GROWN

COUNT_S = 10.0
"""How old a count may be: it looks at every row."""


@dataclass(frozen=True, slots=True)
class Nulled:
    """Bytes [start, end) of a file that read as zeros at home."""

    start: int
    end: int
    job: int  # the resync that did it
    trash: int | None  # where what was there is; None: nulls were there already


Journal = Callable[[], sqlite3.Connection | None]
"""A reading connection to gateway.db; None where there is none yet."""


class Nulls:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._counted = 0
        self._until = 0.0  # monotonic

    def of(self, ino: int) -> list[Nulled]:
        """What a job has made null; not what a file has grown by."""
        rows = self._rows(
            "SELECT start, end, job, trash FROM nulled WHERE ino=? AND job>? ORDER BY start",
            ino,
            GROWN,
        )
        return [Nulled(*row) for row in rows]

    def ranges(self, ino: int) -> Ranges:
        """All that is null at home."""
        rows = self._rows("SELECT start, end FROM nulled WHERE ino=? ORDER BY start", ino)
        return tuple((start, end) for start, end in rows)

    def inos(self) -> list[int]:
        """The files that have nulled bytes."""
        return [row[0] for row in self._rows("SELECT DISTINCT ino FROM nulled")]

    def files(self) -> int:
        """How many files have nulled bytes; some seconds old."""
        now = time.monotonic()
        if now >= self._until:
            rows = self._rows("SELECT count(DISTINCT ino) FROM nulled WHERE job>?", GROWN)
            self._counted = int(rows[0][0]) if rows else 0
            self._until = now + COUNT_S
        return self._counted

    def outdated(self) -> None:
        """Something was nulled: count anew."""
        self._until = 0.0

    def _rows(self, sql: str, *args: int) -> list[tuple[int, ...]]:
        db = self._journal()
        # Not so where an older version has left it.
        if db is None or not _has(db, "nulled"):
            return []
        return db.execute(sql, args).fetchall()


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name=?", (table,)).fetchone())
