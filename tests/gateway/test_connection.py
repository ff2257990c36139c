from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from afmfs.gateway.home import marker, syscalls
from afmfs.gateway.home.connection import Connection, Era, PutBack, Remounted, connect
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Claim, Forbidden, Marker
from afmfs.gateway.home.trouble import HomeAway, MayEnd


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
    assert not connection.properties.is_fuse
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


def moved_on(connection: Connection) -> int:
    """As after a batch: how far home has come."""
    with connection.opened() as home:
        home.sync()
        return home.reached


def at_home(root: Path) -> int:
    return (root / ".afm/home.json").stat().st_mtime_ns


LATER_NS = 60 * 10**9


@pytest.fixture
def era() -> Era:
    return Era()


@pytest.fixture
def linked(root: Path, ours: Marker, era: Era) -> Connection:
    return connect(os.fsencode(root), Claim(ours, first=True), era=era)


def test_home_moves_on_and_never_back(
    root: Path, linked: Connection, era: Era, monkeypatch: pytest.MonkeyPatch
) -> None:
    era.reached = reached = moved_on(linked)
    assert reached == at_home(root)
    monkeypatch.setattr("time.time_ns", lambda: reached - LATER_NS)  # the clock is set back
    assert moved_on(linked) == reached
    monkeypatch.setattr("time.time_ns", lambda: reached + LATER_NS)
    assert moved_on(linked) == reached + LATER_NS


def test_an_older_state_of_home_is_seen_at_once(
    root: Path, ours: Marker, linked: Connection, era: Era
) -> None:
    era.reached = moved_on(linked)
    with linked.opened():
        pass
    era.reached += LATER_NS  # what is there now is older
    with pytest.raises(PutBack), linked.opened():
        pass
    before = at_home(root)
    again = connect(os.fsencode(root), Claim(replace(ours, counter=2)), era=era)
    assert again.older
    assert at_home(root) == before  # who goes on after a crash must see it as well
    with again.opened():
        pass


def test_a_batch_that_ends_while_home_is_opened(
    root: Path, linked: Connection, era: Era, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen of the marker is from before."""
    era.reached = moved_on(linked)

    def overtaken(home: Home) -> tuple[int, bytes, os.stat_result]:
        found = open_marker(home)
        era.reached += LATER_NS
        os.utime(root / ".afm/home.json", ns=(era.reached, era.reached))
        return found

    open_marker = marker.open_marker
    monkeypatch.setattr(marker, "open_marker", overtaken)
    with linked.opened() as home:
        linked.check(home)


def test_what_is_known_of_home_is_no_older_state(
    root: Path, ours: Marker, linked: Connection, era: Era, monkeypatch: pytest.MonkeyPatch
) -> None:
    era.reached = moved_on(linked) + LATER_NS
    os.utime(root / ".afm/home.json", ns=(era.reached, era.reached))
    next_mount = Claim(replace(ours, counter=2, token="token-2"), tokens={"token-1"})
    assert not connect(os.fsencode(root), next_mount, era=era).older
    assert at_home(root) == era.reached  # by a marker that was written anew before that time
    assert not connect(os.fsencode(root), next_mount, era=Era()).older  # nothing is known


def test_the_marker_of_an_earlier_mount_is_an_older_state(
    root: Path, ours: Marker, linked: Connection
) -> None:
    later = replace(ours, counter=3, token="token-3")
    with pytest.raises(Forbidden, match="old copy of the cache"):
        connect(os.fsencode(root), Claim(later, tokens={"token-2"}))
    found = connect(os.fsencode(root), Claim(later, tokens={"token-2"}, past={"token-1"}))
    assert found.older
    assert found.marker == later
