"""Checking a cache beside the mount process that works with it: in a thread, at half its speed.

Reads through a connection of its own, page by page, and rests after each as long as it took. What a
moment's look could be wrong about (a blob that comes or goes) is looked at twice.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from afmfs.cache.check import databases, walk
from afmfs.cache.check.databases import DAMAGED, Unusable, open_for_check
from afmfs.cache.check.maps import MAP
from afmfs.cache.check.report import finding_row, summary_row
from afmfs.cache.check.source import Source
from afmfs.model.findings import Finding, Tally

LONGEST_REST_S = 1.0

PROOFS = frozenset({DAMAGED, MAP, "missing blob", "short blob", "shared blob"})
"""Kinds of findings that leave no doubt, whatever the mount does meanwhile."""


class LiveCheck:
    """One check. `put` hears of each row, and at last of the summary; `damaged` of what proves that
    the cache is damaged, and whether that is cache.db itself."""

    def __init__(
        self,
        cache: Path,
        put: Callable[[dict[str, Any]], None],
        damaged: Callable[[str, bool], None],
    ) -> None:
        self._cache, self._put, self._damaged = cache, put, damaged
        self._ended, self._closing = threading.Event(), threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._tally = Tally()

    def run(self) -> None:
        """For a thread. sqlite3.Error or OSError where it can't go on."""
        try:
            db = open_for_check(self._cache)
        except Unusable as trouble:
            self._tell(databases.file_finding(trouble))
        else:
            self._db = db
            try:
                self._check(db)
            finally:
                with self._closing:
                    self._db = None
                    db.close()
        self._put(summary_row(self._tally))

    def end(self) -> None:
        """From any thread: it ends soon, with an error."""
        self._ended.set()
        with self._closing:  # nothing may be asked of a connection that is closed
            if self._db is not None:
                self._db.interrupt()

    def _check(self, db: sqlite3.Connection) -> None:
        began = time.monotonic()
        files = walk.tables(self._cache, db, live=True)
        for finding in files:
            self._tell(finding)
        if not all(finding.mend for finding in files):
            return
        source = Source(self._cache, db, live=True)
        for page in chain(walk.rows(source), walk.ground(source), walk.content(source)):
            for finding in page:
                self._tell(finding)
            took = time.monotonic() - began
            if self._ended.wait(min(took, LONGEST_REST_S)):
                raise sqlite3.OperationalError("it was ended")
            began = time.monotonic()

    def _tell(self, finding: Finding) -> None:
        self._tally.add(finding, repaired=False)
        self._put(finding_row(finding))
        if finding.kind in PROOFS:
            where = f"{os.fsdecode(finding.path)}: " if finding.path else ""
            self._damaged(where + finding.text, finding.kind in (DAMAGED, MAP))
