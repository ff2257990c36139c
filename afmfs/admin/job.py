"""Waiting for a resync, failover or recovery, and what is said of it when it has ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.filesize import decimal

from afmfs.admin.access import Access
from afmfs.admin.find import Mount, read_status
from afmfs.admin.flush import Limit
from afmfs.admin.progress import job_progress
from afmfs.admin.request import Failure
from afmfs.admin.wait import AWAY_SECONDS, SETTLED_SECONDS, Verdict, pauses
from afmfs.cache.report.status import Status
from afmfs.model.states import AWAY, State

_ENDS = ("afmManualResyncComplete", "afmRecoveryEnd", "afmRecoveryFail")
"""Events of a job's end."""


def verdict(status: Status, job: int, stuck_seconds: float, patience: float) -> Verdict | None:
    """Whether the wait for a job is over; None if it isn't.

    `stuck_seconds`: for how long `stuck` has been true; `patience`: how long home may be away.
    """
    if status.job is None or status.job.id != job:
        return Verdict(True)
    why = f" ({status.reason})" if status.reason else ""
    if status.state == State.STOPPED:
        return Verdict(False, f"{status.fileset} is {status.state}{why}")
    if status.state in AWAY and stuck_seconds >= patience:
        return Verdict(
            False, f"{status.fileset} is {status.state}{why}; it goes on by itself later"
        )
    if status.job.phase == "waiting" and stuck_seconds >= SETTLED_SECONDS:
        return Verdict(False, _refused(status))
    return None


def stuck(status: Status) -> bool:
    """Whether nothing of the job goes at this moment, which may pass by itself."""
    waits = status.job is not None and status.job.phase == "waiting"
    return waits or status.state in AWAY


def _refused(status: Status) -> str:
    assert status.job is not None
    noun = "object was" if status.job.requeued == 1 else "objects were"
    return (
        f"{status.job.requeued} {noun} refused by home and requeued; `queue` lists them,"
        " `resumeRequeued` tries them again"
    )


def wait(
    read: Callable[[], Status], job: int, limit: Limit, show: Callable[[Status], None]
) -> Verdict:
    """Wait for the end of a job. `read` gives the newest status; what it raises ends the wait."""
    patience = AWAY_SECONDS if limit.seconds is None else limit.seconds
    stuck_since: float | None = None
    for pause in pauses():
        status, now = read(), limit.clock.now()
        stuck_since = (now if stuck_since is None else stuck_since) if stuck(status) else None
        found = verdict(status, job, 0.0 if stuck_since is None else now - stuck_since, patience)
        if found is not None:
            return found
        show(status)
        left = limit.left
        if left == 0:
            return Verdict(
                False, f"timed out: {status.fileset} is {status.state} ({status.reason})"
            )
        limit.clock.sleep(pause if left is None else min(pause, left))
    raise AssertionError("pauses never end")


def await_end(name: str, job: int, mount: Mount, access: Access, limit: Limit) -> None:
    """Wait for the end of a job. Failure, in the name of the command, if it does not end."""
    with job_progress(name) as show:
        found = wait(lambda: read_status(mount, access), job, limit, show)
    if not found.ok:
        raise Failure(f"{name}: {found.text}")


def wait_for(name: str, job: int, mount: Mount, access: Access, limit: Limit) -> dict[str, Any]:
    """Wait for the end of a job that the command `name` has started; the event of its end.

    Failure if it doesn't end, or did not settle everything.
    """
    await_end(name, job, mount, access, limit)
    status = read_status(mount, access)
    if status.state == State.NEEDS_RESYNC:
        raise Failure(
            f"{name}: it is done, but home was changed meanwhile ({status.reason}): `resync` again"
        )
    events = [json.loads(line) for line in access.read(mount.path("events")).splitlines()]
    for event in reversed(events):
        if event.get("job") == job and event["name"] in _ENDS:
            return dict(event)
    raise Failure(f"{name}: it was given up for another job; `events` tells")


def render_summary(event: dict[str, Any]) -> str:
    """The figures of a job's end, as far as they say anything, a sentence."""
    parts = [_counted(event, "files", "object", "pushed", "bytes")]
    for figure, noun, done, size in (
        ("aside", "entry", "moved aside into home's trash", ""),
        ("nulled", "file", "with null bytes at home", "nulled_bytes"),
        ("adopted", "file", "taken over as home has them", ""),
        ("lost", "file", "neither here nor at home (`verify` lists them)", ""),
    ):
        if event.get(figure):
            parts.append(_counted(event, figure, noun, done, size))
    return ", ".join(parts) + "\n"


def _counted(figures: dict[str, Any], figure: str, noun: str, done: str, size: str) -> str:
    count = int(figures.get(figure, 0))
    return f"{counted(count, noun)} {done}" + (f" ({decimal(figures.get(size, 0))})" * bool(size))


def counted(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"
