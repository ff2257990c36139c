"""Rows on the command: where it is allowed, what it is called, what it prints."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import MountFailed
from tests.seed.scene import OPTIONS, Room, Scene, look, put_program, running

COLUMNS = (
    "Fileset Name",
    "Fileset Target",
    "Cache State",
    "Gateway Node",
    "Queue Length",
    "Queue numExec",
)


def only_active_or_needs_resync(room: Room) -> None:
    scene, before = room.scene, room.scene.last_event
    room.fill(unread=100)
    (room.point / "new").touch()
    assert "Dirty" in scene.refused("resync", "--yes")
    assert scene.refusal("resync") == errno.EBUSY
    scene.control("stop")
    assert "Stopped" in scene.refused("resync", "--yes")
    assert scene.refusal("resync") == errno.EBUSY
    scene.control("start")
    scene.flush()
    scene.home.rename(scene.home.with_name("away"))
    with pytest.raises(OSError):
        (room.point / "unread").read_bytes()
    scene.await_state("Unmounted")
    assert "Unmounted" in scene.refused("resync", "--yes")
    assert scene.refusal("resync") == errno.EHOSTDOWN
    scene.home.with_name("away").rename(scene.home)
    scene.await_state("Active")
    assert not scene.events("afmResyncStart", before)
    scene.resync()  # Active
    room.conflict()
    scene.resync()  # NeedsResync
    assert room.same("met")


def not_on_iw(make_mount: MakeMount, home: Path) -> None:
    (home / "file").write_bytes(b"original")
    mount = make_mount(home, *OPTIONS)
    (mount.point / "file").read_bytes()
    mount.unmount()
    with sqlite3.connect(mount.cache / "cache.db") as db:
        db.execute("INSERT OR REPLACE INTO fileset VALUES ('mode', 'iw')")
    db.close()
    mount.mount("none")
    scene = Scene(mount)
    (home / "file").write_bytes(b"another cache's")
    before = look(home / "file")
    refused = scene.refused("resync", "-j", "sw1", "--yes")
    assert "iw" in refused and "sw" in refused
    assert scene.refusal("resync") == errno.EPERM
    with (mount.point / "file").open("r+b") as file:
        file.write(b"ours")
    scene.flush_into_conflict()
    (mount.point / "new").touch()  # nor does one start by itself
    scene.control("flushPending")
    assert scene.state == "NeedsResync"
    assert not scene.events("afmResyncStart")
    assert look(home / "file") == before


def resync_expire_unexpire(room: Room) -> None:
    scene, before = room.scene, room.scene.last_event
    room.fill(file=100)
    room.read("file")
    (room.home / "file").unlink()
    assert "sw2" in scene.refused("resync", "-j", "sw2", "--yes")
    for later in ("expire", "unexpire"):
        run = scene.mount.afmctl(later, "-j", "sw1")
        assert run.returncode != 0 and f"{later} is not supported yet" in run.stderr
        assert scene.refusal(later) == errno.EOPNOTSUPP
    scene.afmctl("resync", "-j", "sw1", "--yes")
    scene.await_end(before)
    assert room.same("file")


def help_says_more(room: Room) -> None:
    text = room.scene.afmctl("resync", "--help")
    said = " ".join(text.split())
    for word in ("--keep-uncached", "--dry-run", "--wait", "--yes", "null", "trash", "evicted"):
        assert word in said, word
    assert re.search(r"^ +resync\b.+", room.scene.control("help"), re.MULTILINE)
    assert "--keep-uncached" in room.scene.control("help resync")


def prints_what_it_performs(room: Room) -> None:
    """As the example has it: by the device's name, with the fileset's."""
    scene, before = room.scene, room.scene.last_event
    device = Path(scene.status["device"])
    run = scene.mount.afmctl("resync", "-j", "sw1", "--yes", device=device)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "afmctl: Performing resync of fileset: sw1\n"
    scene.await_end(before)
    assert scene.control("resync") == run.stdout
    scene.await_end(scene.last_event)


def getstate_shows_it(room: Room) -> None:
    """Dirty, with what is left in the queue and what was done."""
    scene = room.scene
    room.fill(**{f"file{number}": 100 for number in range(20)})
    put_program(room.home / "tool")
    room.read("tool", *(f"file{number}" for number in range(20)))
    before, done = scene.last_event, scene.status["num_exec"]
    with running(room.home / "tool"):  # so that the resync can't end
        scene.control("resync")
        scene.await_event("afmCmdRequeued", before)
        header, ruler, row = scene.afmctl("getstate", "-j", "sw1").splitlines()
    spans = [match.span() for match in re.finditer("-+", ruler)]
    assert tuple(header[start:end] for start, end in spans) == COLUMNS
    name, target, state, node, length, executed = row.split()
    assert (name, target, state) == ("sw1", str(scene.home), "Dirty")
    assert node == os.uname().nodename
    assert int(length) >= 1
    assert int(executed) >= done + 21  # 20 files, their directory
    scene.control("resumeRequeued")
    scene.await_end(before)
    assert f" Active {os.uname().nodename}" in " ".join(scene.control("getstate").split())


def nfs_targets_come_later(make_mount: MakeMount, home: Path) -> None:
    mount = make_mount(home, start=False)
    with pytest.raises(MountFailed, match="not supported yet"):
        mount.mount("nfs://server/export/home")
    assert not os.listdir(home)
