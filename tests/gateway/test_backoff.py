"""When what home refused is tried again."""

from __future__ import annotations

from afmfs.gateway.replay.backoff import BACK_OFF_S, MOST_BACK_OFF_S, pause_ns

NS = 10**9


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [pause_ns(tries) for tries in range(1, 12)]
    assert pauses[0] == BACK_OFF_S * NS
    assert pauses[-1] == pause_ns(10_000) == MOST_BACK_OFF_S * NS
    growing = [pause for pause in pauses if pause < MOST_BACK_OFF_S * NS]
    assert growing == [growing[0] << n for n in range(len(growing))]
    assert len(growing) > 5
