"""A remote home that hangs, dies, comes back, and is mounted again under a dirty cache."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.trees import differences, snapshot
from tests.remote.conftest import Remote
from tests.remote.worker import Worker

pytestmark = [pytest.mark.mounted, pytest.mark.remote]

AWAY = 3.0
"""Seconds for which home is away: longer than cached work may take, and than the async delay."""


def hang(remote: Remote) -> None:
    """The server answers nothing for a while, and then goes on."""
    remote.sshd.stop()
    time.sleep(AWAY)
    remote.sshd.cont()


def die(remote: Remote) -> None:
    """The server is killed and started again; sshfs reconnects or has to be mounted again."""
    remote.sshd.kill()
    time.sleep(AWAY)
    remote.sshd.start()
    if "reconnect" not in remote.sshfs.options:
        remote.sshfs.clear()
        remote.sshfs.mount()


def mount_again(remote: Remote) -> None:
    """sshfs is unmounted, as nothing below stays open for long, and mounted: new inode numbers."""
    end = time.monotonic() + 20
    while True:
        try:
            remote.sshfs.unmount()
            break
        except Exception:  # a batch is being replayed: busy
            assert time.monotonic() < end, "home is always busy"
            time.sleep(0.02)
    time.sleep(AWAY)
    remote.sshfs.mount()


def lose(remote: Remote) -> None:
    """sshfs itself is killed: a dead mount, which is then cleared and made again."""
    remote.sshfs.kill()
    time.sleep(AWAY)
    remote.sshfs.clear()
    remote.sshfs.mount()


def uncached(remote: Remote) -> Path:
    """A file of which nothing is cached."""
    return remote.mount.point / "two/old2"


@pytest.mark.parametrize(
    ("remote", "disturb"),
    [
        *[("reconnect", disturb) for disturb in (hang, mount_again, lose)],
        ("plain", die),
        pytest.param("reconnect", die, marks=pytest.mark.long),
        *[pytest.param("plain", disturb, marks=pytest.mark.long) for disturb in (hang, lose)],
    ],
    indirect=["remote"],
)
def test_cached_work_goes_on_and_everything_arrives(
    remote: Remote, disturb: Callable[[Remote], None]
) -> None:
    with Worker(remote.mount.point) as worker:
        time.sleep(1.5)  # so that a batch may be under way
        for _ in range(2):
            disturb(remote)
            time.sleep(1)
    print(f"{worker.done} calls, the slowest {worker.slowest}")
    assert worker.slowest[0] < 1.0, worker.slowest
    remote.mount.flush()
    assert remote.mount.status()["state"] == "Active"
    here, there = snapshot(remote.mount.point), snapshot(remote.served)
    assert differences(here, there, ignore=["mtime"]) == []
    seconds = 1_000_000_000  # sshfs keeps whole ones
    stale = [p for p, node in here.items() if node.mtime // seconds != there[p].mtime // seconds]
    assert not stale


def test_uncached_reads_fail_in_time_and_work_again(remote: Remote) -> None:
    remote.sshd.stop()
    start = time.monotonic()
    with pytest.raises(OSError) as caught:
        uncached(remote).read_bytes()
    assert caught.value.errno == errno.EIO
    assert time.monotonic() - start < 5
    start = time.monotonic()
    os.listdir(remote.mount.point / "two")
    (remote.mount.point / "two/old0").read_bytes()
    assert time.monotonic() - start < 1
    remote.sshd.cont()
    remote.mount.await_state("Active")
    assert uncached(remote).read_bytes() == (remote.served / "two/old2").read_bytes()


def test_umount_is_quick_while_home_hangs(remote: Remote) -> None:
    """What is pending stays in the cache, and arrives after the next mount."""
    remote.mount.await_state("Active")
    remote.sshd.stop()
    (remote.mount.point / "one/pending").write_bytes(b"pending")
    time.sleep(1.5)  # it is being replayed, and hangs
    start = time.monotonic()
    remote.mount.unmount()
    assert time.monotonic() - start < 10
    remote.sshd.cont()
    remote.mount.mount("none")
    remote.mount.flush()
    assert (remote.served / "one/pending").read_bytes() == b"pending"
