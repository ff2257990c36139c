"""Caches on small disks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import end_mounts, has_failed
from tests.harness.disks import Disk, small_disk
from tests.harness.mounting import Mount

MakeDisk = Callable[..., Disk]
MountOn = Callable[..., Mount]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[MakeDisk]:
    """Make small disks: disks("48M"), disks("32M", "-N", "64"), disks("32M", kind="tmpfs")."""
    with ExitStack() as stack:
        numbers = iter(range(99))

        def make(*words: str, **options: Any) -> Disk:
            return stack.enter_context(
                small_disk(tmp_path / f"d{next(numbers)}", *words, **options)
            )

        yield make


@pytest.fixture
def mount_on(home: Path, disks: MakeDisk, request: pytest.FixtureRequest) -> Iterator[MountOn]:
    """Mount a cache that lies on a disk; ended before the disk is."""
    mounts: list[Mount] = []

    def make(disk: Disk, *options: str, watch: float = 180.0) -> Mount:
        mount = Mount(home, disk.path.with_name(f"fs{len(mounts)}"), *options, watch=watch)
        mount.cache = disk.path / "cache"
        mounts.append(mount)
        mount.mount()
        return mount

    yield make
    end_mounts(mounts, failed=has_failed(request.node))
