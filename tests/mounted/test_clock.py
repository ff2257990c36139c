"""The clock is set, forwards and back: nothing waits for a time that will not come."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
DAYS = 86400 * 10**9

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(not LIBRARIES, reason="faketime is not installed"),
]


class Clock:
    """That of the processes of mounts which are made by it: so far from the true one. Pauses last
    as long as ever."""

    def __init__(self, file: Path, make_mount: MakeMount) -> None:
        self._file, self._make_mount = file, make_mount
        self.set("+0")

    def set(self, offset: str) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(offset)
        beside.rename(self._file)

    def mount(self, home: Path, *options: str) -> Mount:
        mount = self._make_mount(home, *options, start=False)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "LD_PRELOAD": str(LIBRARIES[0]),
                "FAKETIME_TIMESTAMP_FILE": str(self._file),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }.items():
                patch.setenv(name, value)
            mount.mount()
        return mount


@pytest.fixture
def clock(tmp_path: Path, make_mount: MakeMount) -> Clock:
    return Clock(tmp_path / "clock", make_mount)


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("only root can mount a file system of a given size")
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", home], check=True)
    yield home
    subprocess.run(["umount", "-l", home], check=True)


def test_what_is_queued_ripens(home: Path, clock: Clock) -> None:
    mount = clock.mount(home, "async_delay=1", "durable_interval=1")
    for number, offset in enumerate(["+0", "-10d", "+10y", "-300d", "+1h"]):
        clock.set(offset)
        path = mount.point / f"f{number}"
        path.write_bytes(b"new")
        path.write_bytes(b"newer")
        wait_until(lambda: mount.status()["queue_length"] == 0, 30, f"at home, with {offset}")
        assert (home / path.name).read_bytes() == b"newer"
        assert (home / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns
        assert mount.status()["state"] == "Active"
    clock.set("-5d")
    mount.remount()
    assert sorted(os.listdir(mount.point)) == [f"f{n}" for n in range(5)]


def test_the_mount_follows_the_clock(home: Path, clock: Clock) -> None:
    """Else the tests here would show nothing."""
    mount = clock.mount(home)
    (mount.point / "then").touch()
    clock.set("-10d")
    (mount.point / "before").touch()
    (mount.point / "before").write_bytes(b"x")
    then, before = (os.stat(mount.point / name).st_ctime_ns for name in ("then", "before"))
    assert 9 * DAYS < then - before < 11 * DAYS


def test_what_home_refused_is_tried_again(small_home: Path, clock: Clock) -> None:
    """Also where the time for that, as the clock had it, is days away now; by a job, too."""
    mount = clock.mount(small_home, "async_delay=0")
    ballast, data = small_home / "ballast", os.urandom(600_000)
    ballast.write_bytes(bytes(900_000))
    (mount.point / "f").write_bytes(data)
    wait_until(lambda: mount.status()["requeued"], 30, "refused")
    clock.set("-10d")
    ballast.unlink()
    wait_until(lambda: mount.status()["queue_length"] == 0, 30, "at home")
    assert (small_home / "f").read_bytes() == data
    (small_home / "f").unlink()
    ballast.write_bytes(bytes(900_000))
    assert mount.afmctl("resync", "--yes").returncode == 0
    wait_until(lambda: mount.status()["requeued"], 30, "refused to a job")
    clock.set("-20d")
    ballast.unlink()
    mount.await_state("Active")
    assert (small_home / "f").read_bytes() == data
