"""What a process holds, over time: memory, descriptors, threads; and whether that is flat."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import psutil

MIB = 1 << 20


class Gauge(NamedTuple):
    """One look at one process."""

    seconds: float
    memory: int  # bytes that are its own: what would be free if it ended
    descriptors: int
    threads: int


class Allowance(NamedTuple):
    """How much more the last third of the time may show than the second one, and be flat."""

    share: float
    more: int


ALLOWED = {
    "memory": Allowance(0.10, 8 * MIB),
    "descriptors": Allowance(0.0, 16),  # descriptors are kept for files in use, up to a limit
    "threads": Allowance(0.0, 2),
}


def look(process: psutil.Process, seconds: float) -> Gauge | None:
    """None if it has ended."""
    try:
        memory = process.memory_full_info().uss
        return Gauge(seconds, memory, process.num_fds(), process.num_threads())
    except psutil.NoSuchProcess:
        return None


def growth(gauges: Sequence[Gauge]) -> dict[str, tuple[float, float]]:
    """Per kind: its medians in the second and the last third. The first is for warming up."""
    third = len(gauges) // 3
    middle, last = gauges[third : 2 * third], gauges[2 * third :]
    return {
        kind: (
            statistics.median(getattr(gauge, kind) for gauge in middle),
            statistics.median(getattr(gauge, kind) for gauge in last),
        )
        for kind in ALLOWED
        if middle
    }


def is_flat(kind: str, middle: float, last: float) -> bool:
    allowed = ALLOWED[kind]
    return last <= middle * (1 + allowed.share) + allowed.more
