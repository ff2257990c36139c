"""A program that works on what is cached, and times each call."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class Worker:
    """Runs in a thread from `with` on; `slowest` is what to look at afterwards."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.slowest: tuple[float, str] = (0.0, "nothing")
        self.done = 0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker")
        self._dice = random.Random(9)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the worker hangs"
        if error is None and self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            for number in range(1 << 30):
                if self._stop.is_set():
                    return
                self._turn(number)
                time.sleep(0.005)  # leaves the processor to the others
        except BaseException as error:
            self.error = error

    def _turn(self, number: int) -> None:
        directory = self.root / self._dice.choice(["one", "two", "three"])
        new = directory / f"new{number}"
        self._timed("create", lambda: self._put(new, os.O_CREAT | os.O_EXCL, 0))
        self._timed("read", new.read_bytes)
        old = directory / f"old{self._dice.randrange(10)}"
        offset = self._dice.randrange(200_000)
        self._timed("write", lambda: self._put(old, 0, offset))
        self._timed("list", lambda: os.listdir(directory))
        renamed = directory / f"kept{number % 20}"
        self._timed("rename", lambda: os.rename(new, renamed))
        if number % 5 == 0:
            self._timed("truncate", lambda: os.truncate(old, self._dice.randrange(300_000)))
        if number % 7 == 0:
            self._timed("unlink", lambda: os.unlink(renamed))
        if number % 20 == 0:
            self._timed("fsync", lambda: self._sync(old))

    def _put(self, path: Path, flags: int, offset: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | flags)
        try:
            os.pwrite(descriptor, self._dice.randbytes(5000), offset)
        finally:
            os.close(descriptor)

    def _sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _timed(self, what: str, call: Callable[[], object]) -> None:
        start = time.monotonic()
        call()
        self.slowest = max(self.slowest, (time.monotonic() - start, what))
        self.done += 1
