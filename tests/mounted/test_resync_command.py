"""Resync by hand and by itself, on real mounts."""

from __future__ import annotations

import errno
import json
import os
import select
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import REPOSITORY, Mount

pytestmark = pytest.mark.mounted

PERFORMING = "afmctl: Performing resync of fileset: sw1\n"
DATA = b"0123456789" * 1000


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    for name in ("f", "g", "uncached"):
        (home / name).write_bytes(DATA)
    (home / "unread").mkdir()
    mount = make_mount(home, "fileset=sw1", "block_size=4096", "async_delay=0")
    for name in ("f", "g"):
        (mount.point / name).read_bytes()
    return mount


def rewrite(path: Path, data: bytes = b"a stray write") -> None:
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))


def meet(mount: Mount) -> None:
    """Have the change of `f` at home met."""
    with open(mount.point / "f", "r+b") as file:
        file.write(b"X")
    mount.await_state("NeedsResync")


def events(mount: Mount, name: str) -> list[dict[str, Any]]:
    lines = (mount.point / ".afm/events").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["name"] == name]


def test_by_hand(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    (home / "g").unlink()
    run = mount.afmctl("resync", "-j", "sw1")  # not at a terminal
    assert run.returncode == 1
    assert "move 1 entry (13 bytes) into home's trash" in run.stderr
    assert (home / "f").read_bytes() == b"a stray write"
    run = mount.afmctl("resync", "-j", "sw1", "--yes", "--wait")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{PERFORMING}resync: ")
    assert mount.status()["state"] == "Active"
    assert (home / "f").read_bytes() == (home / "g").read_bytes() == DATA
    (event,) = events(mount, "afmManualResyncComplete")
    assert (event["kind"], event["manual"], event["aside"]) == ("resync", True, 1)


def test_the_dry_run_says_what_the_run_does(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    run = mount.afmctl("resync", "--dry-run", "--json")
    *rows, last = map(json.loads, run.stdout.splitlines())
    assert [row["path"] for row in rows if "aside" in row] == ["f"]
    assert (home / "f").read_bytes() == b"a stray write"
    assert mount.afmctl("resync", "--yes", "--wait").returncode == 0
    (event,) = events(mount, "afmManualResyncComplete")
    figures = {name: event[name] for name in ("aside", "nulled", "nulled_bytes", "adopted", "lost")}
    assert figures == {name: last["summary"][name] for name in figures}
    assert "push" in mount.afmctl("resync", "--dry-run").stdout


def at_terminal(mount: Mount, answer: bytes, *words: str) -> tuple[int, str]:
    """Run afmctl at a terminal of its own, answer its question; exit status and all it showed."""
    ours, theirs = os.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "afmfs.admin.afmctl", str(mount.point), *words],
        cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    shown, answered = b"", False
    try:
        while select.select([ours], [], [], 60)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # everybody has closed it
                break
            if b"[y/N]" in shown and not answered:
                answered = True
                os.write(ours, answer)
        return run.wait(10), shown.decode()
    finally:
        run.kill()
        os.close(ours)


def test_at_a_terminal_it_asks_and_draws_a_bar(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    status, shown = at_terminal(mount, b"n\n", "resync")
    assert (status, "move 1 entry (13 bytes) into home's trash. Go on?" in shown) == (1, True)
    assert "nothing was done" in shown
    assert (home / "f").read_bytes() == b"a stray write"
    status, shown = at_terminal(mount, b"y\n", "resync", "--wait")
    assert (status, "\u2501" in shown) == (0, True)
    assert (home / "f").read_bytes() == DATA
    status, shown = at_terminal(mount, b"", "resync")  # there is nothing to ask
    assert (status, "Go on?" in shown) == (0, False)


def test_through_the_control_file_it_asks_nobody(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    control = mount.point / ".afm/control"
    control.write_text("resync")
    assert control.read_text() == f"resync\n{PERFORMING}"
    mount.await_state("Active")
    assert (home / "f").read_bytes() == DATA


def test_dirty_is_refused_and_wait_flushes_first(mount: Mount, home: Path) -> None:
    mount.remount("async_delay=1000")
    (mount.point / "new").write_bytes(b"new")
    run = mount.afmctl("resync", "--yes")
    assert run.returncode == 1
    assert "sw1 is Dirty" in run.stderr and "`resync --wait`" in run.stderr
    assert mount.afmctl("resync", "--yes", "--wait").returncode == 0
    assert (home / "new").read_bytes() == b"new"


def test_another_mode_is_refused(mount: Mount) -> None:
    mount.unmount()
    with sqlite3.connect(mount.cache / "cache.db") as database:
        database.execute("INSERT OR REPLACE INTO fileset VALUES ('mode', 'iw')")
    database.close()
    mount.mount("none")
    run = mount.afmctl("resync", "--yes")
    assert (run.returncode, run.stdout) == (1, "")
    assert "resync is for filesets of mode sw, sw1 is iw" in run.stderr
    with pytest.raises(PermissionError):
        (mount.point / ".afm/control").write_text("resync")
    assert mount.status()["job"] is None


# -- by itself -----------------------------------------------------------------------------------


def test_the_next_operation_starts_it(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    meet(mount)
    assert mount.afmctl("getstate").stdout.split()[-4] == "NeedsResync"
    assert not events(mount, "afmResyncStart")
    (mount.point / "new").touch()
    mount.await_state("Active")
    assert (home / "f").read_bytes() == b"X" + DATA[1:]
    assert (home / "new").exists()
    (event,) = events(mount, "afmManualResyncComplete")
    assert (event["manual"], event["reason"]) == (
        False,
        events(mount, "afmResyncStart")[0]["reason"],
    )


def test_the_next_directory_read_starts_it(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    meet(mount)
    os.listdir(mount.point / "unread")
    mount.await_state("Active")
    assert (home / "f").read_bytes() == b"X" + DATA[1:]


def test_the_read_that_meets_a_change_fails_once_and_the_next_request_starts_it(
    mount: Mount, home: Path
) -> None:
    rewrite(home / "uncached", b"changed")
    with pytest.raises(OSError) as caught:
        (mount.point / "uncached").read_bytes()
    assert caught.value.errno == errno.EIO
    mount.await_state("NeedsResync")
    assert not events(mount, "afmResyncStart")
    os.listdir(mount.point / "unread")
    mount.await_state("Active")
    assert (mount.point / "uncached").read_bytes() == b"changed"


def test_a_flush_starts_it_and_waits_for_both(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    meet(mount)
    run = mount.afmctl("flushPending", "--wait")
    assert run.returncode == 0, run.stderr
    assert (home / "f").read_bytes() == b"X" + DATA[1:]
    assert mount.status()["state"] == "Active"


def test_a_flush_that_meets_the_change_waits_for_both(mount: Mount, home: Path) -> None:
    mount.remount("async_delay=1000")
    rewrite(home / "f")
    with open(mount.point / "f", "r+b") as file:
        file.write(b"X")
    run = mount.afmctl("flushPending", "--wait")
    assert run.returncode == 0, run.stderr
    assert (home / "f").read_bytes() == b"X" + DATA[1:]


def test_off_it_waits_for_the_administrator_over_mounts(mount: Mount, home: Path) -> None:
    assert mount.afmctl("auto_resync", "off").returncode == 0
    rewrite(home / "f")
    meet(mount)
    (mount.point / "new").touch()
    run = mount.afmctl("flushPending", "--wait")
    assert run.returncode == 1
    assert "NeedsResync" in run.stderr and "`resync` first" in run.stderr
    mount.remount()
    assert mount.status()["state"] == "NeedsResync"
    assert not events(mount, "afmResyncStart")
    assert mount.afmctl("resync", "--yes", "--wait").returncode == 0
    assert (home / "new").exists()


# -- interrupted ---------------------------------------------------------------------------------


def test_a_job_that_was_asked_for_is_done_after_a_kill(mount: Mount, home: Path) -> None:
    rewrite(home / "f")
    mount.afmctl("stop")
    run = mount.afmctl("resync", "--yes")
    assert "sw1 is Stopped" in run.stderr and "`start` first" in run.stderr
    mount.afmctl("start")
    mount.await_state("Active")
    home.rename(home.with_name("away"))
    try:
        control = mount.point / ".afm/control"
        try:
            control.write_text("resync")
        except OSError as error:  # it has been noticed already
            assert error.errno == errno.EHOSTDOWN
            pytest.skip("home was found away before the command")
        mount.kill9("both")
        mount.mount("none")
        assert mount.status()["job"]["kind"] == "resync"
        mount.await_state("Unmounted")
    finally:
        home.with_name("away").rename(home)
    mount.await_state("Active", "Inactive")
    assert (home / "f").read_bytes() == DATA
    (event,) = events(mount, "afmManualResyncComplete")
    assert event["manual"]


def test_what_home_refuses_ends_the_wait_and_is_listed(
    make_mount: MakeMount, tmp_path: Path
) -> None:
    if os.geteuid():
        pytest.skip("only root can mount a file system of a given size")
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", home], check=True)
    try:
        mount = make_mount(home, "fileset=sw1")
        data = os.urandom(600_000)
        (mount.point / "big").write_bytes(data)
        mount.flush()
        (home / "big").unlink()
        (home / "stray").write_bytes(bytes(900_000))
        run = mount.afmctl("resync", "--yes", "--wait")
        assert run.returncode == 1
        assert "1 object was refused by home and requeued" in run.stderr
        (row,) = map(json.loads, mount.afmctl("queue").stdout.splitlines())
        assert (row["queue"], row["path"], row["state"]) == ("priority", "big", "requeued")
        status = mount.status()
        assert (status["state"], status["queue_length"], status["requeued"]) == ("Dirty", 1, 1)
        assert (status["job"]["phase"], status["job"]["left"]) == ("waiting", 1)
        assert (
            b'afmfs_job_left{device="afmfs",fileset="sw1",kind="resync"} 1.0'
            in (mount.point / ".afm/metrics").read_bytes()
        )
        (home / "stray").unlink()
        assert mount.afmctl("resumeRequeued").returncode == 0
        mount.await_state("Active")
        assert (home / "big").read_bytes() == data
        mount.unmount()
    finally:
        subprocess.run(["umount", "-l", home], check=True)
