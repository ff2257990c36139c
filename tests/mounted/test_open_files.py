"""Files that are never closed, or never at rest, go home all the same; with the times that programs
have seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import wait_until

pytestmark = pytest.mark.mounted


def test_a_file_that_stays_open_goes_home(make_mount: MakeMount, home: Path) -> None:
    mount = make_mount(home, "async_delay=0.5")
    with (mount.point / "log").open("wb", buffering=0) as log:
        for turn in range(3):
            log.write(b"line\n")
            wait_until(
                lambda length=5 * (turn + 1): at_home(home / "log") == length, 20, "it is at home"
            )


def test_a_file_that_is_never_at_rest_goes_home(make_mount: MakeMount, home: Path) -> None:
    """Every replay finds it changed since; what is pushed goes on nevertheless."""
    mount = make_mount(home, "async_delay=0.5")
    seen: list[int] = []
    with (mount.point / "log").open("wb", buffering=0) as log:

        def write_on() -> bool:
            log.write(os.urandom(1000))
            length = at_home(home / "log")
            if length > (seen[-1] if seen else 0):
                seen.append(length)
            return len(seen) == 3

        wait_until(write_on, 60, "it has come further three times, while it was written")
    mount.flush()
    assert (home / "log").read_bytes() == (mount.point / "log").read_bytes()
    assert mount.status()["state"] == "Active"


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_was_removed_and_is_held_can_be_changed(
    make_mount: MakeMount, home: Path, kind: str
) -> None:
    """As on a local file system. Nobody else sees it, and home is told nothing."""
    mount = make_mount(home)
    path = mount.point / "held"
    if kind == "directory":
        path.mkdir()
        held = os.open(path, os.O_RDONLY)
        path.rmdir()
    else:
        os.mkfifo(path)
        held = os.open(path, os.O_RDWR)
        path.unlink()
    try:
        os.fchmod(held, 0o701)
        os.utime(held, ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_002))
        os.fchown(held, os.getuid(), os.getgid())
        there = os.fstat(held)
    finally:
        os.close(held)
    assert (there.st_mode & 0o7777, there.st_nlink) == (0o701, 0)
    assert there.st_mtime_ns == 1_600_000_000_000_000_002
    mount.flush()
    assert not (home / "held").exists()


def test_a_flush_changes_no_times(make_mount: MakeMount, home: Path) -> None:
    mount = make_mount(home)
    path = mount.point / "file"
    path.write_bytes(b"bytes")
    os.utime(path, ns=(1_600_000_000_123_456_789, 1_600_000_001_987_654_321))
    (mount.point / "dir").mkdir()
    (mount.point / "dir/inner").write_bytes(b"bytes")
    paths = [path, mount.point / "dir", mount.point / "dir/inner"]
    before = [one.stat().st_mtime_ns for one in paths]
    mount.flush()
    assert [one.stat().st_mtime_ns for one in paths] == before
    assert [(home / one.relative_to(mount.point)).stat().st_mtime_ns for one in paths] == before


def at_home(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_truncated_by_who_only_reads(make_mount: MakeMount, home: Path) -> None:
    """As Linux does it everywhere."""
    mount = make_mount(home)
    path = mount.point / "f"
    path.write_bytes(b"something")
    with open(os.open(path, os.O_RDONLY | os.O_TRUNC), "rb") as file:
        assert file.read() == b""
    assert path.stat().st_size == 0
    mount.flush()
    assert (mount.home / "f").read_bytes() == b""
