"""How much is being written to home, how fast, and until when: AFM's `getstate --write-stats`.

Two streams make it up: the queue, and the job (resync, failover or recovery) if there is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from afmfs.cache.report.status import Status, table

_COLUMNS = (
    "Fileset Name",
    "Total Written Data (Bytes)",
    "N/w Throughput (KB/s)",
    "Total Pending Data to Write (Bytes)",
    "Estimated Completion time",
)


def with_write_stats(status: Status, written: int) -> Status:
    """`status` with the figures of both streams filled in. `written`: bytes since the mount."""
    job = status.job
    left = status.bytes_pending + (job.bytes_left if job else 0)
    rate = status.bytes_per_second + (job.bytes_per_second if job else 0.0)
    return replace(
        status,
        written_bytes=written,
        write_bytes_left=left,
        write_bytes_per_second=round(rate, 1),
        write_seconds_left=_seconds(left, rate),
    )


def _seconds(left: int, rate: float) -> float | None:
    if not left:
        return 0.0
    return round(left / rate, 1) if rate else None


def render_write_stats(statuses: Iterable[Status]) -> str:
    """AFM's table."""
    return table(_COLUMNS, map(_row, statuses))


def _row(status: Status) -> tuple[object, ...]:
    return (
        status.fileset,
        status.written_bytes,
        int(status.write_bytes_per_second / 1024),
        status.write_bytes_left,
        _time(status.write_seconds_left),
    )


def _time(seconds: float | None) -> str:
    """Whole minutes, as AFM has it; seconds below one minute; '-' while nothing moves."""
    if seconds is None:
        return "-"
    return f"{int(seconds)} (Sec)" if seconds < 60 else f"{int(seconds / 60)} (Min)"
