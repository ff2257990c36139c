"""A cache whose disk is full: the writer hears of it, what was taken reaches home, and when there
is room again work goes on by itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.disk.conftest import MakeDisk, MountOn
from tests.disk.scene import Files, away, back, flush, say, taken
from tests.harness.disks import needs_root
from tests.harness.mounting import wait_until

pytestmark = [pytest.mark.mounted, needs_root]


@pytest.mark.parametrize(
    "disk, size",
    [(("48M",), 100_000), (("32M", "-N", "64"), 10)],
    ids=["bytes", "inodes"],
)
def test_full_while_home_is_away(
    home: Path, disks: MakeDisk, mount_on: MountOn, disk: tuple[str, ...],
    size: int,
) -> None:  # fmt: skip
    mount = mount_on(disks(*disk), "async_delay=1")
    away(home, mount)
    files = Files(mount, size)
    assert files.until_full() == errno.ENOSPC
    assert len(files.written) > 20
    assert "disk is full" in mount.status()["reason"]
    files.check(mount.point)
    assert files.until_full() == errno.ENOSPC  # and not, at some time, something worse
    back(home, mount)
    flush(mount)
    files.check(home)
    files.write(60)  # what home has by now makes room
    flush(mount)
    files.check(home)
    files.check(mount.point)
    wait_until(lambda: not mount.status()["reason"], 10, "all is well")


def test_more_than_the_disk_holds_while_home_is_up(
    home: Path, disks: MakeDisk, mount_on: MountOn
) -> None:
    """Whatever the age of what is pending: it goes to home as soon as room is needed."""
    mount = mount_on(disks("48M"), "async_delay=1000")
    files = Files(mount, 1_000_000)
    files.write(100)
    flush(mount)
    files.check(home)
    files.check(mount.point)  # two thirds of it come from home
    assert mount.status()["evicted_bytes"] > 50_000_000


def test_names_alone(home: Path, disks: MakeDisk, mount_on: MountOn) -> None:
    """Names are refused while the databases can still commit: so the queue goes down, and that is
    what makes room for more."""
    mount = mount_on(disks("5M", "-O", "^has_journal"), "async_delay=1")
    say(mount, "stop")
    os.mkdir(mount.point / "x")

    def name(number: int) -> Path:
        return mount.point / f"{number:0250}"

    made = taken(lambda number: name(number).mkdir())
    assert made > 200
    taken(lambda number: (mount.point / "x").chmod(0o700 + number % 64))
    for number in range(50):  # what takes away has a part of the reserve to itself
        name(number).rmdir()
    say(mount, "start")
    flush(mount)
    there = {name for name in os.listdir(home) if name != ".afm"}
    assert there == set(os.listdir(mount.point))
    assert len(there) == 1 + made - 50
    for number in range(100):
        (mount.point / f"another {number}").mkdir()
    flush(mount)
    assert len(os.listdir(mount.point)) == len(there) + 100


def test_somebody_else_fills_the_disk(home: Path, disks: MakeDisk, mount_on: MountOn) -> None:
    (home / "big").write_bytes(big := os.urandom(5_000_000))
    disk = disks("48M")
    mount = mount_on(disk, "async_delay=1")
    files = Files(mount, 50_000)
    files.write(20)
    flush(mount)
    foreign = disk.fill()
    assert disk.free < 4096
    files.check(mount.point)
    assert (mount.point / "big").read_bytes() == big  # nothing of it can be kept
    assert Files(mount, 3_000_000).until_full(50) == errno.ENOSPC
    assert "disk is full" in mount.status()["reason"]
    foreign.unlink()
    files.write(20)
    flush(mount)
    files.check(home)
    wait_until(lambda: not mount.status()["reason"], 10, "all is well")
