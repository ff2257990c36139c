"""A cache whose disk is full: the writer hears of it, and what was taken still reaches home."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.mounting import Mount

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root"),
]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_cache_still_drains(small: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    mount = Mount(home, small / "fs", "async_delay=1000", watch=120.0)
    mount.mount()
    written: dict[str, bytes] = {}
    try:
        with pytest.raises(OSError) as caught:
            for number in range(400):
                data = os.urandom(100_000)
                (mount.point / f"f{number}").write_bytes(data)
                written[f"f{number}"] = data
        assert caught.value.errno == errno.ENOSPC
        mount.flush()
        assert {name: (home / name).read_bytes() for name in written} == written
    finally:
        mount.terminate()
