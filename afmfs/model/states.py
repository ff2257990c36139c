"""The one word that `getstate` shows, derived from small machines and never stored.

What is stored or held is a handful of independent facts: the admin's stop, a plan being written,
the link to home, recovery, the inconsistency found, the queue, and whether anybody came by. The
word follows from them by precedence, so no two of them can ever disagree about it.

The order. From Stopped down to Dirty each word tells of something that keeps changes from home,
the strongest first. The last three tell of a fileset with nothing pending:

FlushOnly   comes before Active and Inactive, as it says that nobody knows yet whether home is
            there. Were Inactive to win, a fresh mount, which nothing has touched by its nature,
            would never show it and would look healthy before home had been seen once.
Active      home was reached, and something has touched the fileset since the mount.
Inactive    home was reached, and nothing has. Active has no condition of its own, it is what
            remains; so "Active before Inactive" can only mean that the first touch makes it Active.

A cache that is not mounted has no gateway to wait for: with nothing pending it is Inactive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any


class State(StrEnum):
    """AFM's words, highest first."""

    STOPPED = "Stopped"
    QUEUE_ONLY = "QueueOnly"
    UNMOUNTED = "Unmounted"
    DISCONNECTED = "Disconnected"
    RECOVERY = "Recovery"
    NEEDS_RESYNC = "NeedsResync"
    DIRTY = "Dirty"
    FLUSH_ONLY = "FlushOnly"
    ACTIVE = "Active"
    INACTIVE = "Inactive"


class Link(Enum):
    """What the gateway last said of home."""

    UNKNOWN = "unknown"  # since the mount it has neither reached home nor failed to
    UP = "up"
    DISCONNECTED = "disconnected"  # an I/O, network or time-out error, from the first probe on
    UNMOUNTED = "unmounted"  # home's path or marker is missing, or another's


AWAY = frozenset({State.UNMOUNTED, State.DISCONNECTED})
"""States in which home can't be asked anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the shown state depends on. Texts are empty where there is nothing to say."""

    mounted: bool = True
    stopped: bool = False  # by the admin, or for a reason; lasts over mounts
    stop_reason: str = ""  # and the way out
    planning: str = ""  # what a plan is being written for: "resync", "failover"
    link: Link = Link.UNKNOWN
    link_reason: str = ""  # why home is away, or what the gateway is doing about an unknown link
    recovering: bool = False  # what was in doubt at the mount is being settled
    needs_resync: str = ""  # the inconsistency that was found
    auto_resync: bool = True  # a resync starts by itself
    pending: int = 0  # entries in both queues
    requeued: int = 0  # of them: refused by home, tried again later
    refusal: str = ""  # what home says to them, and what to do about it
    slow_s: float = 0.0  # what a change at home takes, seconds
    stalled_s: float = 0.0  # for how long a call has not returned, while home answers others
    resyncing: str = ""  # the kind of the job under way: "resync", "failover"
    job_total: int = 0  # rows that its plan has
    job_left: int = 0  # of them: still to do, counted in `pending`
    touched: bool = False  # something but getstate has used the fileset since the mount
    disk: str = ""  # what is wrong with the cache's disk, or how much is cached


SLOW_S = 0.5
"""A home that takes so long for a change is called slow."""


def stop_reason(setting: Callable[..., Any]) -> str:
    """Why a fileset was stopped by something else than the administrator; '' if it was not."""
    why = setting("stopped_reason", "")
    return f"stopped: {why}; `start` lets the queue go on" if why else ""


def shown(facts: Facts) -> State:
    """The state of a fileset. Total: every combination of facts has exactly one."""
    return next((state for state, holds, _ in _RULES if holds(facts)), State.ACTIVE)


def reason(facts: Facts) -> str:
    """A sentence on why `shown(facts)` is what it is; empty where the word says it all. What is
    wrong with the cache's disk has no word of AFM's, and is added."""
    why = next((why(facts) for _, holds, why in _RULES if holds(facts)), "")
    return "; ".join(filter(None, (why, facts.disk)))


def is_trouble(facts: Facts) -> bool:
    """Whether somebody should look: not all is well, or will be by itself in a while."""
    away = shown(facts) in (State.UNMOUNTED, State.DISCONNECTED, State.NEEDS_RESYNC)
    return away or bool(facts.stop_reason or facts.requeued or facts.disk or _pace(facts))


def _dirty(facts: Facts) -> str:
    parts = [_job(facts)] * bool(facts.resyncing)
    pending = facts.pending - facts.job_left
    if pending or not facts.resyncing:
        noun = "entry is" if pending == 1 else "entries are"
        parts.append(f"{pending} {noun} pending")
    text = "; ".join(parts)
    if facts.requeued:
        text += f", {facts.requeued} of them requeued after an error at home"
        if facts.refusal:
            text += (
                f": {facts.refusal}. They are tried again by themselves, after 5 minutes at the"
                " latest; `resumeRequeued` tries them at once"
            )
    return "; ".join(filter(None, (text, _pace(facts))))


def _pace(facts: Facts) -> str:
    """Why it takes so long, where it does."""
    if facts.stalled_s:
        return (
            f"home has not finished one call for {facts.stalled_s:.0f} s, though it answers others:"
            " see whether it is frozen, or its disks overloaded"
        )
    if facts.slow_s >= SLOW_S:
        return "home is slow (half a second and more for a change): see its server and network"
    return ""


def _job(facts: Facts) -> str:
    """How far a resync or failover is."""
    if not facts.mounted:
        return f"a {facts.resyncing} goes on with the next mount"
    if not facts.job_total:
        return f"a {facts.resyncing} is running"
    return f"a {facts.resyncing} is running: {facts.job_left} of {facts.job_total} objects are left"


def _contradiction(facts: Facts) -> str:
    way_out = "`resync` brings home to what the cache has"
    if facts.auto_resync:
        way_out = "the next request that reaches the gateway starts a resync, as does `resync`"
    if facts.resyncing:
        way_out += f", in place of the {facts.resyncing} that waits for what home refuses"
    if facts.resyncing and facts.refusal:
        way_out += f": {facts.refusal}"
    return f"{facts.needs_resync}; {way_out}"


_Rule = tuple[State, Callable[[Facts], bool], Callable[[Facts], str]]

_RULES: tuple[_Rule, ...] = (
    (
        State.STOPPED,
        lambda f: f.stopped,
        lambda f: f.stop_reason or "stopped by the administrator; `start` lets the queue go on",
    ),
    (
        State.QUEUE_ONLY,
        lambda f: bool(f.planning),
        lambda f: f"the plan of a {f.planning} is being written",
    ),
    (
        State.UNMOUNTED,
        lambda f: f.link is Link.UNMOUNTED,
        lambda f: f.link_reason or "home's path or marker is missing",
    ),
    (
        State.DISCONNECTED,
        lambda f: f.link is Link.DISCONNECTED,
        lambda f: f.link_reason or "home does not answer",
    ),
    (
        State.RECOVERY,
        lambda f: f.recovering,
        lambda f: "what was under way when the last mount ended is being settled",
    ),
    (State.NEEDS_RESYNC, lambda f: bool(f.needs_resync), _contradiction),
    (State.DIRTY, lambda f: bool(f.pending or f.resyncing), _dirty),
    (
        State.FLUSH_ONLY,
        lambda f: f.mounted and f.link is Link.UNKNOWN,
        lambda f: f.link_reason or "the gateway has not reached home since the mount",
    ),
    (
        State.INACTIVE,
        lambda f: not f.touched,
        lambda f: (
            "nothing has used it since the mount" if f.mounted else "the cache is not mounted"
        ),
    ),
)
"""Highest first; what none of them claims is Active."""
