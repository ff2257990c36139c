"""A resync to a remote home: it waits while home is away, goes on, and keeps what only home had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounting import wait_until
from tests.remote.conftest import BLOCK, Remote
from tests.remote.test_sshfs_home import hang, lose

pytestmark = [pytest.mark.mounted, pytest.mark.remote]

PARTIAL = "two/old4"
"""One block of it is cached, when it has more (see `warm_up`)."""


def damage(served: Path) -> None:
    """What somebody does at home: changes, removals, something new, another type."""
    (served / "one/old0").write_bytes(b"stray")
    (served / "one/old3").unlink()
    (served / "one/new").write_bytes(b"new at home")
    shutil.rmtree(served / "three")
    (served / "three").write_bytes(b"was a directory")


def trashed(served: Path) -> list[bytes]:
    return [p.read_bytes() for p in served.glob(".afm/.afmtrash/*/*") if p.name.isdigit()]


def cached_files(remote: Remote) -> list[str]:
    """Files that are cached as a whole."""
    found = []
    for path in sorted(remote.mount.point.glob("*/*")):
        run = remote.mount.afmctl("cached", "--json", str(path))
        if '"state": "cached"' in run.stdout:
            found.append(str(path.relative_to(remote.mount.point)))
    return found


def check(remote: Remote, cached: dict[str, bytes], partial: bytes) -> None:
    served = remote.served
    for name, data in cached.items():
        assert (served / name).read_bytes() == data, name
    assert (served / "one/new").read_bytes() == b"new at home"
    assert b"stray" in trashed(served)
    assert b"was a directory" in trashed(served)
    there = (served / PARTIAL).read_bytes()
    assert there == partial[:BLOCK] + bytes(len(there) - len(partial[:BLOCK]))
    if len(partial) > BLOCK:
        assert partial in trashed(served)


QUICK = "reconnect,dcache_timeout=1"
"""sshfs itself forgets in a second what it knows of names, not in twenty."""


@pytest.mark.parametrize("remote", ["reconnect"], indirect=True)
def test_what_sshfs_does_not_know_yet_is_not_overwritten(remote: Remote) -> None:
    repair(remote, None)


@pytest.mark.parametrize("remote", [QUICK], indirect=True)
@pytest.mark.parametrize("disturb", [pytest.param(hang, marks=pytest.mark.long), lose])
def test_a_resync_brings_a_remote_home_back(
    remote: Remote, disturb: Callable[[Remote], None]
) -> None:
    repair(remote, disturb)


def repair(remote: Remote, disturb: Callable[[Remote], None] | None) -> None:
    mount = remote.mount
    mount.await_state("Active")
    cached = {name: (mount.point / name).read_bytes() for name in cached_files(remote)}
    assert any(name.startswith("three/") for name in cached)
    partial = (remote.served / PARTIAL).read_bytes()
    damage(remote.served)
    done = mount.afmctl("resync", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "afmctl: Performing resync of fileset: mnt\n"
    if disturb is not None:
        disturb(remote)
    wait_until(lambda: mount.status()["job"] is None, 60, "the end of the resync")
    mount.await_state("Active")
    assert mount.events(100).count("afmManualResyncComplete") == 1
    check(remote, cached, partial)
