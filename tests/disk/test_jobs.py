"""Resyncs and fetches on a disk that is full: they go on with what the databases keep for
themselves, or, where others have taken that too, wait for room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.disk.conftest import MakeDisk, MountOn
from tests.disk.scene import Files, away, back, flush, read_anew, say
from tests.harness.disks import needs_root
from tests.harness.mounting import Mount, wait_until

pytestmark = [pytest.mark.mounted, needs_root]


def resynced(mount: Mount) -> bool:
    return mount.status()["job"] is None and not mount.status()["queue_length"]


def lacks_room(mount: Mount) -> bool:
    return "disk is full" in mount.log_tail()


@pytest.mark.parametrize("kind, size, filled", [("ext4", "32M", False), ("tmpfs", "32M", True)])
def test_resync(
    home: Path, disks: MakeDisk, mount_on: MountOn, kind: str, size: str, filled: bool
) -> None:
    """What fills the disk is what home needs."""
    disk = disks(size, kind=kind)
    mount = mount_on(disk, "async_delay=1000", "noauto_resync")
    files = Files(mount, 40_000)
    files.write(50)
    flush(mount)
    away(home, mount)
    files.rewrite("f1")
    more = Files(mount, 40_000, "more")
    assert more.until_full() == errno.ENOSPC
    if filled:
        foreign = disk.fill()
    (home.with_name("away") / "f1").write_bytes(b"stray")
    (home.with_name("away") / "f2").unlink()
    back(home, mount, "NeedsResync")
    say(mount, "resync")
    if filled:
        wait_until(lambda: resynced(mount) or lacks_room(mount), 60, "the resync ends, or waits")
        foreign.unlink()
    wait_until(lambda: resynced(mount), 60, "all is at home")
    more.write(20)
    flush(mount)
    for root in (home, mount.point):
        files.check(root)
        more.check(root)
    mount.unmount()


def test_fetches(home: Path, disks: MakeDisk, mount_on: MountOn) -> None:
    """Many readers on a disk on which nothing can be kept."""
    tree = {f"h{number}": os.urandom(300_000) for number in range(30)}
    for name, data in tree.items():
        (home / name).write_bytes(data)
    disk = disks("32M")
    mount = mount_on(disk, "block_size=64K")
    os.listdir(mount.point)
    foreign = disk.fill()
    for name, data in tree.items():
        assert (mount.point / name).read_bytes() == data
    # Clean blocks go though there is no room to shorten the log, which would come first.
    assert mount.status()["evicted_bytes"] > 1_000_000
    assert mount.status()["cached_bytes"] < 4_000_000  # of nine
    foreign.unlink()

    def kept() -> bool:
        for name, data in tree.items():
            assert read_anew(mount.point / name) == data
        return bool(mount.status()["cached_bytes"] > 7_000_000)

    wait_until(kept, 20, "what is read is kept again")
