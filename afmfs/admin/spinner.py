"""A sign of life for work whose length nobody knows, on standard error and only at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def spinner(text: str) -> Iterator[Callable[[], None]]:
    """Yields what to call a few times a second."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # Drawn by hand: a drawing thread would be copied half into the process that asks the mount.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as bars:
        bars.add_task(text, total=None)
        yield bars.refresh
