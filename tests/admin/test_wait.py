from __future__ import annotations

from dataclasses import replace

import pytest

from afmfs.admin.progress import describe
from afmfs.admin.wait import AWAY_SECONDS, verdict, wait
from afmfs.cache.report.status import JobStatus, Status

DIRTY = Status(
    device="fs1",
    fileset="sw1",
    target="/home",
    gateway="gw",
    state="Dirty",
    queue_length=3,
    flushed_through=7,
    last_entry=10,
)
GONE = replace(DIRTY, state="Active", queue_length=0, flushed_through=10)


JOB = JobStatus(id=1, kind="resync", phase="pushing", manual=False, reason="f")


class FakeClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


@pytest.mark.parametrize(
    "status",
    [
        GONE,
        replace(GONE, state="Dirty", queue_length=5),
        replace(GONE, state="Disconnected", queue_length=5),  # newer ones wait for home
    ],
)
def test_over_and_well(status: Status) -> None:
    found = verdict(status, 10, 0)
    assert found is not None
    assert found.ok


@pytest.mark.parametrize(
    "status",
    [
        DIRTY,
        replace(DIRTY, state="Recovery"),
        replace(DIRTY, state="QueueOnly"),
        replace(DIRTY, state="Disconnected"),  # not for long yet
        replace(DIRTY, requeued=1),
        replace(DIRTY, requeued=1, settled_through=9),
        replace(DIRTY, requeued=1, settled_through=10),  # not for long yet
        replace(DIRTY, state="NeedsResync"),  # a resync starts by itself
        replace(GONE, state="Dirty", queue_length=5, job=JOB),
        replace(GONE, state="Dirty", job=replace(JOB, phase="waiting")),  # not for long yet
        replace(GONE, state="FlushOnly"),  # 0 promises that the state is Active
    ],
)
def test_not_over(status: Status) -> None:
    assert verdict(status, 10, 0) is None


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (replace(DIRTY, state="Stopped"), "3 pending, sw1 is Stopped"),
        (
            replace(DIRTY, state="NeedsResync", reason="a changed"),
            "3 pending, sw1 is NeedsResync (a changed)",
        ),
        (replace(DIRTY, state="Unmounted"), "3 pending, sw1 is Unmounted"),
        (replace(DIRTY, requeued=2, settled_through=10), "2 entries were refused by home"),
        (
            replace(GONE, state="Stopped"),
            "nothing of it is pending any more, sw1 is Stopped",
        ),
    ],
)
def test_over_and_not_well(status: Status, text: str) -> None:
    found = verdict(status, 10, AWAY_SECONDS)
    assert found is not None
    assert not found.ok
    assert found.text.startswith(text)


def test_a_wait_ends_when_all_is_gone() -> None:
    clock, shown = FakeClock(), list[int]()
    statuses = iter([DIRTY, replace(DIRTY, queue_length=1), GONE])
    found = wait(
        lambda: next(statuses), 10, None, clock, lambda status: shown.append(status.queue_length)
    )
    assert found.ok
    assert shown == [3, 1]


def test_a_wait_times_out_on_time() -> None:
    clock = FakeClock()
    found = wait(lambda: DIRTY, 10, 2.5, clock)
    assert found.text == "timed out: 3 pending, sw1 is Dirty"
    assert clock.time == pytest.approx(102.5)


def test_a_resync_is_started_where_one_is_needed_and_waited_for() -> None:
    nudges = list[int]()
    inconsistent = replace(DIRTY, state="NeedsResync")
    job = replace(GONE, state="Dirty", queue_length=3, job=JOB)
    statuses = iter([DIRTY, inconsistent, inconsistent, job, job, GONE])
    found = wait(lambda: next(statuses), 10, None, FakeClock(), nudge=lambda: nudges.append(1))
    assert found.ok
    assert len(nudges) == 2


def test_a_resync_that_does_not_start_ends_the_wait() -> None:
    clock = FakeClock()
    assert "NeedsResync" in wait(lambda: replace(DIRTY, state="NeedsResync"), 10, None, clock).text
    assert clock.time - 100 < AWAY_SECONDS + 1
    by_hand = replace(DIRTY, state="NeedsResync", auto_resync=False)
    found = verdict(by_hand, 10, 0)
    assert found is not None
    assert not found.ok


def test_what_a_resync_can_not_settle_ends_the_wait() -> None:
    waiting = replace(GONE, state="Dirty", requeued=1, job=replace(JOB, phase="waiting"))
    assert "refused by home" in wait(lambda: waiting, 10, None, FakeClock()).text


def test_home_may_be_away_for_a_while_and_each_time_anew() -> None:
    clock = FakeClock()
    away = replace(DIRTY, state="Disconnected")

    def flapping() -> Status:
        if clock.time > 120:
            return GONE
        return away if int(clock.time) % 8 else DIRTY

    assert wait(flapping, 10, None, clock).ok


def test_home_that_stays_away_ends_the_wait() -> None:
    clock = FakeClock()
    found = wait(lambda: replace(DIRTY, state="Disconnected", reason="EIO"), 10, None, clock)
    assert found.text == "3 pending, sw1 is Disconnected (EIO)"
    assert AWAY_SECONDS <= clock.time - 100 < AWAY_SECONDS + 1


def test_what_the_gateway_said_before_it_heard_of_the_flush_ends_no_wait() -> None:
    clock = FakeClock()
    stale = replace(DIRTY, requeued=1, settled_through=10)
    statuses = iter([stale, stale, replace(DIRTY, requeued=1), replace(DIRTY, requeued=1), GONE])
    assert wait(lambda: next(statuses), 10, None, clock).ok


def test_what_the_bar_says() -> None:
    status = replace(DIRTY, bytes_pending=2_000_000, seconds_left=4.2, requeued=1)
    assert describe(status, 3) == "3 entries, 2.0 MB left, about 4 s, 1 requeued"
    assert describe(replace(DIRTY, state="Stopped"), 3).startswith("Stopped: 3 entries")
