"""Waiting until what is pending has gone, or can't.

The wait is done by asking again and again, as a process that waits inside a request to the mount
could not be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from afmfs.cache.report.status import Status, requeued_text
from afmfs.model.states import AWAY, State

AWAY_SECONDS = 10.0
"""How long home may be away before waiting for it is given up: the longest time between two probes.
A home that has just come back is not given up before the gateway has looked."""

SETTLED_SECONDS = 0.5
"""How long "only requeued entries are left" has to hold: what the gateway said before it heard of a
flush or a `resumeRequeued` may still be under way."""

_PASSING = AWAY | {State.NEEDS_RESYNC}
"""States that pass by themselves, as a rule: a resync starts with the next request."""

_FIRST_PAUSE, _GROWTH, _LONGEST_PAUSE = 0.02, 1.3, 0.2


class Clock(Protocol):
    def now(self) -> float: ...  # seconds, monotonic
    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a wait ended; `text` says why where that is not well."""

    ok: bool
    text: str = ""


def verdict(status: Status, through: int, stuck_seconds: float) -> Verdict | None:
    """Whether the wait for the entries up to `through` is over; None if it isn't.

    `stuck_seconds`: for how long `stuck` has been true.
    """
    gone = status.flushed_through >= through and status.job is None
    if gone and (status.queue_length or status.state in (State.ACTIVE, State.INACTIVE)):
        return Verdict(True)
    if status.state == State.STOPPED or (
        status.state == State.NEEDS_RESYNC and not status.auto_resync
    ):
        return Verdict(False, _why(status, through))
    if status.state in _PASSING:
        return Verdict(False, _why(status, through)) if stuck_seconds >= AWAY_SECONDS else None
    if stuck(status, through) and stuck_seconds >= SETTLED_SECONDS:
        return Verdict(False, requeued_text(status))
    return None


def stuck(status: Status, through: int) -> bool:
    """Whether nothing up to `through` goes at this moment, which may pass by itself."""
    if status.state in _PASSING:
        return True
    gone = status.flushed_through >= through
    if gone and status.job is not None:
        return status.job.phase == "waiting"
    return not gone and status.requeued > 0 and status.settled_through >= through


def _why(status: Status, through: int) -> str:
    left = f"{status.queue_length} pending"
    if status.flushed_through >= through:
        left = "nothing of it is pending any more"
    reason = f" ({status.reason})" if status.reason else ""
    return f"{left}, {status.fileset} is {status.state}{reason}"


def wait(
    read: Callable[[], Status],
    through: int,
    timeout: float | None,
    clock: Clock,
    show: Callable[[Status], None] = lambda status: None,
    nudge: Callable[[], None] = lambda: None,
) -> Verdict:
    """Wait for the entries up to `through`, and for a resync that is under way.

    `read` gives the newest status; what it raises ends the wait. Where a resync is needed `nudge`
    is called: waiting is no request, so nothing else would start it.
    """
    started = clock.now()
    stuck_since: float | None = None
    for pause in pauses():
        status, now = read(), clock.now()
        if not stuck(status, through):
            stuck_since = None
        elif stuck_since is None:
            stuck_since = now
        found = verdict(status, through, 0.0 if stuck_since is None else now - stuck_since)
        if found is not None:
            return found
        if status.state == State.NEEDS_RESYNC:
            nudge()
        show(status)
        left = float("inf") if timeout is None else started + timeout - now
        if left <= 0:
            return Verdict(False, f"timed out: {_why(status, through)}")
        clock.sleep(min(pause, left))
    raise AssertionError("pauses never end")


def pauses() -> Iterator[float]:
    """Seconds between two questions."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
