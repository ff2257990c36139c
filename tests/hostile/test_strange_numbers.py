"""Times, sizes and owners that nobody needs and anybody can set."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import wait_until
from tests.harness.trees import assert_same

pytestmark = pytest.mark.mounted

SECOND = 10**9
TIMES = {
    "1901": -(2**31) * SECOND, "1969": -1, "2038": 2**31 * SECOND + 1, "2262": 2**63 - 1,
    "2300": 10_413_792_000 * SECOND, "2446": (2**34 - 2**31 - 1) * SECOND + 999_999_999,
    "9999": 253_402_300_799 * SECOND, "beyond": 2**62 * SECOND,
}  # fmt: skip


def test_any_times_at_home_and_here(home: Path, make_mount: MakeMount) -> None:
    """One such file at home must not hide the whole directory."""
    (home / "d").mkdir()
    for year, ns in TIMES.items():
        (home / "d" / year).write_text(year)
        os.utime(home / "d" / year, ns=(ns, ns))
        os.symlink("x", home / "d" / f"link {year}")
        os.utime(home / "d" / f"link {year}", ns=(ns, ns), follow_symlinks=False)
    os.utime(home / "d", ns=(TIMES["2300"], TIMES["2300"]))
    mount = make_mount(home, "async_delay=0")
    here = mount.point / "d"
    for year, ns in TIMES.items():
        assert (here / year).read_text() == year
        known = (home / "d" / year).stat().st_mtime_ns  # as far as home can hold it
        assert (here / year).stat().st_mtime_ns == min(known, 2**63 - 1)
        with (here / f"new {year}").open("w") as file:
            file.write(year)
        os.utime(here / f"new {year}", ns=(ns, ns))
        assert (here / f"new {year}").stat().st_mtime_ns == min(ns, 2**63 - 1)
        os.chmod(here / year, 0o600)
    mount.flush()
    assert mount.status()["state"] == "Active"
    assert_same(home, mount.point, ignore=["mtime"])
    assert mount.afmctl("verify").returncode in (0, 1)  # home may not go so far
    mount.remount()
    assert_same(home, mount.point, ignore=["mtime"])
    assert "Traceback" not in mount.log_tail(1000)


def test_any_sizes(home: Path, make_mount: MakeMount) -> None:
    """What home can't hold is told of; everything else goes on."""
    mount = make_mount(home, "async_delay=0")
    for n, size in enumerate((2**40, 2**44 + 1, 2**53 + 1, 2**60, 2**62, 2**63 - 4096, 2**63 - 1)):
        path = mount.point / f"f{n}"
        path.write_text("x")
        try:
            os.truncate(path, size)
        except OSError as error:
            assert error.errno in (errno.EFBIG, errno.ENOSPC, errno.EINVAL)
            continue
        assert path.stat().st_size == size
        with path.open("rb") as file:
            file.seek(size - 5)
            assert file.read() == b"\0" * 5
    (mount.point / "last").write_text("last")
    wait_until(lambda: (home / "last").exists(), 30, "replay goes on")
    assert mount.afmctl("queue").returncode == 0
    mount.remount()
    assert (mount.point / "last").read_text() == "last"
    assert "Traceback" not in mount.log_tail(1000)


def test_a_size_takes_no_room_from_others(home: Path, make_mount: MakeMount) -> None:
    """Holes fill nothing: what others have cached stays, and what they write is taken."""
    (home / "old").write_bytes(b"old" * 100_000)
    mount = make_mount(home, "async_delay=0")
    (mount.point / "old").read_bytes()
    refused = 0
    for n in range(70):
        (mount.point / f"huge{n}").touch()
        try:
            os.truncate(mount.point / f"huge{n}", 2**56)
        except OSError as error:
            assert error.errno == errno.EFBIG
            refused += 1
    assert refused, "their sum can't be counted"
    (mount.point / "new").write_bytes(b"new" * 1_000_000)
    assert (mount.point / "new").read_bytes() == b"new" * 1_000_000
    assert "cached 300000 of" in mount.afmctl("cached", str(mount.point / "old")).stdout
    for n in range(70):
        (mount.point / f"huge{n}").unlink()
    mount.flush()
    mount.remount()
    assert mount.status()["cached_bytes"] <= 3_300_000 + 2 * (1 << 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_any_owners(home: Path, make_mount: MakeMount) -> None:
    (home / "old").touch()
    os.chown(home / "old", 2**32 - 2, 2**32 - 2)
    mount = make_mount(home, "async_delay=0")
    assert (mount.point / "old").stat().st_uid == 2**32 - 2
    for owner in (0, 65534, 2**31, 2**32 - 2):
        (mount.point / str(owner)).touch(0o7777)
        os.chown(mount.point / str(owner), owner, owner)
        os.chmod(mount.point / str(owner), 0o7777)
    mount.flush()
    assert_same(home, mount.point)
    assert "Traceback" not in mount.log_tail(1000)
