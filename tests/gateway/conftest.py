"""Homes to try: a plain directory, small file systems of their own, a remote one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Marker
from tests.gateway.fake_mount import FakeMount

sys.path.insert(0, str(Path(__file__).parents[1]))  # for harness

if TYPE_CHECKING:
    from harness.sshd import Sshd

OURS = Marker("identity-1", "work", 1, "token-1", {"host": "here", "cache": "/cache"})


@pytest.fixture
def ours() -> Marker:
    return OURS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory to be home."""
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def home(root: Path) -> Iterator[Home]:
    opened = Home(os.fsencode(root))
    yield opened
    opened.close()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FakeMount]:
    """Of an empty home; its gateway is yet to be started."""
    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    yield mount
    mount.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """mounted("-t", "tmpfs", "none") -> a mount point, unmounted afterwards."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    mountpoints: list[Path] = []

    def mount(*words: str) -> Path:
        path = tmp_path / f"mount{len(mountpoints)}"
        path.mkdir()
        done = subprocess.run(["mount", *words, str(path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mount: {done.stderr.strip()}")
        mountpoints.append(path)
        return path

    yield mount
    for path in reversed(mountpoints):
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    from harness.sshd import Sshd, available

    missing = available()
    if missing:
        pytest.skip(missing)
    with Sshd(tmp_path / "sshd") as server:
        yield server
