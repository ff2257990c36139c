"""gateway.db: whether it is sound, and speaks of the queue that there is.

A damaged one is set aside by the gateway itself, which then compares with home what may have been
under way; so nothing more is done here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.home.known_journal import Remembered
from afmfs.cache.store.store import connect_read_only
from afmfs.model.findings import Finding
from afmfs.model.outcome import DROPPED

_TABLES = ("flight", "outcome", "requeued", "state")
_BY_MOUNT = (
    "nothing: the next mount sets it aside, and compares with home what may have been under way"
)


def check(source: Source) -> Iterator[list[Finding]]:
    path = source.journal
    known = source.json(f"journal/{source.home}", list)
    name = str(path.relative_to(source.cache))
    if not path.exists():
        if known and known[0]:
            yield [_finding(f"{name} is missing")]
        return
    try:
        with closing(connect_read_only(path)) as db:
            if not path.stat().st_size:
                yield [_finding(f"{name} is empty")]
                return
            found = db.execute("PRAGMA quick_check(10)").fetchall()
            if found != [("ok",)]:
                yield [_finding(f"{name} is damaged: {found[0][0]}")]
                return
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
            if not tables.issuperset(_TABLES):
                if tables or (known and known[0]):  # else it was just being made
                    yield [_finding(f"{name} is no journal")]
                return
            yield [*_against_queue(source, db, known)]
    except sqlite3.DatabaseError as exc:
        yield [_finding(f"{name} can't be read: {exc}")]


def _finding(text: str) -> Finding:
    return Finding(kind="journal", text=text, repair=_BY_MOUNT)


def _against_queue(
    source: Source, db: sqlite3.Connection, known: list[Any] | None
) -> Iterator[Finding]:
    state = dict(db.execute("SELECT key, value FROM state"))
    if known and known[0] and "news" not in state:
        remembered = Remembered(*known)
        if state.get("journal") != remembered.id:
            yield _finding("gateway.db is another cache's, or another home's")
            return
        if int(state.get("turn") or 0) < remembered.turn:
            yield _finding("gateway.db is an older copy")
            return
    # What an administrator has dropped need not be durable here before.
    (executed,) = db.execute(
        "SELECT ifnull(max(id), 0) FROM outcome WHERE result<>?", (DROPPED,)
    ).fetchone()
    if executed > source.durable_now():
        source.old = f"entry {executed} was executed at home, which cache.db has not come to"
    if source.live:
        return
    rows = db.execute(
        "SELECT id FROM flight UNION SELECT id FROM requeued EXCEPT SELECT id FROM outcome"
    )
    begun = [number for (number,) in rows]
    there = {
        number
        for (number,) in source.execute(
            "SELECT id FROM queue WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(begun),),
        )
    }
    missing = sorted(set(begun) - there)
    # Queued after the last durable point, they may be lost, and were never executed.
    beyond = [number for number in missing if number <= source.durable_entry]
    if beyond and not source.missing:
        yield Finding(
            kind="journal",
            text=f"entries {_shown(beyond)} are under way at home, and not in the queue",
            repair="every changed object is compared with home, and sent again",
            detail={"entries": beyond},
            mend=doing(Repair.entries_are_missing, beyond),
        )


def _shown(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + ", ..." * (len(numbers) > 5)
