from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from afmfs.gateway.home import marker
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Claim, Marker
from afmfs.gateway.home.memory import is_left_over
from afmfs.gateway.home.probe import probe
from afmfs.model.properties import Properties

AS_ROOT = os.geteuid() == 0


def probed(root: Path, ours: Marker, previous: Properties | None = None) -> Properties:
    home = Home(os.fsencode(root))
    try:
        marker.claim(home, Claim(ours, first=True))
        return probe(home, previous)
    finally:
        home.close()
        assert os.listdir(root / ".afm" / "scratch") == []


def local(root: Path) -> Properties:
    """What a Linux file system with nanoseconds holds."""
    ino = (root / ".afm").stat().st_ino
    return Properties(devices=AS_ROOT, owners=AS_ROOT, marker_ino=ino)


def test_a_local_directory(root: Path, ours: Marker) -> None:
    assert replace(probed(root, ours), xattrs=True) == local(root)


def test_tmpfs(mounted: Callable[..., Path], ours: Marker) -> None:
    root = mounted("-t", "tmpfs", "none")
    assert replace(probed(root, ours), xattrs=True) == local(root)


def ext4(mounted: Callable[..., Path], image: Path, *options: str) -> Path:
    with image.open("wb") as file:
        file.truncate(4 << 20)
    try:
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", *options, image], check=True, capture_output=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("mkfs.ext4 is not installed")
    return mounted("-o", "loop", str(image))


def test_whole_seconds_where_inodes_are_small(
    mounted: Callable[..., Path], tmp_path: Path, ours: Marker
) -> None:
    root = ext4(mounted, tmp_path / "image", "-I", "128")
    assert replace(probed(root, ours), xattrs=True) == replace(local(root), mtime_ns=1_000_000_000)


def test_a_full_home(mounted: Callable[..., Path], ours: Marker) -> None:
    """It can't be tried out, and is still good for reading."""
    root = mounted("-t", "tmpfs", "-o", "nr_inodes=8", "none")
    home = Home(os.fsencode(root))
    try:
        marker.claim(home, Claim(ours, first=True))
        n = 0
        while True:
            try:
                (root / f"filler{n}").touch()
                n += 1
            except OSError:
                break
        found = probe(home)
        assert not (found.noreplace or found.exchange)
        known = replace(found, mtime_ns=1000, name_max=143)
        assert probe(home, known) == known
        later = replace(ours, counter=2, token="token-2")
        # nor can the counter be raised; a marker that is ours will do
        assert marker.claim(home, Claim(later, tokens={"token-1", "token-2"})) == ours
    finally:
        home.close()


def test_a_home_that_fills_up_meanwhile(mounted: Callable[..., Path], ours: Marker) -> None:
    """What failed for want of room says nothing of what home can hold."""
    root = mounted("-t", "tmpfs", "-o", "nr_inodes=64", "none")
    whole = probed(root, ours)
    assert whole.tried
    fillers = [root / f"filler{number}" for number in range(os.statvfs(root).f_favail)]
    for filler in fillers:
        filler.touch()
    found = [again(root)]
    while not found[-1].tried:
        fillers.pop().unlink()
        found.append(again(root))
    assert len(found) > 5
    assert found[-1] == whole
    assert {replace(one, marker_ino=0) for one in found[:-1]} == {
        Properties(noreplace=False, exchange=False, tried=False)
    }


def again(root: Path) -> Properties:
    home = Home(os.fsencode(root))
    try:
        return probe(home)
    finally:
        home.close()


def test_a_read_only_home(mounted: Callable[..., Path], root: Path, ours: Marker) -> None:
    home = Home(os.fsencode(root))
    marker.claim(home, Claim(ours, first=True))
    home.close()
    bound = mounted("--bind", "-o", "ro", str(root))
    subprocess.run(["mount", "-o", "remount,bind,ro", bound], check=True, capture_output=True)
    home = Home(os.fsencode(bound))
    try:
        later = replace(ours, counter=2, token="token-2")
        assert marker.claim(home, Claim(later, tokens={"token-1"})) == ours
        assert probe(home).marker_ino == (root / ".afm").stat().st_ino
    finally:
        home.close()


def test_inodes_that_changed_are_never_trusted_again(root: Path, ours: Marker) -> None:
    seen = probed(root, ours)
    assert probed(root, ours, seen).stable_inodes
    moved = probed(root, ours, replace(seen, marker_ino=seen.marker_ino + 1))
    assert not moved.stable_inodes
    assert not probed(root, ours, moved).stable_inodes


def test_leftovers_are_removed(root: Path, ours: Marker) -> None:
    left = root / ".afm" / "scratch" / "probe-00"
    left.mkdir(parents=True)
    (left / "file").touch()
    os.mkfifo(left / "fifo")
    (left / "symlink").symlink_to("/")
    now = int(time.time())
    (left.parent / f"look-0a-{now - 7200}").touch()
    probed(root, ours)
    assert not is_left_over(b"look-0a-%d" % now)  # somebody may be looking at it


def test_a_leftover_that_cannot_be_removed_does_no_harm(root: Path, ours: Marker) -> None:
    inner = root / ".afm" / "scratch" / "probe-00" / "directory"
    inner.mkdir(parents=True)
    home = Home(os.fsencode(root))
    marker.claim(home, Claim(ours, first=True))
    assert probe(home).symlinks
    home.close()
    assert os.listdir(root / ".afm" / "scratch") == ["probe-00"]


def test_each_refusal_is_a_no(root: Path, ours: Marker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "refused")

    for name in ("link", "symlink", "mknod", "chown", "chmod", "utime", "setxattr"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("afmfs.gateway.home.syscalls.renameat2", refuse)
    found = probed(root, ours)
    assert found == Properties(
        mtime_ns=2_000_000_000,
        noreplace=False,
        exchange=False,
        hard_links=False,
        symlinks=False,
        symlink_attributes=False,
        fifos=False,
        sockets=False,
        devices=False,
        owners=False,
        modes=False,
        xattrs=False,
        marker_ino=found.marker_ino,
    )
    assert found.holds(0o100000)
    assert not found.holds(0o120000)
