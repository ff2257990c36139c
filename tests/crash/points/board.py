"""Memory that the test shares with both processes, and that outlives them: which crash points were
reached how often, which one kills, and who died where.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import NoReturn

from tests.crash.points.names import OF_MOUNT, POINTS

_INDEX = {name: number for number, name in enumerate(POINTS)}
_HEAD = 4  # words before the tables: pids of mount and gateway, whether both die
_BOTH = 2
_SIZE = 8 * (_HEAD + 3 * len(POINTS))


class Board:
    """Words of 8 bytes. One process writes each of them at a time."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        words = memoryview(self._memory).cast("Q")
        self._head, tables = words[:_HEAD], words[_HEAD:]
        size = len(POINTS)
        self._reached, self._armed = tables[:size], tables[size : 2 * size]
        self._deaths = tables[2 * size :]
        self._lock = threading.Lock()
        self._views = [self._reached, self._armed, self._deaths, tables, self._head, words]

    @classmethod
    def create(cls, path: Path) -> Board:
        path.write_bytes(bytes(_SIZE))
        return cls(path)

    def close(self) -> None:
        for view in self._views:
            view.release()
        self._memory.close()

    # --- the test's side

    def arm(self, point: str, nth: int, *, both: bool) -> None:
        """The n-th time from now on that the point is reached is the process's end."""
        self._head[_BOTH] = both
        self._armed[_INDEX[point]] = nth

    def disarm(self) -> None:
        for number in range(len(POINTS)):
            self._armed[number] = 0

    def reached(self) -> Counter[str]:
        return Counter({name: self._reached[number] for name, number in _INDEX.items()})

    def deaths(self) -> Counter[str]:
        return Counter({name: self._deaths[number] for name, number in _INDEX.items()})

    def pid(self, role: str) -> int:
        return int(self._head[role == "gateway"])

    # --- the processes' side

    def enlist(self, role: str) -> None:
        self._head[role == "gateway"] = os.getpid()

    def reach(self, point: str) -> None:
        number = _INDEX[point]
        with self._lock:
            self._reached[number] += 1
            left = self._armed[number]
            if left == 1:
                self._die(point)
            if left:
                self._armed[number] = left - 1

    def fires(self, point: str) -> bool:
        """As `reach`, but the caller is to do half of something before it dies by `die`."""
        number = _INDEX[point]
        with self._lock:
            self._reached[number] += 1
            left = self._armed[number]
            if left > 1:
                self._armed[number] = left - 1
            return left == 1

    def die(self, point: str) -> NoReturn:
        with self._lock:
            self._die(point)

    def _die(self, point: str) -> NoReturn:
        number = _INDEX[point]
        self._armed[number] = 0
        self._deaths[number] += 1
        if self._head[_BOTH]:
            self._kill_other(self.pid("gateway" if point in OF_MOUNT else "mount"))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")

    def _kill_other(self, pid: int) -> None:
        """The other process, unless its number is somebody else's by now: it has this board."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if pid and os.fsencode(os.environ[VARIABLE]) in environment:
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended by itself


VARIABLE = "AFMFS_CRASH_BOARD"
"""Names the board in the environment of the processes."""
