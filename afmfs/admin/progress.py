"""A bar for `--wait`, on standard error and only at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from afmfs.cache.status import Status


@contextmanager
def progress(through: int) -> Iterator[Callable[[Status], None]]:
    """Yields what to call with each new status while entries up to `through` are waited for."""
    if not sys.stderr.isatty():
        yield lambda status: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Drawn by hand: a drawing thread would be copied half into the process that asks the mount.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as bars:
        task = bars.add_task("flushPending", total=None)
        most = 1

        def show(status: Status) -> None:
            nonlocal most
            left = min(status.queue_length, max(0, through - status.flushed_through))
            most = max(most, left)
            bars.update(task, total=most, completed=most - left, description=describe(status, left))
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
