"""`cache_size=`: no more is cached, and what makes room are clean files, the least recently used
first. No small disk is needed for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.disk.scene import Files, away, flush, say
from tests.harness.mounting import Mount, wait_until

pytestmark = pytest.mark.mounted

BLOCK = 65536
SIZE = 16 * BLOCK
OPTIONS = ("cache_size=1M", "block_size=64K", "async_delay=1000")


def at_home(home: Path, count: int) -> dict[str, bytes]:
    """So many files of a block each."""
    found = {f"h{number:02}": os.urandom(BLOCK) for number in range(count)}
    for name, data in found.items():
        (home / name).write_bytes(data)
    return found


def is_cached(mount: Mount, name: str) -> bool:
    """Asked without being a use of the file."""
    return os.getxattr(mount.point / name, "user.afm.state").startswith(b"cached")


def cached(mount: Mount) -> int:
    size = int(mount.status()["cached_bytes"])
    assert size <= SIZE
    return size


def test_the_least_recently_used_go(make_mount: MakeMount, home: Path) -> None:
    files = at_home(home, 20)
    mount = make_mount(home, *OPTIONS, "xattrs")
    for name in sorted(files)[:14]:
        assert (mount.point / name).read_bytes() == files[name]
    assert cached(mount) == 14 * BLOCK
    for name in ("h00", "h02"):
        os.close(os.open(mount.point / name, os.O_RDONLY))
    for name in sorted(files)[14:16]:
        assert (mount.point / name).read_bytes() == files[name]
    # From 90 % on, and down to 80 %: 15 are too many, and three have to go; of 16, four.
    wait_until(lambda: mount.status()["evicted_files"] >= 3, 10, "room is made")
    assert cached(mount) <= 13 * BLOCK
    gone = {name for name in sorted(files)[:16] if not is_cached(mount, name)}
    assert gone in ({"h01", "h03", "h04"}, {"h01", "h03", "h04", "h05"})
    assert mount.status()["evicted_files"] == len(gone)
    for name, data in files.items():
        assert (mount.point / name).read_bytes() == data
        cached(mount)


def test_what_is_dirty_stays(make_mount: MakeMount, home: Path) -> None:
    """Whatever is read beside it; what the cache has no room for is read all the same."""
    clean = at_home(home, 20)
    mount = make_mount(home, *OPTIONS)
    os.listdir(mount.point)
    say(mount, "stop")
    for name in ("h00", "h07"):  # of home's files some are dirty, too
        (mount.point / name).read_bytes()
        clean[name] = os.urandom(BLOCK)
        with (mount.point / name).open("r+b") as file:
            file.write(clean[name])
    dirty = Files(mount, BLOCK)
    assert dirty.until_full() == errno.ENOSPC
    assert len(dirty.written) in (13, 14)
    assert "afmCacheFull" in mount.events()
    assert "cache_size is reached" in mount.status()["reason"]
    for name, data in clean.items():
        assert (mount.point / name).read_bytes() == data
        cached(mount)
    dirty.check(mount.point)
    say(mount, "start")
    flush(mount)
    dirty.check(home)
    dirty.write(8)
    flush(mount)
    dirty.check(home)
    dirty.check(mount.point)


def test_a_file_larger_than_all(make_mount: MakeMount, home: Path) -> None:
    """It is read, written, and read again, piece by piece."""
    (home / "large").write_bytes(large := os.urandom(4 * SIZE + 100))
    mount = make_mount(home, *OPTIONS)
    assert (mount.point / "large").read_bytes() == large
    cached(mount)
    (mount.point / "new").write_bytes(large[::-1])
    cached(mount)
    flush(mount)
    assert (home / "new").read_bytes() == large[::-1]
    assert (mount.point / "new").read_bytes() == large[::-1]
    with (mount.point / "large").open("r+b") as file:
        for place in range(0, len(large), BLOCK // 2):
            file.seek(place)
            file.write(b"x")
    flush(mount)
    expected = bytearray(large)
    expected[:: BLOCK // 2] = b"x" * len(range(0, len(large), BLOCK // 2))
    assert (home / "large").read_bytes() == expected
    assert (mount.point / "large").read_bytes() == expected
    cached(mount)


def test_without_eviction(make_mount: MakeMount, home: Path) -> None:
    """As with AFM's: beyond the hard limit a writer hears ENOSPC, and nobody makes room."""
    clean = at_home(home, 20)
    mount = make_mount(home, *OPTIONS, "auto_eviction=no")
    for name, data in clean.items():
        assert (mount.point / name).read_bytes() == data
    assert cached(mount) == SIZE
    files = Files(mount, BLOCK)
    assert files.until_full() == errno.ENOSPC
    assert not files.written
    assert "auto_eviction is off" in mount.status()["reason"]
    mount.afmctl("evict", "--safe-limit", "512K")
    wait_until(lambda: cached(mount) <= SIZE // 2, 10, "the administrator has made room")
    files.write(8)
    flush(mount)
    files.check(home)
    assert mount.status()["evicted_files"] == 0  # none by itself


def test_a_smaller_one(make_mount: MakeMount, home: Path) -> None:
    """It is remembered, and holds at once at the mount that changes it."""
    files = at_home(home, 20)
    mount = make_mount(home, "block_size=64K", "xattrs")
    for name in files:
        (mount.point / name).read_bytes()
    assert mount.status()["cached_bytes"] == 20 * BLOCK
    mount.remount("cache_size=1M", "evict_at=50")
    wait_until(lambda: mount.status()["cached_bytes"] <= SIZE // 2, 10, "room is made")
    assert not is_cached(mount, "h00")
    assert is_cached(mount, "h19")
    mount.remount()
    assert mount.status()["cache_size"] == SIZE


def test_free_space(make_mount: MakeMount, home: Path) -> None:
    """What `df` shows as available is what can be written: evictable bytes count, dirty ones
    don't."""
    files = at_home(home, 20)
    mount = make_mount(home, *OPTIONS)
    for name in files:
        (mount.point / name).read_bytes()
    assert available(mount) == SIZE
    say(mount, "stop")
    (mount.point / "dirty").write_bytes(bytes(4 * BLOCK))
    assert available(mount) == SIZE - 4 * BLOCK
    say(mount, "start")
    flush(mount)
    assert available(mount) == SIZE
    away(home, mount)  # what is evicted now could not be read
    assert available(mount) == SIZE - mount.status()["cached_bytes"]


def available(mount: Mount) -> int:
    found = os.statvfs(mount.point)
    assert found.f_bavail <= found.f_blocks
    return found.f_bavail * found.f_frsize
