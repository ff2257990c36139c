"""The few rows of gateway.db that a repair of the cache has to do with.

While the cache's lock is held no gateway works with it, but one that is stuck in a dead home: its
lock is looked at first.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from afmfs.cache.store.store import connect_read_only


def largest_entry(journal: Path) -> int:
    """The largest entry that it knows of; 0 where it can't be read."""
    if not journal.exists():
        return 0
    try:
        with closing(connect_read_only(journal)) as db:
            rows = db.execute(
                "SELECT max(id) FROM outcome UNION SELECT max(id) FROM flight"
                " UNION SELECT max(id) FROM requeued"
            )
            return max((n for (n,) in rows if type(n) is int), default=0)
    except sqlite3.DatabaseError:
        return 0


def forget(journal: Path, dropped: Sequence[int], beyond: int | None = None) -> None:
    """Entries that were `dropped`: nothing of them is under way any more. And all that lie `beyond`
    what the cache has known: home's versions that came of them are none of ours."""
    if (not dropped and beyond is None) or not journal.exists():
        return
    try:
        with _locked(journal.parent / "lock"), closing(sqlite3.connect(journal)) as db, db:
            for table in ("flight", "requeued"):
                db.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))",
                    (json.dumps(list(dropped)),),
                )
            if beyond is not None:
                for table in ("flight", "requeued", "outcome"):
                    db.execute(f"DELETE FROM {table} WHERE id > ?", (beyond,))
    except (BlockingIOError, sqlite3.Error):
        pass  # the gateway finds out by itself that they are not in the queue


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """BlockingIOError while a gateway holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
