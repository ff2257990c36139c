from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.model.states import Facts, Link, State, is_trouble, reason, shown

QUIET = Facts(link=Link.UP, touched=True)

TABLE = [
    (QUIET, State.ACTIVE),
    (replace(QUIET, touched=False), State.INACTIVE),
    (replace(QUIET, link=Link.UNKNOWN), State.FLUSH_ONLY),
    (Facts(), State.FLUSH_ONLY),
    (Facts(mounted=False), State.INACTIVE),
    (Facts(mounted=False, pending=3), State.DIRTY),
    (replace(QUIET, pending=1), State.DIRTY),
    (replace(QUIET, link=Link.UNKNOWN, pending=1), State.DIRTY),
    (replace(QUIET, touched=False, pending=1), State.DIRTY),
    (replace(QUIET, resyncing="resync"), State.DIRTY),
    (replace(QUIET, pending=1, needs_resync="a size"), State.NEEDS_RESYNC),
    (replace(QUIET, needs_resync="a size"), State.NEEDS_RESYNC),
    (replace(QUIET, needs_resync="a size", recovering=True), State.RECOVERY),
    (replace(QUIET, link=Link.DISCONNECTED, recovering=True), State.DISCONNECTED),
    (replace(QUIET, link=Link.UNMOUNTED, needs_resync="a size"), State.UNMOUNTED),
    (replace(QUIET, link=Link.UNMOUNTED, planning="resync"), State.QUEUE_ONLY),
    (replace(QUIET, planning="resync", stopped=True), State.STOPPED),
]


@pytest.mark.parametrize(("facts", "state"), TABLE)
def test_shown(facts: Facts, state: State) -> None:
    assert shown(facts) is state


# For each state a fact that calls for it, alone enough to lift any quieter fileset to it.
CALLS = [
    (State.STOPPED, {"stopped": True}),
    (State.QUEUE_ONLY, {"planning": "resync"}),
    (State.UNMOUNTED, {"link": Link.UNMOUNTED}),
    (State.DISCONNECTED, {"link": Link.DISCONNECTED}),
    (State.RECOVERY, {"recovering": True}),
    (State.NEEDS_RESYNC, {"needs_resync": "why"}),
    (State.DIRTY, {"pending": 1}),
    (State.DIRTY, {"resyncing": "failover"}),
    (State.FLUSH_ONLY, {"link": Link.UNKNOWN, "mounted": True}),
]
RANK = {state: n for n, state in enumerate(State)}

facts_ = st.builds(
    Facts,
    mounted=st.booleans(),
    stopped=st.booleans(),
    planning=st.sampled_from(["", "resync", "failover"]),
    link=st.sampled_from(Link),
    link_reason=st.sampled_from(["", "no route to host"]),
    recovering=st.booleans(),
    needs_resync=st.sampled_from(["", "a.txt changed at home"]),
    pending=st.integers(0, 3),
    requeued=st.integers(0, 3),
    resyncing=st.sampled_from(["", "resync", "failover"]),
    touched=st.booleans(),
)


@given(facts_, st.sampled_from(CALLS))
def test_a_fact_calls_for_its_state_and_yields_only_to_higher_ones(
    facts: Facts, call: tuple[State, dict[str, object]]
) -> None:
    state, fact = call
    before, after = shown(facts), shown(replace(facts, **fact))  # type: ignore[arg-type]
    if "link" in fact and before in (State.UNMOUNTED, State.DISCONNECTED):
        return  # the link can say one thing at a time
    assert after is min(before, state, key=RANK.__getitem__)


@given(facts_)
def test_every_state_but_active_has_a_reason(facts: Facts) -> None:
    assert bool(reason(facts)) is (shown(facts) is not State.ACTIVE)


def test_reason_says_how_much_is_pending() -> None:
    assert reason(replace(QUIET, pending=1)) == "1 entry is pending"
    assert reason(replace(QUIET, pending=9, requeued=2)) == (
        "9 entries are pending, 2 of them requeued after an error at home"
    )
    assert reason(replace(QUIET, link=Link.DISCONNECTED, link_reason="EIO")) == "EIO"


def test_reason_says_how_far_a_job_is() -> None:
    job = replace(QUIET, resyncing="failover")
    assert reason(job) == "a failover is running"
    job = replace(job, pending=7, job_left=7, job_total=9)
    assert reason(job) == "a failover is running: 7 of 9 objects are left"
    assert reason(replace(job, pending=8, requeued=2)) == (
        "a failover is running: 7 of 9 objects are left; 1 entry is pending,"
        " 2 of them requeued after an error at home"
    )


def test_the_enumeration_is_the_order_of_precedence() -> None:
    states = " ".join(State)
    assert states == (
        "Stopped QueueOnly Unmounted Disconnected Recovery NeedsResync Dirty"
        " FlushOnly Active Inactive"
    )


def test_reason_says_what_home_refuses_and_what_to_do() -> None:
    refused = replace(QUIET, pending=2, requeued=1, refusal="a/b: No space left; make room")
    assert "a/b: No space left; make room" in reason(refused)
    assert "resumeRequeued" in reason(refused)


def test_reason_says_why_it_takes_long() -> None:
    assert "slow" not in reason(replace(QUIET, pending=1, slow_s=0.1))
    assert "home is slow" in reason(replace(QUIET, pending=1, slow_s=1.0))
    assert "for 12 s" in reason(replace(QUIET, pending=1, stalled_s=12.3))
    assert reason(replace(QUIET, slow_s=1.0, stalled_s=12)) == ""  # there is nothing to do


def test_reason_says_how_a_contradiction_ends() -> None:
    found = replace(QUIET, needs_resync="a/b: is missing")
    assert reason(found).startswith("a/b: is missing; the next request")
    assert reason(replace(found, auto_resync=False)).startswith("a/b: is missing; `resync`")
    waits = replace(found, resyncing="failover", refusal="c: No space left; make room")
    assert reason(waits).endswith(
        "in place of the failover that waits for what home refuses: c: No space left; make room"
    )


def test_trouble_is_what_somebody_should_look_at() -> None:
    for fine in (QUIET, replace(QUIET, pending=3), Facts(), replace(QUIET, stopped=True)):
        assert not is_trouble(fine)
    for bad in (
        replace(QUIET, link=Link.DISCONNECTED),
        replace(QUIET, link=Link.UNMOUNTED),
        replace(QUIET, needs_resync="why"),
        replace(QUIET, pending=1, requeued=1),
        replace(QUIET, pending=1, slow_s=1.0),
        replace(QUIET, disk="is full"),
    ):
        assert is_trouble(bad)
