"""Mounts of the FUSE adapter before a fileset in memory, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.mounting import (
    REPOSITORY,
    Watchdog,
    force_unmount,
    mounted_at,
    wait_until,
)


@dataclass
class Adapter:
    """One mount. `start` goes to the background, or stays as `process`."""

    base: Path
    dog: Watchdog | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def point(self) -> Path:
        return self.base / "mnt"

    @property
    def cache(self) -> Path:
        return self.base / "cache"

    @property
    def log(self) -> str:
        return (self.cache / "afmfs.log").read_text()

    def command(self, target: str, *options: str) -> list[str]:
        words = [str(self.point), str(self.cache), target, *options]
        return [sys.executable, "-m", "tests.harness.fake_fileset", *words]

    def start(self, target: str = "home", *options: str) -> subprocess.CompletedProcess[str]:
        """To the background; mounted on return, if it returned 0."""
        # Into files: the background process keeps what it inherits open while it starts.
        run = subprocess.run(
            self.command(target, *options),
            cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        self._watch()
        return run

    def start_foreground(self, target: str = "home", *options: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command(target, "-f", *options), cwd=REPOSITORY, text=True, stderr=subprocess.PIPE
        )
        wait_until(lambda: mounted_at(self.point), 20, "mounted")
        self._watch()
        return self.process

    def _watch(self) -> None:
        entry = mounted_at(self.point)
        if entry is not None and self.dog is None:
            self.dog = Watchdog(entry, 60, self.base / "watchdog")

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        force_unmount(self.point)
        if self.dog is not None:
            assert not self.dog.call_off(), "the mount hung"


def _made(base: Path) -> Adapter:
    adapter = Adapter(base)
    adapter.point.mkdir(parents=True)
    adapter.cache.mkdir()
    return adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    """Not yet started."""
    one = _made(tmp_path)
    yield one
    one.end()


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Mount points shared by a module's tests: mounted("xattrs") -> Path."""
    made: dict[tuple[str, ...], Adapter] = {}

    def mount(*options: str) -> Path:
        if options not in made:
            made[options] = _made(tmp_path_factory.mktemp("adapter"))
            run = made[options].start("home", *options)
            assert run.returncode == 0, run.stderr
        return made[options].point

    yield mount
    for one in made.values():
        one.end()
