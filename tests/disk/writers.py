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

KILLED = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
"""What a program hears of a mount that was killed under it."""


class Killed(Exception):
    """Nobody knows what became of the last operation."""


class Writer:
    """`allowed`: the errors that it may meet."""

    def __init__(self, place: Path, seed: int, allowed: frozenset[int]) -> None:
        self.place, self.allowed = place, allowed
        self.doubtful: set[str] = set()  # names that were at work when the mount was killed
        self.files: dict[str, bytearray] = {}
        self.met: Counter[int] = Counter()  # errors, 0: none
        self.trouble: BaseException | None = None
        self._random = random.Random(seed)
        self._made = 0
        self._at_work: set[str] = set()
        self._cut_short: set[str] = set()  # by the last write: what it asked for may follow
        place.mkdir(exist_ok=True)

    def work(self, ended: threading.Event) -> None:
        try:
            while not ended.is_set():
                self.step()
        except Killed:
            self.doubtful |= self._at_work | self._cut_short
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
            if exc.errno in KILLED and self.allowed >= KILLED:
                raise Killed from exc
            if exc.errno not in self.allowed:
                raise
            self.met[exc.errno or 0] += 1
        self._at_work = set()

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice((10, 5000, LARGEST)))

    def _some(self) -> str:
        name = self._random.choice(list(self.files))
        self._at_work.add(name)
        return name

    def _new(self) -> str:
        self._made += 1
        self._at_work.add(f"{self._made}")
        return f"{self._made}"

    def _make(self) -> None:
        name = self._new()
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
            self._cut_short = {name} if count < len(data) else set()
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
        name, to = self._some(), self._new()
        os.rename(self.place / name, self.place / to)
        self.files[to] = self.files.pop(name)

    def _remove(self) -> None:
        name = self._some()
        os.unlink(self.place / name)
        del self.files[name]

    def settle(self) -> None:
        """After a kill: what was at work may be done, or not, or in part."""
        for name in self.doubtful:
            self.files.pop(name, None)
            if (self.place / name).exists():
                self.files[name] = bytearray((self.place / name).read_bytes())
        self.doubtful = set()

    def check(self, place: Path) -> None:
        """What was acknowledged is there, and nothing else."""
        assert set(os.listdir(place)) == set(self.files)
        for name, content in self.files.items():
            found = (place / name).read_bytes()
            assert found == content, f"{place / name}: {difference(found, content)}"


def difference(found: bytes, content: bytes) -> str:
    """Where it begins, and what is there."""
    same = next((n for n, (a, b) in enumerate(zip(found, content, strict=False)) if a != b), None)
    if same is None:
        return f"{len(found)} bytes in place of {len(content)}"
    zeros = len(found[same:]) - len(found[same:].lstrip(b"\0"))
    return f"of {len(found)} and {len(content)} bytes, another at {same}; {zeros} zeros there"


NO_ROOM = frozenset({errno.ENOSPC})


def make_writers(point: Path, *, seed: int = 1, allowed: frozenset[int] = NO_ROOM) -> list[Writer]:
    return [Writer(point / f"w{number}", seed + number, allowed) for number in range(3)]


@contextmanager
def at_work(found: list[Writer]) -> Iterator[None]:
    """They work inside the block. Any other error than those that they may meet fails it."""
    ended = threading.Event()
    threads = [threading.Thread(target=one.work, args=(ended,)) for one in found]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    for one in found:
        if one.trouble is not None:
            raise one.trouble
