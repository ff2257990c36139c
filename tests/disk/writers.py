"""Threads that work in a mount without rest, and know what was acknowledged.

Each has a directory of its own and does there, at random, what programs do. What fails is believed
to have changed nothing, so what a writer knows is what has to be there.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LARGEST = 200_000


class Writer:
    """`allowed`: the errors that it may meet."""

    def __init__(self, place: Path, seed: int, allowed: frozenset[int]) -> None:
        self.place, self.allowed = place, allowed
        self.files: dict[str, bytearray] = {}
        self.met: Counter[int] = Counter()  # errors, 0: none
        self.trouble: BaseException | None = None
        self._random = random.Random(seed)
        self._made = 0
        place.mkdir()

    def work(self, ended: threading.Event) -> None:
        try:
            while not ended.is_set():
                self.step()
        except BaseException as exc:  # told by whoever started the thread
            self.trouble = exc

    def step(self) -> None:
        """One operation."""
        acts: list[Callable[[], None]] = [self._make, self._make]
        if self.files:
            acts += [self._append, self._overwrite, self._overwrite, self._truncate, self._rename]
            acts += [self._remove] * (1 + (len(self.files) > 30) * 4)
        try:
            self._random.choice(acts)()
            self.met[0] += 1
        except OSError as exc:
            if exc.errno not in self.allowed:
                raise
            self.met[exc.errno or 0] += 1

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice((10, 5000, LARGEST)))

    def _some(self) -> str:
        return self._random.choice(list(self.files))

    def _make(self) -> None:
        name = f"{self._made}"
        self._made += 1
        os.close(os.open(self.place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        self.files[name] = bytearray()
        self._put(name, 0)

    def _append(self) -> None:
        name = self._some()
        if len(self.files[name]) < 2 * LARGEST:
            self._put(name, len(self.files[name]))

    def _overwrite(self) -> None:
        name = self._some()
        self._put(name, self._random.randrange(len(self.files[name]) + 1))

    def _put(self, name: str, offset: int) -> None:
        """A write that is cut short has written so much."""
        data, content = self._bytes(), self.files[name]
        fd = os.open(self.place / name, os.O_WRONLY)
        try:
            count = os.pwrite(fd, data, offset)
            content[offset : offset + count] = data[:count]
        finally:
            os.close(fd)

    def _truncate(self) -> None:
        name = self._some()
        content = self.files[name]
        size = self._random.choice((0, len(content) // 2, len(content) + 5000))
        os.truncate(self.place / name, size)
        content[size:] = b""
        content.extend(bytes(size - len(content)))

    def _rename(self) -> None:
        name, to = self._some(), f"{self._made}"
        self._made += 1
        os.rename(self.place / name, self.place / to)
        self.files[to] = self.files.pop(name)

    def _remove(self) -> None:
        name = self._some()
        os.unlink(self.place / name)
        del self.files[name]

    def check(self, place: Path) -> None:
        """What was acknowledged is there, and nothing else."""
        assert set(os.listdir(place)) == set(self.files)
        for name, content in self.files.items():
            assert (place / name).read_bytes() == content, name


@contextmanager
def writers(
    point: Path,
    count: int = 3,
    *,
    seed: int = 1,
    allowed: frozenset[int] = frozenset({errno.ENOSPC}),
) -> Iterator[list[Writer]]:
    """Writers that work inside the block. Any other error than those `allowed` fails it."""
    ended = threading.Event()
    found = [Writer(point / f"w{number}", seed + number, allowed) for number in range(count)]
    threads = [threading.Thread(target=one.work, args=(ended,)) for one in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    for one in found:
        if one.trouble is not None:
            raise one.trouble
