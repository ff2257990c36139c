"""A cache whose disk is full: the writer hears of it, what was taken reaches home, and when there
is room again work goes on by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.disks import Disk, needs_root, small_disk
from tests.harness.mounting import Mount, wait_until

pytestmark = [pytest.mark.mounted, needs_root]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Make small disks: disks("48M"), disks("32M", "-N", "64")."""
    with ExitStack() as stack:
        numbers = iter(range(99))
        yield lambda *words: stack.enter_context(small_disk(tmp_path / f"d{next(numbers)}", *words))


@pytest.fixture
def mount_on(home: Path, disks: Callable[..., Disk]) -> Iterator[Callable[..., Mount]]:
    """Mount a cache that lies on a disk; ended before the disk is."""
    mounts: list[Mount] = []

    def make(disk: Disk, *options: str) -> Mount:
        mount = Mount(home, disk.path / "fs", *options, watch=240.0)
        mounts.append(mount)
        mount.mount()
        return mount

    yield make
    for mount in mounts:
        mount.terminate()
        print(mount.log_tail())
        assert not mount.watchdog_fired


class Files:
    """Files of random bytes, as they were acknowledged."""

    def __init__(self, mount: Mount, size: int) -> None:
        self.mount, self.size = mount, size
        self.written: dict[str, bytes] = {}

    def write(self, count: int) -> None:
        """So many more. One that fails is removed."""
        for _ in range(count):
            name, data = f"f{len(self.written)}", os.urandom(self.size)
            path = self.mount.point / name
            try:
                path.write_bytes(data)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            self.written[name] = data

    def until_full(self, most: int = 5000) -> int:
        """As many as are taken; the errno that came then."""
        with pytest.raises(OSError) as caught:
            self.write(most)
        return caught.value.errno or 0

    def check(self, root: Path) -> None:
        for name, data in self.written.items():
            assert (root / name).read_bytes() == data, name


def taken(call: Callable[[int], None]) -> int:
    """How often it could be done until there was no room."""
    for number in range(200_000):
        try:
            call(number)
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            return number
    raise AssertionError("there is always room")


def away(home: Path, mount: Mount) -> None:
    os.listdir(mount.point)  # what was never looked into needs home
    home.rename(home.with_name("away"))
    mount.await_state("Unmounted")


def back(home: Path, mount: Mount) -> None:
    home.with_name("away").rename(home)
    mount.await_state("Active", "Dirty", "Inactive")


@pytest.mark.parametrize(
    "disk, size",
    [(("48M",), 100_000), (("32M", "-N", "64"), 10)],
    ids=["bytes", "inodes"],
)
def test_full_while_home_is_away(
    home: Path, disks: Callable[..., Disk], mount_on: Callable[..., Mount], disk: tuple[str, ...],
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
    mount.flush()
    files.check(home)
    files.write(60)  # what home has by now makes room
    mount.flush()
    files.check(home)
    files.check(mount.point)
    wait_until(lambda: not mount.status()["reason"], 10, "all is well")


def test_more_than_the_disk_holds_while_home_is_up(
    home: Path, disks: Callable[..., Disk], mount_on: Callable[..., Mount]
) -> None:
    """Whatever the age of what is pending: it goes to home as soon as room is needed."""
    mount = mount_on(disks("48M"), "async_delay=1000")
    files = Files(mount, 1_000_000)
    files.write(100)
    mount.flush()
    files.check(home)
    files.check(mount.point)  # two thirds of it come from home
    assert mount.status()["evicted_bytes"] > 50_000_000


def test_names_alone(
    home: Path, disks: Callable[..., Disk], mount_on: Callable[..., Mount]
) -> None:
    """Names are refused while the databases can still commit: so the queue goes down, and that is
    what makes room for more."""
    mount = mount_on(disks("8M"), "async_delay=1")
    mount.afmctl("stop")
    os.mkdir(mount.point / "x")

    def name(number: int) -> Path:
        return mount.point / f"a rather long name of a directory {number}"

    made = taken(lambda number: name(number).mkdir())
    assert made > 1000
    taken(lambda number: (mount.point / "x").chmod(0o700 + number % 64))
    moved = taken(lambda number: name(number).rename(mount.point / f"moved {number}"))
    for number in range(moved, moved + 50):
        name(number).rmdir()
    mount.afmctl("start")
    mount.flush()
    there = {name for name in os.listdir(home) if name != ".afm"}
    assert there == set(os.listdir(mount.point))
    assert len(there) == 1 + made - 50
    for number in range(200):
        (mount.point / f"another {number}").mkdir()
    mount.flush()
    assert len(os.listdir(mount.point)) == len(there) + 200


def test_somebody_else_fills_the_disk(
    home: Path, disks: Callable[..., Disk], mount_on: Callable[..., Mount]
) -> None:
    (home / "big").write_bytes(big := os.urandom(5_000_000))
    disk = disks("48M")
    mount = mount_on(disk, "async_delay=1")
    files = Files(mount, 50_000)
    files.write(20)
    mount.flush()
    foreign = disk.fill()
    assert disk.free < 4096
    files.check(mount.point)
    assert (mount.point / "big").read_bytes() == big  # nothing of it can be kept
    assert Files(mount, 3_000_000).until_full(50) == errno.ENOSPC
    assert "disk is full" in mount.status()["reason"]
    foreign.unlink()
    files.write(20)
    mount.flush()
    files.check(home)
    wait_until(lambda: not mount.status()["reason"], 10, "all is well")
