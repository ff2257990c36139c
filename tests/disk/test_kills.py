"""Both processes are killed at any moment of a disk that becomes full and has room again."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.disk.conftest import MakeDisk, MountOn
from tests.disk.scene import flush
from tests.disk.writers import KILLED, NO_ROOM, Writer, at_work, make_writers
from tests.harness.disks import Disk, needs_root
from tests.harness.mounting import Mount, MountFailed, wait_until

pytestmark = [pytest.mark.mounted, needs_root]

KILLS = int(os.environ.get("AFMFS_KILLS", "2"))
"""More of them, by hand: each takes about two seconds."""

UP = ("Active", "Dirty", "Inactive", "Recovery")


def steps(found: list[Writer]) -> int:
    return sum(sum(one.met.values()) for one in found)


def work_on(found: list[Writer], most: int) -> None:
    """So many steps more, or what comes of it in three seconds: they may have to wait for home."""
    before, end = steps(found), time.monotonic() + 3
    while steps(found) < before + most and time.monotonic() < end:
        time.sleep(0.01)


def mount_again(mount: Mount, disk: Disk) -> None:
    """Where others have all of the disk it may be refused, which is said."""
    try:
        mount.mount("none")
    except MountFailed as exc:
        assert "its disk is full" in str(exc)
        (disk.path / "foreign").unlink()
        mount.mount("none")


@pytest.mark.parametrize("kind, size", [("ext4", "32M"), ("tmpfs", "24M")])
def test_kills(home: Path, disks: MakeDisk, mount_on: MountOn, kind: str, size: str) -> None:
    disk, seed = disks(size, kind=kind), int(os.environ.get("AFMFS_SEED", "1"))
    mount = mount_on(disk, "async_delay=0.2", "durable_interval=0.5", "home_timeout=5", watch=9999)
    found, dice = (
        make_writers(mount.point, seed=seed, allowed=NO_ROOM | KILLED),
        random.Random(seed),
    )
    for number in range(KILLS):
        with at_work(found):
            act = dice.choice(("fill", "fill", "room", "away", ""))
            if act == "fill":
                disk.fill(dice.choice((0, 0, 100_000, 1_000_000)))
            elif act == "room":
                (disk.path / "foreign").unlink(missing_ok=True)
            elif act == "away" and home.exists():
                home.rename(home.with_name("away"))
            work_on(found, dice.randrange(200))
            mount.kill9(dice.choice(("mount", "both")))
        if dice.random() < 0.5:
            disk.fill()
        mount_again(mount, disk)
        if not home.exists():
            home.with_name("away").rename(home)
        wait_until(lambda: mount.status()["state"] in UP, 40, "home is up")
        for one in found:
            one.settle()
            one.check(mount.point / one.place.name)
        print(number, act, steps(found))
    (disk.path / "foreign").unlink(missing_ok=True)
    flush(mount)
    for one in found:
        one.check(home / one.place.name)
    mount.unmount()
