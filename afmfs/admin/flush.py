"""`flushPending --wait`."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Limit:
    """The time that a command may take; None: for ever."""

    seconds: float | None
    clock: Clock
    started: float

    @classmethod
    def of(cls, seconds: float | None) -> Limit:
        clock = Clock()
        return cls(seconds, clock, clock.now())

    @property
    def left(self) -> float | None:
        if self.seconds is None:
            return None
        return max(0.0, self.seconds - (self.clock.now() - self.started))


def flush_and_wait(request: Request, mount: Mount, access: Access, limit: Limit) -> str:
    """Flush, and wait for the end of it: the reply to the command. Failure says what is left."""
    patience = AWAY_SECONDS if limit.left is None else min(AWAY_SECONDS, limit.left)

    def ask() -> str:
        return control(request, mount, access)

    def nudge() -> None:
        with suppress(Refusal):  # it is another state's by now, as the next look will tell
            ask()

    text = _flush(ask, patience, limit.clock)
    through = int(text.rstrip().rpartition(" ")[2])
    with progress(through) as show:
        found = wait(
            lambda: read_status(mount, access), through, limit.left, limit.clock, show, nudge
        )
    if not found.ok:
        raise Failure(f"flushPending: {found.text}")
    return text


def flush_command(request: Request, mount: Mount, access: Access) -> None:
    emit(flush_and_wait(request, mount, access, Limit.of(request.timeout)))


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
