"""How fast the queue goes down, over the last seconds."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0


class Pace:
    """Samples of (seconds, entries, bytes) that only grow; times are monotonic."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def note(self, now_s: float, entries: int, data: int) -> None:
        """So much had been retired at `now_s`."""
        self._samples.append((now_s, entries, data))
        while self._samples[0][0] < now_s - WINDOW_S:
            self._samples.popleft()

    def rates(self, now_s: float) -> tuple[float, float]:
        """Entries and bytes a second over the window; zeros where nothing moves."""
        recent = [one for one in self._samples if one[0] >= now_s - WINDOW_S]
        if len(recent) < 2:
            return 0.0, 0.0
        (begin, entries, data), (_, last_entries, last_data) = recent[0], recent[-1]
        elapsed = max(now_s - begin, 0.001)
        return (last_entries - entries) / elapsed, (last_data - data) / elapsed

    def seconds_left(self, now_s: float, entries: int) -> float | None:
        """Until `entries` more are retired at this pace; None while nothing moves."""
        rate = self.rates(now_s)[0]
        return round(entries / rate, 1) if rate and entries else None
