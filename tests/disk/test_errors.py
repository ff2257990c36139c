"""A disk that fails: what is intact is read, nothing is promised that isn't kept, and once it is
repaired all goes on with what was promised."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.disk.conftest import MakeDisk, MountOn
from tests.disk.scene import Files, away, back, flush, read_anew
from tests.harness.disks import Disk, fill, needs_root
from tests.harness.mounting import Mount, wait_until

pytestmark = [pytest.mark.mounted, needs_root]

REFUSED = (errno.EIO, errno.EROFS)


def refused(mount: Mount) -> int:
    """The errno that a new file and its fsync get."""
    try:
        fd = os.open(mount.point / "probe", os.O_CREAT | os.O_WRONLY)
        try:
            os.write(fd, b"x")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        return exc.errno or 0
    return 0


def takes_nothing(mount: Mount) -> None:
    """Each change is refused; and the state says why."""
    name = mount.point / "f1"
    for change in (
        (mount.point / "new").touch,
        (mount.point / "new").mkdir,
        name.unlink,
        lambda: name.chmod(0o600),
        lambda: name.rename(mount.point / "new"),
        lambda: os.truncate(name, 5),
        lambda: name.write_bytes(b"x"),
        lambda: os.link(name, mount.point / "new"),
        lambda: os.symlink("x", mount.point / "new"),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno in REFUSED
    assert "the cache's disk has failed" in mount.status()["reason"]
    assert mount.status()["disk_failed"]


def repaired(disk: Disk, mount: Mount) -> None:
    """As an administrator does it."""
    mount.checks = False  # of a disk that takes nothing
    mount.unmount()
    disk.unmount()
    if disk.kind == "ext4":
        disk.repair()
    disk.mount()
    mount.checks = True
    mount.mount("none")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_io_errors(home: Path, disks: MakeDisk, mount_on: MountOn, kind: str) -> None:
    """The device below can't write any more: what is written back is lost, and that is seen."""
    (home / "late").write_bytes(late := os.urandom(300_000))
    below = disks("24M", kind="tmpfs")
    disk = disks("64M", kind=kind, below=below.path)
    mount = mount_on(disk, "async_delay=1000", "durable_interval=1000", "block_size=64K")
    clean = Files(mount, 100_000, "clean")
    clean.write(5)
    flush(mount)
    away(home, mount)
    kept = Files(mount, 100_000)
    kept.write(5)
    kept.sync()
    loose = Files(mount, 100_000, "loose")
    loose.write(1)
    fill(below.path)
    wait_until(lambda: refused(mount) in REFUSED, 30, "the failure is noticed")
    takes_nothing(mount)
    clean.check(mount.point)
    kept.check(mount.point)
    with pytest.raises(OSError, match="error"):  # nobody knows whether it is what was written
        read_anew(mount.point / "loose0")
    back(home, mount)
    assert (mount.point / "late").read_bytes() == late  # which can't be kept
    assert not (home / "f0").exists()  # nothing goes home that may not be what was written
    takes_nothing(mount)
    (below.path / "foreign").unlink()
    takes_nothing(mount)  # once is enough: nobody knows what was lost
    repaired(disk, mount)
    flush(mount)
    for root in (home, mount.point):
        kept.check(root)
        clean.check(root)
    kept.write(5)
    flush(mount)
    kept.check(home)


def test_read_only_after_an_error(home: Path, disks: MakeDisk, mount_on: MountOn) -> None:
    """ext4 that has found an error takes nothing more, until it is repaired."""
    (home / "late").write_bytes(late := os.urandom(300_000))
    disk = disks("48M")
    mount = mount_on(disk, "async_delay=1000", "durable_interval=0.5")
    called = home.with_name("called")
    words = ("--command", "/usr/bin/touch", "--event", "afmCacheFailed", "--parms", str(called))
    assert mount.afmctl("addcallback", "tell", *words).returncode == 0
    kept = Files(mount, 100_000)
    kept.write(5)
    flush(mount)
    disk.fail()
    wait_until(lambda: mount.status()["disk_failed"] or refused(mount) in REFUSED, 30, "noticed")
    wait_until(lambda: mount.status()["disk_failed"], 30, "it is known to have failed")
    takes_nothing(mount)
    kept.check(mount.point)
    assert (mount.point / "late").read_bytes() == late
    wait_until(called.exists, 10, "a callback tells of it")
    repaired(disk, mount)
    kept.write(5)
    flush(mount)
    kept.check(home)
    kept.check(mount.point)
