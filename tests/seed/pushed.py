"""Rows on what a resync brings to home, in what order of events, and what it leaves alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import REPOSITORY, wait_until
from tests.harness.trees import assert_same, snapshot
from tests.seed.scene import (
    BLOCK,
    OPTIONS,
    SECONDS,
    Room,
    Scene,
    look,
    noise,
    put_program,
    running,
)

T0 = 1_600_000_000_123_456_789


def _populate(root: Path) -> None:
    """One of everything."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(noise(3 * BLOCK + 5))
    (root / "empty").touch()
    with (root / "sparse").open("wb") as file:
        file.seek(20 * BLOCK)
        file.write(b"end")
    os.link(root / "a/b/file", root / "a/second name")
    (root / "link").symlink_to("a/b")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
    (root / "a").chmod(0o2750)
    (root / "empty").chmod(0o4711)
    os.setxattr(root / "a/b/file", "user.colour", b"green")
    if os.geteuid() == 0:
        os.chown(root / "a/b", 12, 34)
    for depth, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(T0 + depth, T0 - depth), follow_symlinks=False)


def everything_is_queued(make_mount: MakeMount, home: Path) -> None:
    scene = Scene(make_mount(home, *OPTIONS, "xattrs"))
    _populate(scene.point)
    scene.flush()
    before = snapshot(scene.point)
    for path in home.iterdir():
        if path.name == ".afm":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    os.chmod(home, 0o700)
    done = scene.resync("--keep-uncached")
    objects = len(before) - 1  # one has two names
    assert done["files"] == objects
    data = sum(n.size or 0 for path, n in before.items() if path != b"a/second name")
    assert done["bytes"] == data
    assert_same(scene.point, home)
    assert os.getxattr(home / "a/b/file", "user.colour") == b"green"
    assert (home / "a/b/file").samefile(home / "a/second name")
    assert (home / "sparse").stat().st_blocks * 512 < 10 * BLOCK


def it_runs_in_the_background(room: Room) -> None:
    scene, before = room.scene, room.scene.last_event
    room.fill(file=100)
    room.read("file")
    (room.home / "file").unlink()
    with scene.frozen_gateway():
        scene.afmctl("resync", "-j", "sw1", "--yes")  # returns
        assert scene.state == "Dirty"
        assert scene.refusal("resync") == errno.EBUSY  # one at a time
        (room.point / "new").write_bytes(b"new")  # and the mount serves
        assert (room.point / "file").read_bytes() == noise(100)
        assert not (room.home / "file").exists()
    scene.await_end(before)
    assert room.same("file")
    scene.flush()
    assert room.same("new")


def its_end_is_an_event(room: Room) -> None:
    """Once, for the log and for a program of the administrator's."""
    scene, before = room.scene, room.scene.last_event
    program, said = scene.mount.base / "told", scene.mount.base / "said"
    program.write_text(f'#!/bin/sh\necho "$@" >>"{said}"\n')
    program.chmod(0o755)
    room.fill(file=100)
    put_program(room.home / "tool")
    room.read("file", "tool")
    room.stray("file", b"stray")
    words = ["--event", "afmManualResyncComplete", "--parms", "%eventName %fsName %filesetName"]
    scene.afmctl("addcallback", "told", "--command", str(program), *words)
    with running(room.home / "tool"):
        scene.control("resync")
        scene.await_event("afmCmdRequeued", before)
        assert not scene.events("afmManualResyncComplete", before)  # not before its end
    scene.control("resumeRequeued")
    summary = scene.await_end(before)
    wait_until(said.exists, SECONDS, "the callback's program ran")
    scene.afmctl("delcallback", "told")
    assert (summary["kind"], summary["manual"], summary["aside"]) == ("resync", True, 1)
    scene.mount.remount()
    scene.await_state("Inactive")
    assert len(scene.events("afmManualResyncComplete", before)) == 1
    device = scene.status["device"]
    assert said.read_text() == f"afmManualResyncComplete {device} sw1\n"


def flushed_it_is_active(room: Room) -> None:
    """And not while anything is left in the priority queue."""
    scene, before = room.scene, room.scene.last_event
    room.fill(file=100)
    put_program(room.home / "tool")
    room.read("tool", "file")
    (room.home / "file").unlink()
    with running(room.home / "tool"):
        scene.control("resync")
        scene.await_event("afmCmdRequeued", before)
        scene.control("resumeRequeued")
        wait_until(lambda: scene.status["job"]["left"] == 1, SECONDS, "all else is done")
        assert room.same("file")
        assert (scene.state, scene.status["queue_length"]) == ("Dirty", 1)
        assert not scene.events("afmManualResyncComplete", before)
    scene.control("resumeRequeued")
    scene.await_end(before)
    assert (scene.state, scene.status["queue_length"]) == ("Active", 0)


def evicted_files_stay_as_they_are(room: Room) -> None:
    scene = room.scene
    room.fill(evicted=3 * BLOCK, changed=3 * BLOCK, gone=3 * BLOCK, never=3 * BLOCK, cached=100)
    room.read("evicted", "changed", "gone", "cached")
    for name in ("evicted", "changed", "gone"):
        room.evict(name)
    untouched = ("evicted", "changed", "never")
    room.stray("changed", b"somebody's")
    (room.home / "gone").unlink()
    before = {name: look(room.home / name) for name in untouched}
    done = scene.resync()
    assert {name: look(room.home / name) for name in untouched} == before
    assert not (room.home / "gone").exists()
    assert (done["adopted"], done["lost"], done["nulled"]) == (1, 1, 0)
    assert room.same(*untouched)  # the cache follows
    with pytest.raises(OSError) as caught:
        (room.point / "gone").read_bytes()
    assert caught.value.errno == errno.EIO
    again = scene.resync()
    assert (again["adopted"], again["aside"], again["nulled"]) == (0, 0, 0)
    assert not (room.home / "gone").exists()


def only_cached_blocks_are_pushed(room: Room) -> None:
    scene, whole = room.scene, noise(10 * BLOCK)
    room.fill(partial=10 * BLOCK)
    room.read_blocks("partial", 1, 4, 7)
    (room.home / "partial").unlink()
    before = scene.resync("--keep-uncached")["bytes"]
    found = (room.home / "partial").read_bytes()
    for block in (1, 4, 7):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        assert found[part] == whole[part]
    assert room.cached("partial")["cached_blocks"] == 3  # none was fetched for it
    (room.point / "partial").unlink()
    scene.flush()
    assert before - scene.resync("--keep-uncached")["bytes"] == 3 * BLOCK


def uncached_blocks_become_null(room: Room) -> None:
    """To the letter, even where home has them as they were; but a copy goes to the trash."""
    scene, whole = room.scene, noise(4 * BLOCK + 10)
    room.fill(partial=4 * BLOCK + 10)
    room.read_blocks("partial", 1)
    kept = scene.resync("--keep-uncached")
    assert (kept["nulled"], (room.home / "partial").read_bytes()) == (0, whole)
    done = scene.resync()
    expected = bytes(BLOCK) + whole[BLOCK : 2 * BLOCK] + bytes(2 * BLOCK + 10)
    assert (room.home / "partial").read_bytes() == expected
    assert done["nulled_bytes"] == 3 * BLOCK + 10
    assert whole in room.trash()
    before, trash = look(room.home / "partial"), len(room.trash())
    scene.resync()
    assert look(room.home / "partial").content == before.content
    assert len(room.trash()) == trash
    assert (room.point / "partial").read_bytes() == expected


def not_without_being_asked_for(room: Room) -> None:
    """It says what would be lost, and asks; where nobody can answer it does nothing."""
    scene, before = room.scene, room.scene.last_event
    room.fill(partial=4 * BLOCK)
    room.read_blocks("partial", 1)
    untouched = look(room.home / "partial")
    would = [
        json.loads(line) for line in scene.afmctl("resync", "--dry-run", "--json").splitlines()
    ]
    assert would[-1]["summary"]["nulled_bytes"] == 3 * BLOCK
    assert f"{room.home.name}/partial" in [row["path"] for row in would[:-1] if "null_bytes" in row]
    refused = scene.refused("resync", "-j", "sw1")
    assert "null bytes" in refused and "--yes" in refused
    question = _at_terminal(scene, "n", "resync", "-j", "sw1")
    assert "null bytes" in question and "nothing was done" in question
    assert not scene.events("afmResyncStart", before)
    assert look(room.home / "partial") == untouched
    assert "Performing resync" in _at_terminal(scene, "y", "resync", "-j", "sw1")
    assert scene.await_end(before)["nulled_bytes"] == 3 * BLOCK


def _at_terminal(scene: Scene, answer: str, *words: str) -> str:
    """What afmctl says at a terminal, where it gets this answer."""
    master, slave = os.openpty()
    try:
        os.write(master, f"{answer}\n".encode())
        run = subprocess.run(
            [sys.executable, "-m", "afmfs.admin.afmctl", str(scene.point), *words],
            cwd=REPOSITORY, stdin=slave, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(master)
        os.close(slave)
    return run.stdout + run.stderr


def new_things_at_home_stay(room: Room) -> None:
    scene = room.scene
    room.fill(file=100)
    (room.home / "directory").mkdir()
    (room.home / "directory/known").write_bytes(b"known")
    room.read("file", "directory/known")
    new = room.home / "new file"
    new.write_bytes(b"new")
    (room.home / "new directory").mkdir(mode=0o700)
    (room.home / "new directory/file").write_bytes(b"new")
    (room.home / "directory/new").symlink_to("known")
    os.mkfifo(room.home / "new pipe")
    names = ["new file", "new directory", "new directory/file", "directory/new", "new pipe"]
    before = {name: look(room.home / name) for name in names}
    (room.home / "file").unlink()
    scene.resync()
    scene.control("auto_resync off")
    room.conflict()
    (room.point / "directory/known").unlink()
    (room.point / "directory").rmdir()  # what is new in it is not seen here
    scene.resync()
    assert {name: look(room.home / name) for name in names} == before
    assert room.same("file")
    assert not (room.home / "directory/known").exists()


def new_names_at_home_stay(room: Room) -> None:
    scene = room.scene
    room.fill(file=5000, linked=100)
    (room.home / "directory").mkdir()
    (room.home / "directory/inner").write_bytes(b"inner")
    room.read("file", "linked", "directory/inner")
    (room.home / "file").rename(room.home / "file's new name")
    (room.home / "directory").rename(room.home / "directory's new name")
    os.link(room.home / "linked", room.home / "another name")
    scene.resync()
    assert (room.home / "file's new name").read_bytes() == noise(5000)
    assert (room.home / "directory's new name/inner").read_bytes() == b"inner"
    assert (room.home / "another name").read_bytes() == noise(100, 1)
    assert room.same("file", "linked", "directory/inner")  # what the cache has is there, too
    assert stat.S_ISDIR((room.home / "directory").stat().st_mode)
    names = sorted(os.listdir(room.home))
    scene.resync()
    assert sorted(os.listdir(room.home)) == names
