"""A program that works in a mount and writes down, outside, what it did and what was promised."""

from __future__ import annotations

import errno
import json
import os
import random
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness.mounting import wait_until
from tests.power.history import Do, Found, History, Step

LARGEST = 60_000
ONE_WRITE = 14_000
BLOCK = 4096
SETTLE_SECONDS = 60.0


def calm(dice: random.Random) -> None:
    """The kernel writes nothing back before it has to."""


class Program:
    """`write_back` is what the kernel does with what is not synced."""

    def __init__(
        self,
        point: Path,
        history: History,
        position: Callable[[], int],
        dice: random.Random,
        write_back: Callable[[random.Random], None] = calm,
    ) -> None:
        self.point, self.history, self.position, self.dice = point, history, position, dice
        self.home_restarts = False
        self._care = dice.choice((0.25, 1, 1, 3))  # how often it syncs
        self._write_back = write_back
        self._serial = 0
        self._files = 0

    def found(self, home: Found) -> None:
        """What is there before the first step, at home."""
        for path, data in home.items():
            self._files += data is not None
            what = Do.MKDIR if data is None else Do.MAKE
            step = Step(what, -1, file=self._files, path=path, data=data or b"")
            step.size = len(step.data)
            self.history.done(self.history.add(step), -1)
        self.history.done(self.history.add(Step(Do.SETTLE, -1)), -1)

    def do(self, step: Step, call: Callable[[], object]) -> None:
        step.begun = self.position()
        self.history.add(step)
        call()
        self.history.done(step, self.position())

    # -- what there is ---------------------------------------------------------------------------

    def place(self, path: str) -> str:
        return os.path.join(self.point, path)

    def file(self, path: str) -> int:
        return self.history.now.names[path]

    def size(self, path: str) -> int:
        return self.history.now.sizes[self.file(path)]

    def files(self) -> list[str]:
        return [path for path, file in self.history.now.names.items() if file]

    def directories(self) -> list[str]:
        return ["", *(path for path, file in self.history.now.names.items() if not file)]

    def some_file(self) -> str:
        return self.dice.choice(self.files())

    def new_name(self) -> str:
        self._serial += 1
        return os.path.join(self.dice.choice(self.directories()), f"n{self._serial}")

    # -- single steps ----------------------------------------------------------------------------

    def make(self, path: str) -> None:
        self._files += 1
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        step = Step(Do.MAKE, 0, file=self._files, path=path)
        self.do(step, lambda: os.close(os.open(self.place(path), flags)))

    def write(self, path: str, offset: int, data: bytes, flags: int = 0) -> None:
        """With O_SYNC in `flags` it is durable on return."""

        def call() -> None:
            fd = os.open(self.place(path), os.O_WRONLY | flags)
            try:
                assert os.pwrite(fd, data, offset) == len(data)
            finally:
                os.close(fd)

        self.do(Step(Do.WRITE, 0, file=self.file(path), offset=offset, data=data), call)
        if flags & os.O_SYNC:
            self.do(Step(Do.SYNC, 0, file=self.file(path)), lambda: None)

    def resize(self, path: str, size: int) -> None:
        step = Step(Do.SIZE, 0, file=self.file(path), size=size)
        self.do(step, lambda: os.truncate(self.place(path), size))

    def rename(self, path: str, target: str) -> None:
        step = Step(Do.RENAME, 0, path=path, target=target)
        self.do(step, lambda: os.rename(self.place(path), self.place(target)))

    def link(self, path: str, target: str) -> None:
        step = Step(Do.LINK, 0, path=path, target=target)
        self.do(step, lambda: os.link(self.place(path), self.place(target)))

    def remove(self, path: str) -> None:
        self.do(Step(Do.REMOVE, 0, path=path), lambda: os.unlink(self.place(path)))

    def mkdir(self, path: str) -> None:
        self.do(Step(Do.MKDIR, 0, path=path), lambda: os.mkdir(self.place(path)))

    def sync(self, path: str, call: Callable[[int], None] = os.fsync) -> None:
        """fsync(2) of a file, or of a directory: what was done before has its names."""
        names = self.history.now.names

        def synced() -> None:
            fd = os.open(self.place(path), os.O_RDONLY)
            try:
                call(fd)
            finally:
                os.close(fd)

        self.do(Step(Do.SYNC, 0, file=names.get(path, 0) or -1), synced)

    def settle(self) -> None:
        """Everything is at home, and durable here."""
        self.do(Step(Do.SETTLE, 0), self._flush)

    def _flush(self) -> None:
        self.control("flushPending")
        wait_until(lambda: not self.status()["queue_length"], SETTLE_SECONDS, "all is flushed")

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.control_file("status.json").read_bytes())
        return found

    def control(self, line: str) -> None:
        self.control_file("control").write_text(f"{line}\n")

    def control_file(self, name: str) -> Path:
        return self.point / ".afm" / name

    def read(self, path: str, offset: int, length: int) -> None:
        """What is there is what was written; blocks come from home on the way."""
        fd = os.open(self.place(path), os.O_RDONLY)
        try:
            seen = os.pread(fd, length, offset)
        except OSError as error:
            if error.errno != errno.EIO or not self.home_restarts:
                raise
            return  # not cached, and home is not back yet
        finally:
            os.close(fd)
        expected = self.history.contents[self.file(path)][offset : offset + length]
        assert seen == expected, f"{path} at {offset}: not what was written, and no power was cut"

    def evict(self, path: str) -> None:
        self.control(f"evict --file {shlex.quote(self.place(path))}")

    # -- a life ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Something."""
        ways: list[tuple[float, Callable[[], None]]] = [
            (3, self._make), (4, self._append), (6, self._overwrite), (3, self._resize),
            (2, self._rename), (2, self._replace), (1, self._mkdir), (1, self._rename_directory),
            (1, self._link),
            (2, self._remove), (4, self._read), (2, self._evict), (3, self._pause),
            (2 * self._care, self._overwrite_synced), (3 * self._care, self._sync),
            (3, lambda: self._write_back(self.dice)),
        ]  # fmt: skip
        weights = [weight for weight, _ in ways]
        self.dice.choices([way for _, way in ways], weights)[0]()
        while len(self.files()) > 24:
            self._remove()

    def _data(self) -> bytes:
        return self.dice.randbytes(self.dice.randrange(1, ONE_WRITE))

    def _make(self) -> None:
        path = self.new_name()
        self.make(path)
        if self.dice.random() < 0.9:
            self.write(path, 0, self._data())

    def _append(self) -> None:
        path, data = self.some_file(), self._data()
        if self.size(path) + len(data) < LARGEST:
            self.write(path, self.size(path), data)

    def _overwrite(self, flags: int = 0) -> None:
        path = self.some_file()
        start = self.dice.randrange(self.size(path) + 1)
        if self.dice.random() < 0.5:
            start -= start % BLOCK
        self.write(path, start, self._data(), flags)

    def _overwrite_synced(self) -> None:
        self._overwrite(self.dice.choice((os.O_SYNC, os.O_DSYNC | os.O_SYNC)))

    def _resize(self) -> None:
        path = self.some_file()
        size = self.dice.choice((0, self.dice.randrange(self.size(path) + 1), self.size(path) // 2))
        self.resize(path, size)
        if self.dice.random() < 0.5:  # and grow over what was cut off
            self.resize(path, self.dice.randrange(LARGEST))
        if self.dice.random() < 0.5:
            self.write(path, self.dice.randrange(size + BLOCK), self._data())

    def _rename(self) -> None:
        self.rename(self.some_file(), self.new_name())

    def _link(self) -> None:
        self.link(self.some_file(), self.new_name())

    def _replace(self) -> None:
        """As editors do: a new file, durable, over the old one."""
        path, beside = self.some_file(), self.new_name()
        self.make(beside)
        self.write(beside, 0, self._data())
        if self.dice.random() < 0.6 * self._care:
            self.sync(beside)
        self.rename(beside, path)

    def _mkdir(self) -> None:
        if len(self.directories()) < 8:
            self.mkdir(self.new_name())

    def _rename_directory(self) -> None:
        source = self.dice.choice(self.directories())
        target = self.new_name()
        if source and not f"{target}/".startswith(f"{source}/"):
            self.rename(source, target)

    def _remove(self) -> None:
        if len(self.files()) > 4:
            self.remove(self.some_file())

    def _sync(self) -> None:
        chosen = self.dice.choice((self.some_file(), self.some_file(), self.directories()[-1]))
        self.sync(chosen, self.dice.choice((os.fsync, os.fdatasync)))

    def _read(self) -> None:
        path = self.some_file()
        start = self.dice.randrange(self.size(path) + 1)
        self.read(path, start, self.dice.choice((1, BLOCK, 3 * BLOCK)))

    def _evict(self) -> None:
        try:
            self.evict(self.some_file())
        except OSError:
            pass  # something of it is pending

    def _pause(self) -> None:
        """Replay and durable points catch up, now and then."""
        time.sleep(self.dice.choice((0.001, 0.01, 0.05, 0.2)))
