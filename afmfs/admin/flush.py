"""`flushPending --wait`."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from afmfs.admin.access import Access
from afmfs.admin.find import Mount, read_status
from afmfs.admin.progress import progress
from afmfs.admin.request import Failure, Refusal, Request, control, emit
from afmfs.admin.wait import AWAY_SECONDS, pauses, wait


class Clock:
    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def flush_and_wait(request: Request, mount: Mount, access: Access) -> None:
    clock = Clock()
    started = clock.now()
    patience = min(AWAY_SECONDS, AWAY_SECONDS if request.timeout is None else request.timeout)
    text = _flush(lambda: control(request, mount, access), patience, clock)
    through = int(text.rstrip().rpartition(" ")[2])
    left = None if request.timeout is None else max(0.0, request.timeout - (clock.now() - started))
    with progress(through) as show:
        found = wait(lambda: read_status(mount, access), through, left, clock, show)
    if not found.ok:
        raise Failure(f"flushPending: {found.text}")
    emit(text)


def _flush(ask: Callable[[], str], patience: float, clock: Clock) -> str:
    """Ask for the flush; while home is away ask again, as it may have just come back."""
    started = clock.now()
    for pause in pauses():
        try:
            return ask()
        except Refusal as refusal:
            left = started + patience - clock.now()
            if refusal.errno != errno.EHOSTDOWN or left <= 0:
                raise
            clock.sleep(min(pause, left))
    raise AssertionError("pauses never end")
