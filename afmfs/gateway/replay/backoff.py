"""When what home refuses is tried again: after pauses that double."""

from __future__ import annotations

BACK_OFF_S = 1.0
MOST_BACK_OFF_S = 300.0
"""The first pause, and the longest."""

_NS = 10**9
MOST_NS = int(MOST_BACK_OFF_S * _NS)


def pause_ns(tries: int) -> int:
    """How long to wait after so many attempts."""
    return int(min(BACK_OFF_S * 2 ** min(tries - 1, 20), MOST_BACK_OFF_S) * _NS)


def is_early(next_try_ns: int, now_ns: int) -> bool:
    """Whether the time of the next attempt is yet to come. One that is further away than any pause
    was set by a clock that has been set back since: it would not come for days."""
    return now_ns < next_try_ns <= now_ns + MOST_NS
