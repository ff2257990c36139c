"""A home behind sshfs: a server on the loopback, its directory, a fileset of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount
from tests.harness.sshd import Sshd, Sshfs, available

BLOCK = 65536


@dataclass
class Remote:
    served: Path  # the directory, on the server's side
    sshd: Sshd
    sshfs: Sshfs
    mount: Mount


def fill(served: Path) -> None:
    """Three directories of files, some of several blocks."""
    dice = random.Random(8)
    for name in ("one", "two", "three"):
        (served / name).mkdir(parents=True)
        for number in range(10):
            data = dice.randbytes(dice.choice([100, BLOCK, 3 * BLOCK + 17]))
            (served / name / f"old{number}").write_bytes(data)


def warm_up(mount: Mount) -> None:
    """Every directory read, a third of the files cached, a third in part."""
    for directory in mount.point.iterdir():
        for number, path in enumerate(sorted(directory.iterdir())):
            if number % 3 == 0:
                path.read_bytes()
            elif number % 3 == 1:
                with path.open("rb", buffering=0) as file:
                    file.read(10)


@pytest.fixture(params=["reconnect", "plain"])  # or another list of sshfs's options
def remote(
    make_mount: MakeMount, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Remote]:
    """With sshfs's `reconnect`, and without: then a server's end is the mount's."""
    if missing := available():
        pytest.skip(missing)
    served = tmp_path / "served"
    fill(served)
    words = [] if request.param == "plain" else request.param.split(",")
    with Sshd(tmp_path / "sshd") as sshd:
        sshfs = sshd.mount(served, tmp_path / "remote", *words)
        options = ("block_size=64K", "async_delay=1", "durable_interval=1")
        mount = make_mount(sshfs.mountpoint, *options)
        warm_up(mount)
        try:
            yield Remote(served, sshd, sshfs, mount)
        finally:
            mount.terminate()  # before the server goes, which it uses
