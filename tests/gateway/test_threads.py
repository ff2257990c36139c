"""Threads for home calls that end while they are at work."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from afmfs.gateway.threads import Threads


@pytest.fixture
def threads() -> Threads:
    found = Threads(2)
    found.learn(1.0)
    assert found.worthwhile
    return found


def test_all_has_ended_when_one_fails(threads: Threads) -> None:
    done, first = [], threading.Event()

    def work(item: int) -> None:
        if item == 0:
            first.set()
            raise OSError("the first")
        first.wait(10)
        done.append(item)

    with pytest.raises(OSError, match="the first"):
        threads.run(work, range(5))
    assert sorted(done) == [1, 2, 3, 4]
    threads.close()


def test_what_waits_for_its_turn_when_they_end(threads: Threads) -> None:
    """It is not done any more, and who waits for it is told."""
    done: list[int] = []
    both, go_on = threading.Barrier(3), threading.Event()
    ended: list[bool] = []

    def work(item: int) -> None:
        both.wait(10)
        go_on.wait(10)
        done.append(item)

    def run() -> None:
        with pytest.raises(CancelledError):
            threads.run(work, range(3))
        ended.append(True)

    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    both.wait(10)
    threads.close()
    go_on.set()
    runner.join(10)
    assert ended and sorted(done) == [0, 1]


def test_what_comes_after_their_end(threads: Threads) -> None:
    """As what waited for its turn then."""
    threads.run(lambda _: None, range(2))
    threads.close()
    with pytest.raises(CancelledError):
        threads.run(lambda _: None, range(2))
