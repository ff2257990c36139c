"""Events: what happened to a fileset, newest last, as text or as JSON.

An event is a map with `number`, `time` (RFC 3339), `name` (AFM's, such as afmCmdRequeued) and
whatever else belongs to it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any

from afmfs.cache.report.queue import rfc3339

Event = Mapping[str, Any]

LATEST = 1000
"""Events that a listing goes back."""

KEPT = 10_000
"""Events that cache.db holds, about."""


def insert_event(cache: sqlite3.Connection, name: str, detail: Mapping[str, Any]) -> None:
    """Keep an event, in the caller's transaction; the oldest make room."""
    cursor = cache.execute(
        "INSERT INTO event (time_ns, name, detail) VALUES (?,?,?)",
        (time.time_ns(), name, json.dumps(detail)),
    )
    if cursor.lastrowid and cursor.lastrowid % 100 == 0:
        cache.execute("DELETE FROM event WHERE id <= ?", (cursor.lastrowid - KEPT,))


def read_events(cache: sqlite3.Connection, latest: int = LATEST) -> list[Event]:
    """The newest events of cache.db, oldest of them first."""
    rows = cache.execute(
        "SELECT id, time_ns, name, detail FROM event ORDER BY id DESC LIMIT ?", (latest,)
    ).fetchall()
    return [
        {"number": number, "time": rfc3339(time_ns), "name": name} | _detail(detail)
        for number, time_ns, name, detail in reversed(rows)
    ]


def _detail(text: str | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {"detail": found}


def render_events(events: Iterable[Event], *, as_json: bool) -> str:
    """One event a line: `TIME NAME key=value...`, or a JSON object."""
    return "".join((json.dumps(dict(e)) if as_json else _text(e)) + "\n" for e in events)


def _text(event: Event) -> str:
    rest = (
        f"{key}={_value(value)}"
        for key, value in event.items()
        if key not in ("number", "time", "name") and value not in (None, "")
    )
    return " ".join([str(event.get("time", "-")), str(event.get("name", "-")), *rest])


def _value(value: object) -> str:
    """As it is where that is one plain word, else as JSON, which has no newline."""
    text = str(value)
    plain = isinstance(value, str) and text.isprintable() and not set(text) & set(' "')
    return text if plain else json.dumps(value)
