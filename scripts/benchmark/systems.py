"""The file systems that are compared: each mounted afresh for a turn, on the same disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.harness.mounting import (
    REPOSITORY,
    Watchdog,
    force_unmount,
    mounted_at,
    wait_until,
)

TURN_SECONDS = 600.0
"""A mount that is busy with one turn for longer is aborted."""

EXAMPLE = "pyfuse3==3.5.0"


class Missing(Exception):
    """What has to be installed before a system can take part."""


class System:
    """A directory on the disk as it is."""

    name = "native"
    native = True

    def __init__(self, base: Path, delay: int) -> None:
        self.base = base
        self.delay = delay  # seconds that work may be put off, where the system can
        self.source = base / "source"
        self.source.mkdir(parents=True)

    @property
    def root(self) -> Path:
        return self.source

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Mounted(System):
    """Something that a command in the foreground mounts."""

    native = False

    def __init__(self, base: Path, delay: int) -> None:
        super().__init__(base, delay)
        self.point = base / "mnt"
        self.point.mkdir()
        self.log = base / "log"
        self._check()

    def _check(self) -> None:
        """Raise Missing if a program is."""

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def root(self) -> Path:
        return self.point

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_until(self._mounted_or_ended, 30, f"{self.name} has mounted")
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
            entry = mounted_at(self.point)
            assert entry is not None
            self.dog = Watchdog(entry, TURN_SECONDS, self.base / "watchdog")
            os.stat(self.point)
        except BaseException:
            self._end()
            raise

    def _mounted_or_ended(self) -> bool:
        return self.process.poll() is not None or mounted_at(self.point) is not None

    def stop(self) -> None:
        """Unmount; what it has put off is not waited for, as its directory is thrown away."""
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*command, str(self.point)], timeout=60, check=False)
        fired = self.dog.call_off()
        self._end()
        if fired:
            raise RuntimeError(f"{self.name} did not answer:\n{self.log.read_text()[-2000:]}")

    def _end(self) -> None:
        force_unmount(self.point)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not installed")
    return found


class Bindfs(Mounted):
    name = "bindfs"

    def _check(self) -> None:
        need("bindfs")

    def command(self) -> list[str]:
        return ["bindfs", "-f", str(self.source), str(self.point)]


class Rclone(Mounted):
    name = "rclone"

    def _check(self) -> None:
        need("rclone")

    def command(self) -> list[str]:
        options = ["--config", "/dev/null", "--vfs-cache-mode", "full"]
        options += ["--cache-dir", str(self.base / "cache"), "--vfs-write-back", f"{self.delay}s"]
        return ["rclone", "mount", str(self.source), str(self.point), *options]


class Example(Mounted):
    """pyfuse3's own pass-through file system, from its source package."""

    name = "example"
    script: Path  # set by fetch_example

    def command(self) -> list[str]:
        return [sys.executable, str(self.script), str(self.source), str(self.point)]


class Afmfs(Mounted):
    name = "afmfs"
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        words = [f"cache={self.base / 'cache'}", f"async_delay={self.delay}", *self.options]
        words = ["-f", "-o", ",".join(words)]
        return [sys.executable, "-m", "mount", str(self.source), str(self.point), *words]


SYSTEMS = {kind.name: kind for kind in (System, Afmfs, Bindfs, Rclone, Example)}


def fetch_example(directory: Path) -> Path:
    """Download pyfuse3's source package with pip and unpack its example."""
    words = ["download", "-q", "--no-binary", "pyfuse3", "--no-deps", "-d", str(directory), EXAMPLE]
    run = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise Missing(f"{EXAMPLE}'s source package: {run.stderr.strip()[-300:]}")
    with tarfile.open(next(directory.glob("pyfuse3-*.tar.gz"))) as package:
        member = next(m for m in package if m.name.endswith("examples/passthroughfs.py"))
        member.name = "passthroughfs.py"
        package.extract(member, directory, filter="data")
    return directory / "passthroughfs.py"
