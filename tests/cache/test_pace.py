"""The pace of a replay, and what it promises."""

from __future__ import annotations

import pytest

from afmfs.cache.job.pace import WINDOW_S, Pace


def test_nothing_moves_at_first() -> None:
    pace = Pace()
    assert pace.rates(5.0) == (0.0, 0.0)
    assert pace.seconds_left(5.0, 100) is None


def test_rates_are_of_the_last_seconds() -> None:
    pace = Pace()
    pace.note(0.0, 0, 0)
    pace.note(4.0, 200, 4000)
    assert pace.rates(4.0) == (50.0, 1000.0)
    assert pace.seconds_left(4.0, 100) == pytest.approx(2.0)
    assert pace.rates(4.0 + WINDOW_S + 1) == (0.0, 0.0)


def test_an_empty_queue_takes_no_time() -> None:
    pace = Pace()
    pace.note(0.0, 0, 0)
    pace.note(1.0, 10, 10)
    assert pace.seconds_left(1.0, 0) is None
