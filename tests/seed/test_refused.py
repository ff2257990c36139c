"""A resync while home refuses some changes: nothing counts as sent that is not there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until

pytestmark = pytest.mark.mounted

MakeKnown = Callable[[Path], Mount]
"""Mounts a home that has a file `known`, which is cached."""


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounts a tmpfs")
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", home], check=True)
    yield home
    subprocess.run(["umount", "-l", home], check=True)


def flush(mount: Mount) -> int:
    return mount.afmctl("flushPending", "--wait", "--timeout", "20").returncode


def automatic_resync(mount: Mount) -> None:
    """Of a file that was changed at home, with the next request; to its end."""
    (mount.home / "known").write_bytes(b"a stray write")
    (mount.point / "known").write_bytes(b"changed here")
    assert flush(mount) == 1
    (mount.point / "request").touch()
    wait_until(lambda: "afmManualResyncComplete" in mount.afmctl("events").stdout, 30, "it is done")


@pytest.fixture
def make(make_mount: MakeMount) -> MakeKnown:
    def made(home: Path) -> Mount:
        (home / "known").write_bytes(b"known")
        mount = make_mount(home, "async_delay=1")
        assert (mount.point / "known").read_bytes() == b"known"
        return mount

    return made


def test_a_home_that_is_full(make: MakeKnown, small_home: Path) -> None:
    mount = make(small_home)
    data = os.urandom(2 << 20)
    (mount.point / "large").write_bytes(data)
    assert flush(mount) == 1
    automatic_resync(mount)
    subprocess.run(["mount", "-o", "remount,size=10m", small_home], check=True)
    mount.afmctl("resumeRequeued")
    with (mount.point / "large").open("ab") as file:
        file.write(b"one more line")
    assert flush(mount) == 0
    assert (small_home / "large").read_bytes() == data + b"one more line"
    assert mount.afmctl("verify", "--data").returncode == 0
    assert mount.afmctl("evict", "--file", str(mount.point / "large")).returncode == 0
    assert (mount.point / "large").read_bytes() == data + b"one more line"


def test_a_removal_that_is_refused_and_a_new_file(make: MakeKnown, home: Path) -> None:
    (home / "a").write_bytes(b"old")
    mount = make(home)
    data = os.urandom(100_000)
    subprocess.run(["chattr", "+i", home / "a"], check=True)
    try:
        (mount.point / "a").unlink()
        assert flush(mount) == 1
        (mount.point / "a").write_bytes(data)
        automatic_resync(mount)
        assert (home / "a").read_bytes() == b"old"
    finally:
        subprocess.run(["chattr", "-i", home / "a"], check=True)
    mount.afmctl("resumeRequeued")
    assert flush(mount) == 0
    assert (home / "a").read_bytes() == data
    assert mount.afmctl("verify", "--data").returncode == 0


def test_a_resync_that_waits_gives_way_to_another(make: MakeKnown, home: Path) -> None:
    """Home is changed once more meanwhile: all but what it refuses goes on."""
    (home / "held").write_bytes(b"held")
    mount = make(home)
    assert (mount.point / "held").read_bytes() == b"held"
    (home / "held").write_bytes(b"a stray write")
    subprocess.run(["chattr", "+i", home / "held"], check=True)
    try:
        (mount.point / "held").write_bytes(b"held here")
        await_waiting(mount, 1)
        (home / "known").write_bytes(b"another stray write")
        (mount.point / "known").write_bytes(b"changed here")
        await_waiting(mount, 2)
        assert (home / "known").read_bytes() == b"changed here"
        (mount.point / "new").write_bytes(b"new")
        assert flush(mount) == 1
        assert (home / "new").read_bytes() == b"new"
    finally:
        subprocess.run(["chattr", "-i", home / "held"], check=True)
    mount.afmctl("resumeRequeued")
    assert flush(mount) == 0
    assert (home / "held").read_bytes() == b"held here"
    assert mount.afmctl("verify", "--data").returncode == 0


def await_waiting(mount: Mount, job: int) -> None:
    """Till a job, started by a request, waits for what home refuses."""

    def waits() -> bool:
        (mount.point / "request").touch()
        said = mount.status()["job"]
        return said is not None and (said["id"], said["phase"]) == (job, "waiting")

    assert flush(mount) == 1
    wait_until(waits, 30, f"job {job} waits")
