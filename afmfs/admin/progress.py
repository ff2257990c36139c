"""A bar for `--wait`, on standard error and only at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from afmfs.cache.report.status import JobStatus, Status

Show = Callable[[Status], None]

_OBJECT = 4096
"""What an object counts for in a bar, beside its bytes."""


@contextmanager
def progress(through: int) -> Iterator[Show]:
    """Yields what to call with each new status while entries up to `through` are waited for."""
    most = 1

    def figures(status: Status) -> tuple[int, int, str]:
        nonlocal most
        left = min(status.queue_length, max(0, through - status.flushed_through))
        most = max(most, left)
        return most - left, most, describe(status, left)

    with _bar("flushPending", figures) as show:
        yield show


@contextmanager
def job_progress(name: str) -> Iterator[Show]:
    """Yields what to call with each new status while a job is waited for."""

    def figures(status: Status) -> tuple[int, int, str]:
        job = status.job
        if job is None or not job.total:
            return 0, 0, f"{name}: {status.state}"
        total = job.bytes_total + _OBJECT * job.total
        return total - job.bytes_left - _OBJECT * job.left, total, describe_job(status, job)

    with _bar(name, figures) as show:
        yield show


@contextmanager
def eviction_progress(limit: int) -> Iterator[Show]:
    """Yields what to call with each new status while blocks are evicted down to `limit` bytes."""
    first: int | None = None

    def figures(status: Status) -> tuple[int, int, str]:
        nonlocal first
        left = max(0, status.cached_bytes - limit)
        first = left if first is None else max(first, left)
        return first - left, first, f"evict: {decimal(left)} left"

    with _bar("evict", figures) as show:
        yield show


@contextmanager
def _bar(name: str, figures: Callable[[Status], tuple[int, int, str]]) -> Iterator[Show]:
    """`figures` says how much is done, of how much (0: not known yet), and a text."""
    if not sys.stderr.isatty():
        yield lambda status: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Drawn by hand: a drawing thread would be copied half into the process that asks the mount.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as bars:
        task = bars.add_task(name, total=None)

        def show(status: Status) -> None:
            done, total, text = figures(status)
            bars.update(task, total=total or None, completed=done, description=text)
            bars.refresh()

        yield show


def describe(status: Status, left: int) -> str:
    """What is left, in entries and bytes, and what is in its way."""
    text = f"{left} entries, {decimal(status.bytes_pending)} left"
    if status.seconds_left is not None:
        text += f", about {status.seconds_left:.0f} s"
    if status.requeued:
        text += f", {status.requeued} requeued"
    return text if status.state == "Dirty" else f"{status.state}: {text}"


def describe_job(status: Status, job: JobStatus) -> str:
    """How far a job is, how fast it goes, and what is in its way."""
    done, data = job.total - job.left, job.bytes_total - job.bytes_left
    text = f"{done:,} of {job.total:,} objects, {decimal(data)} of {decimal(job.bytes_total)}"
    if job.bytes_per_second:
        text += f", {decimal(int(job.bytes_per_second))}/s"
    if job.seconds_left is not None:
        text += f", about {job.seconds_left:.0f} s left"
    if job.requeued:
        text += f", {job.requeued} requeued"
    return text if status.state == "Dirty" else f"{status.state}: {text}"
