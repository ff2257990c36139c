"""Where a test works: the real mount, or a plain directory that proves the test itself right."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

from tests.harness.mounting import Mount


class Surface(Protocol):
    """A tree to work in, and the home that must hold the same after a flush."""

    is_mount: bool
    path: Path
    home: Path

    def flush(self) -> None: ...

    def remount(self) -> None: ...


class PlainSurface:
    """A copy of home on the local file system; a flush is an rsync."""

    is_mount = False

    def __init__(self, home: Path, base: Path) -> None:
        self.home = home
        self.path = base / "plain"
        self.path.mkdir(parents=True)
        _copy(home, self.path)

    def flush(self) -> None:
        _copy(self.path, self.home)

    def remount(self) -> None: ...


class MountSurface:
    """The real thing."""

    is_mount = True

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.home = mount.home
        self.path = mount.point

    def flush(self) -> None:
        self.mount.flush()

    def remount(self) -> None:
        self.mount.remount()


def _copy(source: Path, target: Path) -> None:
    # A window of -1 compares nanoseconds; the default looks at whole seconds.
    words = ["rsync", "-aHS", "--modify-window=-1", "--delete", f"{source}/", f"{target}/"]
    subprocess.run(words, check=True)


def rsync_differences(surface: Surface, below: str = "") -> str:
    """What `rsync --checksum` would change at home: nothing, after a flush."""
    run = subprocess.run(
        ["rsync", "-aHnc", "--delete", "--itemize-changes", "--exclude", "/.afm"]
        + [f"{surface.path}/{below}", f"{surface.home}/{below}"],
        check=True,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    return run.stdout
