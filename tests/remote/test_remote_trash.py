"""The trash of a home that keeps whole seconds, no inode numbers, and knows no syncfs."""

from __future__ import annotations

import json
import os

import pytest

from tests.harness.mounting import Mount, wait_until
from tests.remote.conftest import BLOCK, Remote

pytestmark = [pytest.mark.mounted, pytest.mark.remote]


def events(mount: Mount, name: str) -> list[str]:
    lines = mount.afmctl("events", "--json").stdout.splitlines()
    return [line for line in lines if json.loads(line)["name"] == name]


def ok(mount: Mount, *words: str) -> str:
    run = mount.afmctl(*words)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_restored_and_emptied(remote: Remote) -> None:
    mount, served = remote.mount, remote.served / "one"
    partial = next(
        path for path in sorted(served.iterdir())
        if path.stat().st_size > BLOCK and "partial" in ok(mount, "cached", f"one/{path.name}")
    )  # fmt: skip
    before = partial.read_bytes()
    whole = served / "old0"
    here = (mount.point / "one" / "old0").read_bytes()
    whole.write_bytes(b"of a stranger")
    (mount.point / ".afm/control").write_text("resync\n")
    wait_until(lambda: events(mount, "afmManualResyncComplete"), 60, "the resync is done")
    assert partial.read_bytes() == before[:BLOCK] + bytes(len(before) - BLOCK)
    assert whole.read_bytes() == here
    ok(mount, "trash", "restore", "1", "one")
    assert partial.read_bytes() == before
    assert (mount.point / "one" / partial.name).read_bytes() == before
    assert (mount.point / "one" / "old0.restored-1").read_bytes() == b"of a stranger"
    with open(mount.point / "one" / partial.name, "r+b") as file:
        file.write(b"newer")
    mount.flush()
    assert partial.read_bytes() == b"newer" + before[5:]
    assert mount.status()["state"] == "Active"
    ok(mount, "trash", "empty", "1")
    assert os.listdir(remote.served / ".afm" / ".afmtrash") == []
