"""A read fetches the blocks that it touches, and no others."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount

pytestmark = pytest.mark.mounted

GIB = 1 << 30
BLOCK = 1 << 20


def cached(mount: Mount, path: str) -> str:
    run = mount.afmctl("cached", path)
    assert run.returncode == 0, run.stderr
    return run.stdout


def allocated(mount: Mount) -> int:
    """Bytes that all blobs of the cache occupy."""
    blobs = [path.lstat() for path in (mount.cache / "blobs").rglob("*") if path.is_file()]
    return sum(info.st_blocks * 512 for info in blobs)


@pytest.fixture
def large(home: Path) -> Path:
    """1 GiB at home, data only around its middle, so that the test's disk need not hold it."""
    path = home / "large"
    middle = random.Random(4).randbytes(4 * BLOCK)
    with path.open("wb") as file:
        os.pwrite(file.fileno(), middle, GIB // 2 - 2 * BLOCK)
        file.truncate(GIB)
    return path


def test_one_byte_of_a_large_file_fetches_one_block(make_mount: MakeMount, large: Path) -> None:
    mount = make_mount(large.parent)
    offset = GIB // 2 + 1234
    with (mount.point / "large").open("rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == GIB
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        byte = os.pread(file.fileno(), 1, offset)
    with large.open("rb", buffering=0) as file:
        assert byte == os.pread(file.fileno(), 1, offset)
    assert mount.status()["cached_bytes"] == BLOCK
    assert allocated(mount) == BLOCK
    assert "partial" in cached(mount, "large")
    mount.remount()
    assert mount.status()["cached_bytes"] == BLOCK


def test_figures_follow_what_is_cached(make_mount: MakeMount, home: Path) -> None:
    data = random.Random(5).randbytes(3 * 65536 + 100)
    (home / "file").write_bytes(data)
    mount = make_mount(home, "block_size=64K")
    path = mount.point / "file"
    assert "uncached" in cached(mount, "file")
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 1, 3 * 65536 + 50)  # the last block, cut at the file's end
    assert "partial" in cached(mount, str(path))
    assert mount.status()["cached_bytes"] == 100
    assert path.read_bytes() == data
    assert "partial" not in cached(mount, "file")
    assert "uncached" not in cached(mount, "file")
    assert mount.status()["cached_bytes"] == len(data)


def test_a_write_keeps_its_bytes_and_home_s(make_mount: MakeMount, home: Path) -> None:
    """Part of an uncached block is written without waiting; a read joins both."""
    data = bytearray(random.Random(6).randbytes(5 * 65536))
    (home / "file").write_bytes(data)
    mount = make_mount(home, "block_size=64K", "async_delay=3600")
    with (mount.point / "file").open("r+b", buffering=0) as file:
        for offset, size in ((100, 50), (65536, 65536), (3 * 65536 - 10, 20)):
            os.pwrite(file.fileno(), b"w" * size, offset)
            data[offset : offset + size] = b"w" * size
    # one block was covered whole, the others are known in part: nothing was fetched
    assert mount.status()["cached_bytes"] == 65536
    mount.remount()
    assert (mount.point / "file").read_bytes() == data
    mount.flush()
    assert (home / "file").read_bytes() == data


def test_uncached_reads_fail_at_once_while_home_is_away(make_mount: MakeMount, home: Path) -> None:
    (home / "d").mkdir()
    (home / "d/cached").write_bytes(b"cached" * 100)
    (home / "d/other").write_bytes(b"other" * 100)
    mount = make_mount(home, "async_delay=1")
    assert (mount.point / "d/cached").read_bytes() == b"cached" * 100
    hidden = home.with_name("hidden")
    home.rename(hidden)
    home.mkdir()
    (mount.point / "d/new").write_bytes(b"new")
    mount.await_state("Unmounted", "Disconnected")
    assert (mount.point / "d/cached").read_bytes() == b"cached" * 100
    with pytest.raises(OSError, match="Input/output error"):
        (mount.point / "d/other").read_bytes()
    (mount.point / "d/other").rename(mount.point / "d/renamed")
    home.rmdir()
    hidden.rename(home)
    mount.flush()
    assert (mount.point / "d/renamed").read_bytes() == b"other" * 100
    assert sorted(os.listdir(home / "d")) == ["cached", "new", "renamed"]
    assert json.loads((mount.point / ".afm/status.json").read_text())["state"] == "Active"
