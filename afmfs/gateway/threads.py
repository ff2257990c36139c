"""Threads for home calls, where home is slow enough for them to pay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

SLOW = 1e-3
"""Seconds an action has to take. One is about six calls, and a switch of threads costs 150 us: a
local home is served faster by one thread than by several."""

VERY_SLOW = 0.5
"""Seconds for an action from which on a home is waited for longer than others."""

_WEIGHT = 0.1

_A = TypeVar("_A")


class Threads:
    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        self.latency = 0.0  # seconds that an action takes, a moving average
        self._pool: ThreadPoolExecutor | None = None

    def observe(self, seconds: float) -> None:
        seconds = min(seconds, 1.0)  # one large file does not make a slow home
        self.latency += (seconds - self.latency) * _WEIGHT

    def learn(self, seconds: float) -> None:
        """What a probe says of an action's time. Of a home that is very slow, or was, it is taken
        as it is: who waits for home waits for several times as long."""
        if max(seconds, self.latency) < VERY_SLOW:
            self.observe(seconds)
        else:
            self.latency = min(seconds, 5.0)

    @property
    def worthwhile(self) -> bool:
        return self.count > 1 and self.latency > SLOW

    def run(self, work: Callable[[_A], None], items: Sequence[_A]) -> None:
        """Do `work` with each item, in order or side by side; back when all has ended."""
        if len(items) < 2 or not self.worthwhile:
            for item in items:
                work(item)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.count, "home")
        futures = [_submit(self._pool, work, item) for item in items]
        failures = [failure for future in futures if (failure := _end_of(future)) is not None]
        if failures:
            raise failures[0]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ThreadPoolExecutor, work: Callable[[_A], None], item: _A) -> Future[None]:
    """After the end of the pool: one that is cancelled, as are those that it had not begun."""
    try:
        return pool.submit(work, item)
    except RuntimeError:
        future = Future[None]()
        future.cancel()
        return future


def _end_of(future: Future[None]) -> BaseException | None:
    """Back when it has ended, or never will: `wait` misses that the end of the pool cancels it."""
    try:
        return future.exception()
    except CancelledError as cancelled:
        return cancelled
