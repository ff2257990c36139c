"""Writers go on while the disk becomes full and has room again: each byte that was acknowledged is
at home in the end, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disk.conftest import MakeDisk, MountOn
from tests.disk.scene import back, flush
from tests.disk.writers import Writer, at_work, make_writers
from tests.harness.disks import needs_root
from tests.harness.mounting import wait_until

pytestmark = [pytest.mark.mounted, needs_root]


def refused(found: list[Writer]) -> int:
    return sum(one.met[errno.ENOSPC] for one in found)


def done(found: list[Writer]) -> int:
    return sum(one.met[0] for one in found)


def tried(found: list[Writer]) -> int:
    return done(found) + refused(found)


def await_more(count: Callable[[list[Writer]], int], found: list[Writer], what: str) -> None:
    before = count(found)
    wait_until(lambda: count(found) > before + 20 or any(one.trouble for one in found), 40, what)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("ext4", ("40M",)),
        ("xfs", ("64M",)),
        ("tmpfs", ("32M",)),
        ("tmpfs", ("32M", "nr_inodes=80")),
    ],
    ids=["ext4", "xfs", "tmpfs", "inodes"],
)
def test_writers(
    home: Path, disks: MakeDisk, mount_on: MountOn, kind: str, words: tuple[str, ...]
) -> None:
    disk = disks(*words, kind=kind)
    mount = mount_on(disk, "async_delay=0.2", "durable_interval=1")
    found = make_writers(mount.point)
    with at_work(found):
        for _ in range(2):
            await_more(done, found, "work")
            foreign = disk.fill()  # what is cached at home as well still makes room
            await_more(tried, found, "work, or refusals, on a disk that somebody else has filled")
            home.rename(home.with_name("away"))
            await_more(refused, found, "refusals while nothing can go")
            foreign.unlink()
            await_more(tried, found, "work, or refusals, with home away")
            back(home, mount)
            await_more(done, found, "work again")
    flush(mount)
    for one in found:
        one.check(home / one.place.name)
        one.check(mount.point / one.place.name)
    mount.unmount()
