"""Disks whose power can be cut: ext4 on loop devices over the recorder. Takes root and FUSE.

The recorder is a process of its own and waits for nothing; a watchdog aborts its connection, so
that whatever waits for these disks gets errors instead. A loop device goes with its mount.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.mounting import REPOSITORY, Watchdog, force_unmount, mounted_at, wait_until
from tests.power.cuts import Log
from tests.power.recorder import RECORD

SIZE = 96 << 20
MEMORY = "2G"
"""Most that all images of a life may take; they are sparse."""
START_SECONDS = 20.0
OPTIONS = "noatime,errors=remount-ro,noinit_itable"


class Disks:
    """Recorded disks, by number. What is mounted lies at `point(disk)`."""

    def __init__(self, base: Path, watch: float) -> None:
        self.directory, self._fuse = base / "images", base / "recorder"
        self._base, self._watch = base, watch
        self.directory.mkdir(parents=True)
        self._fuse.mkdir()
        self._index = self.directory / "index"
        self._count = 0
        self._points: list[Path] = []

    def __getstate__(self) -> dict[str, object]:
        """What is on them can be looked at later (`again`)."""
        return {"directory": self.directory}

    def __enter__(self) -> Disks:
        # In memory: what these disks flush, no real one has to.
        _said("mount", "-t", "tmpfs", "-o", f"size={MEMORY}", "images", self.directory)
        words = [str(self._fuse), str(self.directory)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.power.recorder", *words], cwd=REPOSITORY
        )
        wait_until(lambda: mounted_at(self._fuse), START_SECONDS, "the recorder serves")
        entry = mounted_at(self._fuse)
        assert entry is not None
        self._dog = Watchdog(entry, self._watch, self._base / "power-watchdog")
        return self

    def __exit__(self, *exc: object) -> None:
        for point in self._points:
            detach(point)
        force_unmount(self._fuse)
        fired = self._dog.call_off()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            detach(self.directory)
        assert not fired, "the disks stopped answering and had to be aborted"

    @property
    def position(self) -> int:
        """How much has been asked of all disks."""
        return os.stat(self._index).st_size // RECORD.size

    def log(self) -> Log:
        return Log(self.directory)

    def base(self, disk: int) -> Path:
        """A disk's image as it was before anything was recorded of it."""
        return self.directory / f"{disk}.base"

    def add(self, image: Path) -> int:
        """A disk that starts as a copy of an image."""
        disk, self._count = self._count, self._count + 1
        subprocess.run(["cp", "--sparse=always", image, self.directory / str(disk)], check=True)
        image.rename(self.base(disk))
        return disk

    def attach(self, disk: int, point: Path, *options: str) -> None:
        point.mkdir(parents=True, exist_ok=True)
        loop = _said("losetup", "--find", "--show", "--direct-io=on", self._fuse / str(disk))
        try:
            _said("mount", "-t", "ext4", "-o", ",".join([OPTIONS, *options]), loop, point)
        finally:
            _said("losetup", "-d", loop)  # once it is unmounted
        self._points.append(point)

    def detach_busy(self, point: Path) -> None:
        """As a server whose clients know nothing of it."""
        _said("umount", "-l", point)


def blank(image: Path, fill: Path | None = None) -> Path:
    """An image with an ext4 that holds a copy of a tree."""
    image.parent.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(SIZE)
    words = ["-q", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=1,nodiscard"]
    if fill is not None:
        words += ["-d", str(fill)]
    _said("mkfs.ext4", *words, image)
    return image


@contextmanager
def powered(image: Path, point: Path) -> Iterator[Path]:
    """The disk after the power came back: its journal is replayed."""
    point.mkdir(parents=True, exist_ok=True)
    _said("mount", "-t", "ext4", "-o", f"loop,{OPTIONS}", image, point)
    try:
        yield point
    finally:
        detach(point)


def detach(point: Path) -> None:
    if mounted_at(point) is not None:
        run = subprocess.run(["umount", point], check=False, capture_output=True)
        if run.returncode:
            force_unmount(point)
            raise AssertionError(f"{point}: {run.stderr.decode()}")


def check(image: Path) -> None:
    """An ext4 that has been used again has no faults: what was cut was cut fairly."""
    run = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def _said(*words: str | Path) -> str:
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, f"{words}: {run.stderr}"
    return run.stdout.strip()
