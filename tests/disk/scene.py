"""Files of random bytes as they were acknowledged, and a home that goes and comes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounting import Mount, wait_until


class Files:
    """Files of random bytes, as they were acknowledged."""

    def __init__(self, mount: Mount, size: int, name: str = "f") -> None:
        self.mount, self.size, self.name = mount, size, name
        self.written: dict[str, bytes] = {}

    def write(self, count: int) -> None:
        """So many more. One that fails is removed."""
        for _ in range(count):
            name, data = f"{self.name}{len(self.written)}", os.urandom(self.size)
            path = self.mount.point / name
            try:
                path.write_bytes(data)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            self.written[name] = data

    def rewrite(self, name: str) -> None:
        """Something else in the place of all of it."""
        data = os.urandom(self.size)
        with (self.mount.point / name).open("r+b") as file:
            file.write(data)
        self.written[name] = data

    def sync(self) -> None:
        """Each is on stable storage."""
        for name in self.written:
            fd = os.open(self.mount.point / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def until_full(self, most: int = 5000) -> int:
        """As many as are taken; the errno that came then."""
        with pytest.raises(OSError) as caught:
            self.write(most)
        return caught.value.errno or 0

    def check(self, root: Path) -> None:
        for name, data in self.written.items():
            assert (root / name).read_bytes() == data, name


def read_anew(path: Path) -> bytes:
    """As `read_bytes`, and not what the kernel remembers."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def taken(call: Callable[[int], None]) -> int:
    """How often it could be done until there was no room."""
    for number in range(200_000):
        try:
            call(number)
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            return number
    raise AssertionError("there is always room")


def say(mount: Mount, command: str) -> None:
    """A control command, without a process for it."""
    (mount.point / ".afm/control").write_text(command)


def flush(mount: Mount) -> None:
    """Everything queued so far is at home when this returns."""
    say(mount, "flushPending")
    wait_until(lambda: not mount.status()["queue_length"], 60, "all is at home")


def away(home: Path, mount: Mount) -> None:
    """Home is taken away; what was listed before stays to be worked with."""
    os.listdir(mount.point)  # what was never looked into needs home
    home.rename(home.with_name("away"))
    (mount.point / "notice").touch()
    say(mount, "flushPending")  # it is missed at once
    mount.await_state("Unmounted")


def back(home: Path, mount: Mount, *states: str) -> None:
    home.with_name("away").rename(home)
    mount.await_state(*(states or ("Active", "Dirty", "Inactive")))
