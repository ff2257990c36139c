"""Failover on real mounts: to an empty home, a prepared one, a former one, a wiped one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until
from tests.harness.trees import snapshot

pytestmark = pytest.mark.mounted

PERFORMING = "afmctl: Performing failover of fileset: sw1\n"


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    """Everything is cached but `evicted`, of which nothing is, and half of `partial`."""
    (home / "d").mkdir()
    for name in ("f", "g", "d/h", "evicted", "partial"):
        (home / name).write_bytes(os.urandom(20_000))
    os.link(home / "f", home / "d/link")
    mount = make_mount(home, "fileset=sw1", "block_size=4096", "async_delay=0")
    for name in ("f", "g", "d/h"):
        (mount.point / name).read_bytes()
    with open(mount.point / "partial", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 4096, 0)
    return mount


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new-home"
    path.mkdir()
    return path


def failover(mount: Mount, target: Path, *words: str) -> str:
    run = mount.afmctl("failover", "-j", "sw1", "--new-target", str(target), *words)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(PERFORMING)
    return run.stdout


def refused(mount: Mount, target: Path, *words: str) -> str:
    before = mount.status()
    run = mount.afmctl("failover", "-j", "sw1", "--new-target", str(target), *words)
    assert (run.returncode, run.stdout) == (1, "")
    after = mount.status()
    for field in ("target", "job", "queue_length", "gateway_pid"):
        assert after[field] == before[field]
    return run.stderr


def last_end(mount: Mount) -> dict[str, Any]:
    lines = (mount.point / ".afm/events").read_text().splitlines()
    found = [e for e in map(json.loads, lines) if e["name"] == "afmManualResyncComplete"]
    return dict(found[-1])


def test_to_an_empty_home(mount: Mount, home: Path, new: Path) -> None:
    (mount.point / "pending").write_bytes(b"pending")
    text = failover(mount, new, "--wait")
    assert "1 file neither here nor at home" in text
    status = mount.status()
    assert (status["state"], status["target"]) == ("Active", str(new))
    for name in ("f", "g", "d/h"):
        assert (new / name).read_bytes() == (home / name).read_bytes()
    assert os.path.samefile(new / "f", new / "d/link")
    assert (new / "partial").read_bytes() == (home / "partial").read_bytes()[:4096] + bytes(15_904)
    assert (new / "pending").read_bytes() == b"pending"
    assert not (new / "evicted").exists()
    with pytest.raises(OSError):
        (mount.point / "evicted").read_bytes()
    assert last_end(mount)["kind"] == "failover"
    (mount.point / "later").touch()
    mount.flush()
    assert (new / "later").exists() and not (home / "later").exists()
    mount.remount()
    assert mount.status()["target"] == str(new)


def test_after_a_copy_only_what_differs_is_queued(mount: Mount, home: Path, new: Path) -> None:
    subprocess.run(["cp", "-a", "-T", home, new], check=True)
    shutil.rmtree(new / ".afm")
    shutil.copystat(home, new)
    time_of_g = (new / "g").stat().st_mtime_ns
    os.utime(new / "g", ns=(time_of_g, time_of_g + 1))
    text = failover(mount, new, "--wait")
    event = last_end(mount)
    assert (event["files"], event["bytes"], event["aside"]) == (1, 20_000, 0), text
    assert (new / "g").stat().st_mtime_ns == time_of_g
    assert (mount.point / "evicted").read_bytes() == (home / "evicted").read_bytes()
    assert (mount.point / "partial").read_bytes() == (home / "partial").read_bytes()


def test_refusals_change_nothing(
    mount: Mount, home: Path, new: Path, make_mount: MakeMount, tmp_path: Path
) -> None:
    assert "No such file or directory; is the new" in refused(mount, tmp_path / "none")
    other = tmp_path / "another-home"
    other.mkdir()
    make_mount(other).unmount()
    marker = (other / ".afm/home.json").read_bytes()
    assert "this home belongs to" in refused(mount, other)
    assert (other / ".afm/home.json").read_bytes() == marker
    assert "no marker" in refused(mount, new, "--target-only")
    assert not list(new.iterdir())
    assert "inside the home" in refused(mount, mount.cache.parent)
    assert not (mount.cache / "gateway/2").exists()
    (mount.point / "f").write_bytes(b"goes on")
    mount.flush()
    assert (home / "f").read_bytes() == b"goes on"


def test_away_from_a_home_that_is_gone_for_good(mount: Mount, home: Path, new: Path) -> None:
    shutil.rmtree(home)
    (mount.point / "written").write_bytes(b"while it was gone")
    (mount.point / "g").unlink()
    mount.await_state("Unmounted")
    failover(mount, new, "--wait")
    assert (new / "written").read_bytes() == b"while it was gone"
    assert not (new / "g").exists()
    assert mount.status()["state"] == "Active"


def test_back_to_the_former_home(mount: Mount, home: Path, new: Path) -> None:
    failover(mount, new, "--wait")
    (mount.point / "f").write_bytes(b"written at the new one")
    mount.flush()
    mount.remount()  # its marker's word is not this mount's
    failover(mount, home, "--wait")
    assert (home / "f").read_bytes() == b"written at the new one"
    assert (mount.cache / "gateway/3/gateway.db").exists()


def test_a_wiped_home_says_the_way_back(mount: Mount, home: Path) -> None:
    whole = (mount.point / "f").read_bytes()
    shutil.rmtree(home)
    home.mkdir()
    mount.await_state("Unmounted")
    (mount.point / "new").touch()
    assert f"`failover --new-target {home}`" in mount.status()["reason"]
    assert not list(home.iterdir())
    failover(mount, home, "--wait")
    assert (home / "f").read_bytes() == whole
    assert (home / "new").exists()


def test_another_address_of_the_same_home(mount: Mount, home: Path) -> None:
    before = snapshot(home)
    moved = home.with_name("moved")
    home.rename(moved)
    mount.await_state("Unmounted")
    (mount.point / "pending").write_bytes(b"pending")
    failover(mount, moved, "--target-only")
    mount.flush()
    assert (moved / "pending").read_bytes() == b"pending"
    assert mount.status()["job"] is None
    assert (mount.point / "evicted").read_bytes() == (moved / "evicted").read_bytes()
    after = snapshot(moved)
    assert {path for path in after if after[path] != before.get(path)} == {b"", b"pending"}
    assert not (mount.cache / "gateway/2").exists()


def test_it_goes_on_after_a_kill(mount: Mount, home: Path, new: Path) -> None:
    mount.afmctl("stop")
    failover(mount, new)
    assert mount.status()["state"] == "Stopped"
    mount.kill9("both")
    mount.mount("none")
    status = mount.status()
    assert (status["target"], status["job"]["kind"]) == (str(new), "failover")
    mount.afmctl("start")
    mount.await_state("Active", "Inactive")
    (mount.point / "f").read_bytes()
    kept = {b"f", b"g", b"d", b"d/h", b"d/link"}
    ours, theirs = snapshot(home), snapshot(new)
    for path in kept:
        assert ours[path] == theirs[path]


def test_a_gateway_that_hangs_is_left_behind(mount: Mount, new: Path) -> None:
    (gateway,) = mount.gateways()
    gateway.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    failover(mount, new, "--wait")
    assert time.monotonic() - started < 30
    wait_until(lambda: not gateway.is_running(), 10, "it is killed")
    assert (new / "f").exists()


def test_a_second_failover_to_the_same_home_queues_nothing(mount: Mount, new: Path) -> None:
    failover(mount, new, "--wait")
    failover(mount, new, "--wait")
    assert last_end(mount)["files"] == 0


def test_nulls_of_one_home_are_not_taken_to_another(
    make_mount: MakeMount, tmp_path: Path, home: Path
) -> None:
    """Back at a home that has the data, reads see that, not the nulls of the home in between."""
    data = os.urandom(4 * 65536)
    (home / "f").write_bytes(data)
    mount = make_mount(home, "block_size=65536", "async_delay=0")
    with (mount.point / "f").open("rb", buffering=0) as file:
        assert file.read(10) == data[:10]
    other = tmp_path / "other"
    other.mkdir()
    for target in (other, home):
        done = mount.afmctl("failover", "--new-target", str(target), "--wait")
        assert done.returncode == 0, done.stderr
        seen = (mount.point / "f").read_bytes()
    assert (other / "f").read_bytes()[65536:] == bytes(3 * 65536)
    assert seen == data
