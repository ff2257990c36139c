"""afmctl at a real mount, alive, hung and dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount

pytestmark = pytest.mark.mounted

COLUMNS = "Fileset Name Fileset Target"


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    (home / "old").write_bytes(b"o" * 10_000)
    return make_mount(home, "fileset=sw1", "device=fs-test", "block_size=4096")


def _ok(mount: Mount, *words: str) -> str:
    run = mount.afmctl(*words)
    assert run.returncode == 0, run.stderr
    return run.stdout


def _refused(mount: Mount, *words: str) -> str:
    run = mount.afmctl(*words)
    assert (run.returncode, run.stdout) == (1, "")
    return run.stderr


def test_from_inactive_to_active(mount: Mount, home: Path) -> None:
    header, ruler, row = _ok(mount, "getstate").splitlines()
    assert header.split() == [
        *("Fileset", "Name", "Fileset", "Target", "Cache", "State"),
        *("Gateway", "Node", "Queue", "Length", "Queue", "numExec"),
    ]
    assert set(ruler) == {"-", " "}
    assert row.split() == ["sw1", str(home), "Inactive", os.uname().nodename, "0", "0"]
    (mount.point / "new").write_bytes(b"n")
    assert json.loads(_ok(mount, "getstate", "--json"))["state"] == "Dirty"
    assert {e["path"] for e in map(json.loads, _ok(mount, "queue").splitlines())} >= {"new"}
    assert _ok(mount, "flushPending", "--wait").startswith("flushPending: through ")
    status = json.loads(_ok(mount, "getstate", "--json"))
    assert (status["state"], status["queue_length"]) == ("Active", 0)
    assert (home / "new").read_bytes() == b"n"


def test_a_command_activates(mount: Mount) -> None:
    assert mount.status()["state"] == "Inactive"
    _ok(mount, "events")
    assert mount.status()["state"] == "Active"


def test_cached(mount: Mount) -> None:
    assert _ok(mount, "cached", "old") == (
        "uncached 0 of 10000 bytes, 0 of 3 blocks of 4096 bytes\n"
    )
    with open(mount.point / "old", "rb", buffering=0) as file:
        os.pread(file.fileno(), 1, 9999)
    assert _ok(mount, "cached", str(mount.point / "old")) == (
        "partial 1808 of 10000 bytes, 1 of 3 blocks of 4096 bytes\n"
    )
    (mount.point / "old").read_bytes()
    assert _ok(mount, "cached", "old").startswith("cached 10000 of 10000 bytes")
    assert "No such file" in _refused(mount, "cached", "none")


def test_stop_lasts_over_mounts(mount: Mount, home: Path) -> None:
    _ok(mount, "stop"), _ok(mount, "stop")
    (mount.point / "new").write_bytes(b"n")
    assert "Stopped" in _refused(mount, "flushPending", "--wait")
    mount.remount()
    assert mount.status()["state"] == "Stopped"
    assert not (home / "new").exists()
    _ok(mount, "start"), _ok(mount, "start")
    _ok(mount, "flushPending", "--wait")
    assert (home / "new").exists()


def test_drop(mount: Mount, home: Path) -> None:
    _ok(mount, "stop")
    (mount.point / "new").touch()
    numbers = [json.loads(line)["id"] for line in _ok(mount, "queue").splitlines()]
    for number in numbers:
        _ok(mount, "drop", str(number))
    assert "no entry" in _refused(mount, "drop", str(numbers[0]))
    assert mount.status()["queue_length"] == 0
    assert not (home / "new").exists()


def test_home_away(mount: Mount, home: Path) -> None:
    (mount.point / "new").touch()
    home.rename(home.with_name("gone"))
    try:
        started = time.monotonic()
        reason = _refused(mount, "flushPending", "--wait")
        assert "Unmounted" in reason
        assert time.monotonic() - started < 40
    finally:
        home.with_name("gone").rename(home)
    mount.flush()  # it comes back by itself
    assert (home / "new").exists()


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    """A home of 1 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a file system of a given size")
    point = tmp_path / "small-home"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", point], check=True)
    yield point
    subprocess.run(["umount", "-l", point], check=True)


def test_a_full_home_ends_the_wait_and_room_lets_it_go_on(
    small_home: Path, make_mount: MakeMount
) -> None:
    mount = make_mount(small_home)
    data = os.urandom(3 << 20)
    (mount.point / "big").write_bytes(data)
    (mount.point / "small").write_bytes(b"s")
    reason = _refused(mount, "flushPending", "--wait")
    assert "refused by home and requeued" in reason
    assert "No space left" in reason
    assert (small_home / "small").read_bytes() == b"s"  # what can go has gone
    entries = [json.loads(line) for line in _ok(mount, "queue").splitlines()]
    assert {(e["path"], e["state"], e["errno"]) for e in entries} == {("big", "requeued", "ENOSPC")}
    assert mount.status()["requeued"] == len(entries)
    subprocess.run(["mount", "-o", "remount,size=16m", small_home], check=True)
    assert "tried again" in _ok(mount, "resumeRequeued")
    _ok(mount, "flushPending", "--wait")
    assert (small_home / "big").read_bytes() == data
    assert mount.status()["state"] == "Active"


def test_the_control_file_of_a_shell(mount: Mount) -> None:
    control = mount.point / ".afm/control"

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", script, "sh", str(control)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert shell('echo getstate >"$1" && cat "$1"').stdout.startswith(f"getstate\n{COLUMNS}")
    refused = shell('env echo drop 999999 >"$1"')  # dash's own says I/O error of all
    assert refused.returncode
    assert "busy" in refused.stderr
    assert control.read_text().startswith("drop 999999\ndrop: no entry 999999")


def test_a_mount_that_hangs_hangs_nobody(mount: Mount) -> None:
    assert mount.process is not None
    mount.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert "does not answer" in _refused(mount, "getstate")
        assert time.monotonic() - started < 30
    finally:
        mount.process.send_signal(signal.SIGCONT)
    assert _ok(mount, "getstate").startswith(COLUMNS)


def test_a_dead_mount_and_its_cache(mount: Mount) -> None:
    (mount.point / "new").write_bytes(b"new")
    mount.kill9("both")
    assert "is dead" in _refused(mount, "getstate")
    run = mount.afmctl("getstate", device=mount.cache)
    assert run.stdout.splitlines()[2].split()[2] == "Dirty"
    run = mount.afmctl("cached", "new", device=mount.cache)
    assert run.stdout.startswith("cached 3 of 3 bytes")
    run = mount.afmctl("queue", device=mount.cache)
    assert "Create" in {json.loads(line)["op"] for line in run.stdout.splitlines()}
