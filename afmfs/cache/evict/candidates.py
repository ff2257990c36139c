"""The files that an eviction looks at, in its order, a page at a time.

Read in a thread, through a connection of its own, and sorted anew for each page: ten million files
cost neither memory nor a transaction that holds back the log. What is read may be old: whether a
file may be evicted is asked again when it is.
"""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import NamedTuple

from afmfs.cache.store.store import connect_read_only
from afmfs.model.entry import UNLINKED
from afmfs.model.selection import Order, Selection

PAGE = 100_000

# What was changed here was used then. The ctime of all else is home's.
_USED = "max(coalesce(u.time_s, 0), CASE WHEN i.changed THEN i.ctime / 1e9 ELSE 0 END)"
_KEYS = {Order.LRU: (_USED, "i.mtime"), Order.SIZE: ("-i.size", _USED)}
_PAGE = """
SELECT ino, size, one, two FROM (
    SELECT i.ino AS ino, i.size AS size, {one} AS one, {two} AS two
    FROM inode i LEFT JOIN used u ON u.ino = i.ino
    WHERE i.mode & 61440 = 32768 AND i.size BETWEEN ? AND ? AND (i.whole OR i.gen)
        AND i.nlink > 0 AND i.home_mtime IS NOT NULL AND i.changed <= i.retired)
WHERE (one, two, ino) > (?, ?, ?) ORDER BY one, two, ino LIMIT ?
"""


class Candidate(NamedTuple):
    ino: int
    size: int  # bytes; not all of them need be cached


class Candidates:
    """Files of which something is cached and nothing seems pending."""

    def __init__(self, cache: Path, selection: Selection) -> None:
        self._db: sqlite3.Connection = connect_read_only(cache)
        self._selection = selection
        one, two = _KEYS[selection.order]
        self._sql = _PAGE.format(one=one, two=two)
        self._after: tuple[float, float, int] = (-math.inf, -math.inf, 0)

    def page(self) -> list[Candidate] | None:
        """The next ones, perhaps none of a page; None at the end. For a thread."""
        chosen = self._selection
        rows = self._db.execute(
            self._sql, (chosen.smallest, chosen.largest, *self._after, PAGE)
        ).fetchall()
        if not rows:
            return None
        ino, _, one, two = rows[-1]
        self._after = one, two, ino
        return [Candidate(row[0], row[1]) for row in rows if self._is_meant(row[0])]

    def _is_meant(self, ino: int) -> bool:
        if self._selection.pattern is None:
            return True
        names = self._db.execute(
            "SELECT name FROM dentry WHERE ino=? AND parent<>?", (ino, UNLINKED)
        )
        return any(self._selection.names(name) for (name,) in names)

    def close(self) -> None:
        self._db.close()
