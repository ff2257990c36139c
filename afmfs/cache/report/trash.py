"""The listing of home's trash, read from gateway.db: it needs no home."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from afmfs.cache.report.queue import rfc3339
from afmfs.model.kinds import kind_name

MOST = 1000
"""Entries of one listing."""

ALL = 0
"""In the place of a job's number."""


class Trashed(NamedTuple):
    """Something that a job moved aside at home."""

    job: int
    number: int
    path: bytes  # the name it had, below the fileset's root
    kind: int  # S_IFMT bits
    size: int
    why: str
    time_ns: int
    state: str

    def to_dict(self) -> dict[str, Any]:
        path = os.fsdecode(self.path)
        told: dict[str, Any] = {"job": self.job, "number": self.number, "path": path}
        if not path.isascii() and path.encode("utf-8", "replace") != self.path:
            told["path_hex"] = self.path.hex()
        return told | {
            "kind": kind_name(self.kind),
            "why": self.why,
            "size": self.size,
            "time": rfc3339(self.time_ns),
            "state": self.state,
        }


class Listing(NamedTuple):
    entries: Sequence[Trashed]  # the first ones
    total: int
    size: int  # bytes, of all of them


def read_trash(gateway: sqlite3.Connection | None, job: int | None) -> Listing:
    """What is in the trash of a job, or of all; nothing where there is no gateway.db yet, or it is
    of a version that knew no trash."""
    if (
        gateway is None
        or not gateway.execute(
            "SELECT 1 FROM sqlite_master WHERE type='table' AND name='trash'"
        ).fetchone()
    ):
        return Listing((), 0, 0)
    where, values = ("WHERE job=?", (job,)) if job is not None else ("", ())
    count, size = gateway.execute(
        f"SELECT count(*), coalesce(sum(size), 0) FROM trash {where}", values
    ).fetchone()
    rows = gateway.execute(
        f"SELECT job, number, path, kind, size, why, time_ns, state FROM trash {where}"
        " ORDER BY job, number LIMIT ?",
        (*values, MOST),
    )
    return Listing([Trashed(*row) for row in rows], count, size)


def render(found: Listing, *, as_json: bool) -> str:
    """One JSON object a line, or a table with the sums below it."""
    more = found.total - len(found.entries)
    if as_json:
        lines = [json.dumps(entry.to_dict()) for entry in found.entries]
        lines += [json.dumps({"more": f"{more} entries"})] * bool(more)
        return "".join(line + "\n" for line in lines)
    rows = [("ID", "Why", "Kind", "Size", "Moved aside", "State", "Path")]
    for entry in map(Trashed.to_dict, found.entries):
        path = entry["path"]
        shown = path if path.isprintable() else json.dumps(path)
        rows.append(
            (str(entry["job"]), entry["why"], entry["kind"], str(entry["size"]), entry["time"],
             entry["state"], shown)
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    entries = "1 entry" if found.total == 1 else f"{found.total} entries"
    sums = [f"{more} more entries are not shown; name an ID"] * bool(more)
    return "\n".join([*lines, *sums, f"{entries}, {found.size} bytes"]) + "\n"
