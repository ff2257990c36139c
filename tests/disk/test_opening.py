"""Caches that are opened, or were killed, on a disk that has no room, or takes nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.disk.conftest import MakeDisk, MountOn
from tests.disk.scene import Files, away, back, flush
from tests.harness.disks import Disk, needs_root
from tests.harness.mounting import Mount, MountFailed, wait_until

pytestmark = [pytest.mark.mounted, needs_root]

KINDS = pytest.mark.parametrize(
    "kind, words",
    [("ext4", ("48M",)), ("tmpfs", ("32M",)), ("ext4", ("48M", "-N", "64"))],
    ids=["ext4", "tmpfs", "inodes"],
)
"""With as much as is cached when it is full."""


def full(home: Path, disk: Disk, mount: Mount) -> Files:
    """Full of what home does not have, then filled to the last byte by somebody else."""
    away(home, mount)
    files = Files(mount, 200_000)
    assert files.until_full() == errno.ENOSPC
    disk.fill()
    return files


@KINDS
def test_killed_while_full(
    home: Path, disks: MakeDisk, mount_on: MountOn, kind: str, words: tuple[str, ...]
) -> None:
    """It is mounted again without a byte of room, and what is pending goes home."""
    disk = disks(*words, kind=kind)
    mount = mount_on(disk, "async_delay=1")
    files = full(home, disk, mount)
    mount.kill9("both")
    disk.fill()
    mount.mount("none")
    files.check(mount.point)
    assert Files(mount, 300_000, "more").until_full() == errno.ENOSPC
    back(home, mount)
    wait_until(lambda: not mount.status()["queue_length"], 30, "what was pending is at home")
    files.check(home)
    files.check(mount.point)
    mount.unmount()


def test_no_room_to_open_it(home: Path, disks: MakeDisk, mount_on: MountOn) -> None:
    """Others have taken what its databases need to be opened: said so, and nothing is harmed."""
    disk = disks("32M", kind="tmpfs")
    mount = mount_on(disk, "async_delay=1")
    files = full(home, disk, mount)
    mount.unmount()
    for name in ("cache.db-wal", "cache.db-shm"):  # as where the gateway has ended first
        (mount.cache / name).unlink(missing_ok=True)
    foreign = disk.fill()
    with pytest.raises(MountFailed, match="status 32") as caught:
        mount.mount("none")
    assert "its disk is full" in str(caught.value)
    foreign.unlink()
    mount.mount("none")
    back(home, mount)
    flush(mount)
    files.check(home)


def test_read_only(home: Path, disks: MakeDisk, mount_on: MountOn) -> None:
    """A disk that is in use does not become read-only; one that is can't be mounted from."""
    disk = disks("48M")
    mount = mount_on(disk, "async_delay=1")
    files = Files(mount, 1000)
    files.write(5)
    assert not disk.remount("ro")
    files.write(5)
    mount.unmount()
    assert disk.remount("ro")
    with pytest.raises(MountFailed, match="status 32") as caught:
        mount.mount("none")
    assert "its disk is read-only" in str(caught.value)
    assert "Dirty" in mount.afmctl("getstate", device=mount.cache).stdout
    assert disk.remount("rw")
    mount.mount("none")
    flush(mount)
    files.check(home)
