"""What a fileset says of itself, in one snapshot, and the forms in which it is shown.

Everything that is shown anywhere (the getstate table, status.json, metrics) comes from one
`Status`, so that two views of one moment can't disagree. Making one asks neither home nor a table
that grows with the fileset: its numbers come from memory and from the counters that are kept in the
same transactions as what they count. `dirty_bytes` is the exception; see there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from afmfs.cache.home.nulls import Nulled
from afmfs.model.entry import Op
from afmfs.model.states import State

SCHEMA = 1
"""Version of the JSON object: raised when a field changes its meaning, not when one is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The resync, failover or recovery that is due or under way."""

    id: int
    kind: str  # resync, failover, recovery
    phase: str  # due, settling, planning, pushing, waiting (only requeued objects are left), done
    manual: bool
    reason: str  # why it was started
    left: int = 0  # objects
    total: int = 0
    bytes_left: int = 0
    bytes_total: int = 0
    requeued: int = 0  # objects that home refused, tried again later
    objects_per_second: float = 0.0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None  # at these rates; None while nothing moves


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One fileset at one moment. Sizes are bytes, ages seconds, texts empty where unknown."""

    schema: int = SCHEMA
    version: str = ""  # of afmfs

    device: str
    fileset: str
    target: str
    mode: str = "sw"
    auto_resync: bool = True  # NeedsResync ends by itself, with the next request
    state: str
    reason: str = ""
    trouble: bool = False  # somebody should look, at what the reason says
    gateway: str  # the host that runs it
    gateway_pid: int | None = None
    mount_point: str = ""
    cache: str = ""  # the cache directory
    block_size: int = 0

    queue_length: int = 0  # entries in both queues
    job: JobStatus | None = None
    last_job: int = 0  # number of the last one that was ever started
    num_exec: int = 0  # entries executed since the mount
    executing: int = 0  # entries in the batch that is being executed
    requeued: int = 0  # entries that home refused, tried again later
    unrepresentable: int = 0  # what this home can never hold, or an administrator dropped
    lost: int = 0  # files that home has lost: what is not cached of them is gone
    nulled_files: int = 0  # files of which a resync made bytes null at home
    bytes_pending: int = 0  # bytes of pending entries; one written twice counts twice
    dirty_bytes: int = 0  # bytes covered by pending entries; each counts once
    oldest_pending_seconds: float = 0.0

    last_entry: int = 0  # number of the newest entry ever queued
    flushed_through: int = 0  # no entry up to this number is pending
    settled_through: int = 0  # no entry up to this number can go now: each is done, requeued, or
    # held up by a requeued one. Later ones may be under way.
    blocked: str = ""  # why nothing that is pending can go; see `why_blocked`

    entries_per_second: float = 0.0  # replayed, over the last seconds
    bytes_per_second: float = 0.0
    seconds_left: float | None = None  # at these rates; None while nothing moves

    report: dict[str, Any] | None = None  # the last one asked for: number, kind, started, running,
    # errno and reason (of one that failed)

    # Both streams to home, the queue's and the job's; see `afmfs.cache.report.write_stats`.
    written_bytes: int = 0  # since the mount
    write_bytes_left: int = 0
    write_bytes_per_second: float = 0.0
    write_seconds_left: float | None = 0.0  # at this rate; None while nothing moves

    eviction: dict[str, Any] | None = None  # the last one down to a limit; see `evict.Run`
    evicted_files: int = 0  # to make room, since the mount
    evicted_bytes: int = 0
    cache_size: int | None = None  # most that may be cached; None: no limit
    disk: str = ""  # what is wrong with the cache's disk, or with how much is cached
    disk_failed: bool = False  # it takes nothing more until the fileset is mounted anew
    cached_bytes: int = 0  # whole cached blocks, the last cut at the end of its file
    cache_free_bytes: int = 0
    inodes: int = 0
    mount_memory_bytes: int | None = None  # resident, of the mount process
    gateway_memory_bytes: int | None = None

    home_latency_ms: float | None = None
    connected_since: str = ""  # RFC 3339
    last_error: str = ""  # the last error at home


_COLUMNS = {
    "Fileset Name": "fileset",
    "Fileset Target": "target",
    "Cache State": "state",
    "Gateway Node": "gateway",
    "Queue Length": "queue_length",
    "Queue numExec": "num_exec",
}


def render_state(statuses: Iterable[Status]) -> str:
    """The table of getstate. A header's ruler is as long as the header, as AFM draws it."""
    return table(_COLUMNS, ([getattr(s, field) for field in _COLUMNS.values()] for s in statuses))


def table(names: Collection[str], rows: Iterable[Iterable[object]]) -> str:
    """Columns as wide as their widest cell, below a header with its ruler."""
    cells = [[_cell(one) for one in row] for row in rows]
    lines: list[Sequence[str]] = [[*names], ["-" * len(name) for name in names], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return " ".join(padded).rstrip() + "\n"


def _cell(value: object) -> str:
    """Text that stays in its row: a name may hold a newline. An empty cell would shift its row."""
    text = "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in str(value)
    )
    return text or "-"


def render_json(status: Status) -> str:
    """The object of status.json: ASCII, one field a line."""
    return json.dumps(asdict(status), indent=2) + "\n"


def from_json(text: str | bytes) -> Status:
    """The inverse of `render_json`; unknown fields are dropped. ValueError, TypeError if none."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise TypeError("not a status object")
    known = _known(Status, fields)
    if known.get("job") is not None:
        known["job"] = JobStatus(**_known(JobStatus, known["job"]))
    return Status(**known)


def _known(kind: type[Status | JobStatus], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in kind.__dataclass_fields__ if name in fields}


def why_blocked(status: Status) -> str:
    """Why nothing that is pending can go now, '' if something can or nothing is pending."""
    if not status.queue_length:
        return ""
    if status.disk_failed:
        return status.disk
    if status.state in (State.STOPPED, State.UNMOUNTED, State.DISCONNECTED, State.NEEDS_RESYNC):
        return f"{status.state}: {status.reason}" if status.reason else status.state
    if status.requeued and status.settled_through >= status.last_entry:
        return requeued_text(status)
    return ""


def requeued_text(status: Status) -> str:
    """What to say where only requeued entries are left."""
    noun = "entry was" if status.requeued == 1 else "entries were"
    last = f" ({status.last_error})" if status.last_error else ""
    return (
        f"{status.requeued} {noun} refused by home and requeued{last}; `queue` lists them,"
        " `resumeRequeued` tries them again"
    )


def with_block(status: Status) -> Status:
    """`status` with `blocked` filled in."""
    return replace(status, blocked=why_blocked(status))


# -- dirty bytes ---------------------------------------------------------------------------------

DIRTY_CAP = 1_000_000
"""WRITE entries that `dirty_bytes` unites, at most: about two seconds, and a sort of 40 MB."""

# The union of half-open ranges in one pass: sorted by their start, a range adds what lies beyond
# the furthest end of those before it.
_UNION = f"""
SELECT coalesce(sum(max(0, stop - max(start, coalesce(reached, start)))), 0) FROM (
    SELECT start, stop, max(stop) OVER (PARTITION BY ino ORDER BY start, stop
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM (SELECT q.ino, q.start, min(q."end", i.size) AS stop
          FROM queue q JOIN inode i ON i.ino = q.ino
          WHERE q.op = {Op.WRITE:d} AND q.id < ? AND q.start < i.size))
"""
_REST = f"""
SELECT coalesce(sum(min(q."end", i.size) - q.start), 0)
FROM queue q JOIN inode i ON i.ino = q.ino
WHERE q.op = {Op.WRITE:d} AND q.id >= ? AND q.start < i.size
"""


def dirty_bytes(connection: sqlite3.Connection, cap: int = DIRTY_CAP) -> int:
    """Bytes that pending WRITE entries cover, each counted once; of removed files none.

    This one scans the queue: call it in a thread, with a read-only connection of its own. SQLite
    works on it with the interpreter's lock released, and nothing grows but its sorter, which goes
    to disk. Beyond the `cap` oldest WRITE entries the rest is added up without being united, so
    that the answer can only be too large.
    """
    row = connection.execute(
        f"SELECT id FROM queue WHERE op = {Op.WRITE:d} ORDER BY id LIMIT 1 OFFSET ?", (cap,)
    ).fetchone()
    boundary = row[0] if row else (1 << 63) - 1
    (united,) = connection.execute(_UNION, (boundary,)).fetchone()
    (rest,) = connection.execute(_REST, (boundary,)).fetchone()
    return int(united) + int(rest)


# -- one file ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedReport:
    """How much of one object is cached. Sizes are bytes; a directory counts as one block."""

    state: str  # uncached, partial, cached; lost: uncached, and home does not have it any more
    size: int
    cached_bytes: int
    blocks: int
    cached_blocks: int
    block_size: int
    dirty: bool  # a pending entry concerns it
    lost: int | None = None  # the resync that found that home has lost what is not cached
    nulled_bytes: int = 0  # that a resync made null at home
    nulled: Sequence[Nulled] = ()  # the first of these ranges, up to NULLED_SHOWN


NULLED_SHOWN = 1000


def cached_state(cached_blocks: int, blocks: int) -> str:
    """The word for so many of so many blocks; an empty file is cached."""
    if cached_blocks >= blocks:
        return "cached"
    return "partial" if cached_blocks else "uncached"


def render_cached(path: str, report: CachedReport, *, as_json: bool) -> str:
    """A line whose first word is the state, then what a resync did to the file; or one JSON object
    with the path."""
    if as_json:
        return json.dumps({"path": path, **asdict(report)}) + "\n"
    return (
        f"{report.state} {report.cached_bytes} of {report.size} bytes,"
        f" {report.cached_blocks} of {report.blocks} blocks of {report.block_size} bytes"
        f"{', dirty' if report.dirty else ''}\n{_damage(report)}"
    )


def _damage(report: CachedReport) -> str:
    lines: list[str] = []
    if report.lost is not None:
        lines.append(f"lost: home does not have what is not cached (resync {report.lost})")
    for one in report.nulled:
        where = "as it was before" if one.trash is None else f"see its trash, number {one.trash}"
        lines.append(f"nulled: {one.start}-{one.end} at home, by resync {one.job}; {where}")
    shown = sum(one.end - one.start for one in report.nulled)
    if shown < report.nulled_bytes:
        lines.append(f"nulled: {report.nulled_bytes - shown} bytes more")
    return "".join(f"{line}\n" for line in lines)
