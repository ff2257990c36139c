from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from afmfs.gateway import marker, syscalls
from afmfs.gateway.connection import Remounted, connect
from afmfs.gateway.home import Home
from afmfs.gateway.marker import Claim, Forbidden, Marker
from afmfs.gateway.trouble import HomeAway, MayEnd


def raises_away(state: str) -> pytest.RaisesExc[HomeAway]:
    return pytest.raises(HomeAway, check=lambda exc: exc.state == state)


def take_over(root: Path, ours: Marker) -> None:
    home = Home(os.fsencode(root))
    marker.claim(home, Claim(replace(ours, identity="identity-2"), takeover=True))
    home.close()


def test_nothing_is_open_in_between(root: Path, ours: Marker) -> None:
    before = os.listdir("/proc/self/fd")
    connection = connect(os.fsencode(root), Claim(ours, first=True))
    assert os.listdir("/proc/self/fd") == before
    assert connection.properties.symlinks
    assert not connection.durable_files
    assert connection.marker == ours
    with connection.opened() as home:
        assert home.properties == connection.properties
        home.sync()
        connection.check(home)
    assert os.listdir("/proc/self/fd") == before


def test_no_such_path(tmp_path: Path, ours: Marker) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file", tmp_path / "file" / "x"):
        with raises_away("Unmounted"):
            connect(os.fsencode(path), Claim(ours, first=True))


def test_not_mounted_is_never_written_to(root: Path, ours: Marker) -> None:
    with raises_away("Unmounted"):
        connect(os.fsencode(root), Claim(ours))
    assert os.listdir(root) == []


def test_the_marker_goes_away(root: Path, ours: Marker) -> None:
    before = os.listdir("/proc/self/fd")
    connection = connect(os.fsencode(root), Claim(ours, first=True))
    with connection.opened() as home:
        shutil.rmtree(root / ".afm")
        with raises_away("Unmounted"):
            connection.check(home)
    with raises_away("Unmounted"), connection.opened():
        pass
    assert os.listdir("/proc/self/fd") == before


def test_another_cache_takes_it_over(root: Path, ours: Marker) -> None:
    connection = connect(os.fsencode(root), Claim(ours, first=True))
    with connection.opened() as home:
        take_over(root, ours)
        with raises_away("Unmounted"):
            connection.check(home)
    with raises_away("Unmounted"), connection.opened():
        pass
    with pytest.raises(Forbidden, match="belongs to"):
        connect(os.fsencode(root), Claim(ours))


def test_the_marker_is_damaged(root: Path, ours: Marker) -> None:
    connection = connect(os.fsencode(root), Claim(ours, first=True))
    (root / ".afm/home.json").write_text("{")
    with raises_away("Unmounted"), connection.opened():
        pass


def test_a_symlink_to_home_is_the_admins(root: Path, tmp_path: Path, ours: Marker) -> None:
    (tmp_path / "link").symlink_to(root)
    connection = connect(os.fsencode(tmp_path / "link"), Claim(ours, first=True))
    with connection.opened() as home:
        connection.check(home)


def test_unmounted_and_mounted_again(
    mounted: Callable[..., Path], root: Path, ours: Marker
) -> None:
    bound = mounted("--bind", str(root))
    path = os.fsencode(bound)
    connection = connect(path, Claim(ours, first=True))
    subprocess.run(["umount", bound], check=True)  # nothing is open: it isn't busy
    with raises_away("Unmounted"), connection.opened():
        pass
    subprocess.run(["mount", "--bind", root, bound], check=True)
    with pytest.raises(Remounted), connection.opened():
        pass
    connection = connect(path, Claim(ours), connection.properties)
    assert connection.properties.stable_inodes
    with connection.opened() as home:
        # taken away under a batch, and another one in its place
        subprocess.run(["umount", "-l", bound], check=True)
        with raises_away("Unmounted"):
            connection.check(home)
        subprocess.run(["mount", "--bind", root, bound], check=True)
        with pytest.raises(Remounted):
            connection.check(home)


def test_probed_once_per_mount(root: Path, ours: Marker, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect(os.fsencode(root), Claim(ours, first=True))
    if not syscalls.is_unique(connection.mount):
        pytest.skip("mounts have no unique numbers on this kernel")
    seen = replace(connection.properties, name_max=7)
    path = connection.path
    assert connect(path, Claim(ours), seen, connection.mount).properties == seen
    assert connect(path, Claim(ours), seen, "u1").properties.name_max > 7
    assert connect(path, Claim(ours), seen).properties.name_max > 7
    monkeypatch.setattr(syscalls, "is_unique", lambda number: False)
    assert connect(path, Claim(ours), seen, connection.mount).properties.name_max > 7


def test_one_bad_file_is_not_a_home_that_is_away(root: Path, ours: Marker) -> None:
    connection = connect(os.fsencode(root), Claim(ours, first=True))
    bad = HomeAway("Disconnected", "file: Input/output error")
    full = MayEnd(errno.ENOSPC, "full")
    with connection.opened() as home:
        judged = connection.judge(home, bad)
        assert isinstance(judged, MayEnd)
        assert judged.errno == errno.EIO
        assert connection.judge(home, full) is full
        shutil.rmtree(root)
        assert isinstance(connection.judge(home, bad), HomeAway)
        assert connection.judge(home, full) is full


def test_mounts_have_numbers_on_old_kernels_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(root, os.O_PATH)
    new = syscalls.mount_id(fd)
    monkeypatch.setattr(syscalls, "_statx", lambda *_: -1)
    old = syscalls.mount_id(fd)
    os.close(fd)
    assert old.startswith("m")
    assert new[0] in "um"
