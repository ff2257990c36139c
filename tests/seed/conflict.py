"""Rows on how a conflict comes about, is noticed, and ends by itself."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import MountFailed
from tests.seed.scene import BLOCK, OPTIONS, Room, Scene, look, noise


def stray_write_is_a_conflict(room: Room) -> None:
    room.fill(file=100)
    room.read("file")
    room.stray("file", b"stray")
    before = look(room.home / "file")
    room.write("file", 10, b"ours")
    room.scene.flush_into_conflict()
    status = room.scene.status
    assert f"{room.home.name}/file" in status["reason"]
    assert status["queue_length"] == 1  # our change waits
    assert look(room.home / "file") == before  # and theirs is not overwritten
    (event,) = room.scene.events("afmNeedsResync")[-1:]
    assert event["path"] == f"{room.home.name}/file"


def resync_comes_by_itself(room: Room) -> None:
    scene, before = room.scene, room.scene.last_event
    room.fill(file=3 * BLOCK, other=100)
    room.read_blocks("file", 0)
    room.stray("file", b"stray")
    with pytest.raises(OSError) as caught:  # two versions are never mixed
        (room.point / "file").read_bytes()
    assert caught.value.errno == errno.EIO
    scene.await_state("NeedsResync")
    room.read("other")
    assert not scene.await_end(before)["manual"]
    assert scene.state == "Active"
    expected = noise(3 * BLOCK)[:BLOCK] + bytes(2 * BLOCK)
    assert (room.home / "file").read_bytes() == (room.point / "file").read_bytes() == expected
    assert b"stray" in room.trash()


def home_has_one_writer(make_mount: MakeMount, home: Path) -> None:
    first = make_mount(home, "fileset=sw1")
    second = make_mount(home, "fileset=sw2", start=False)
    before = sorted(os.listdir(home))
    with pytest.raises(MountFailed) as refused:
        second.mount()
    assert "status 32" in str(refused.value) and str(first.cache) in str(refused.value)
    (first.point / "new").touch()
    first.flush()
    assert sorted(os.listdir(home)) == [*before, "new"]


def nobody_is_kept_from_writing(room: Room) -> None:
    scene = room.scene
    room.fill(cached=100, unread=100, gone=100, moved=100)
    before = {path.name: path.stat().st_mode for path in room.home.iterdir()}
    room.read("cached", "gone", "moved")
    scene.resync()
    assert {path.name: path.stat().st_mode for path in room.home.iterdir()} == before
    writers = "for f in cached unread new; do echo stray >$f || exit; done; rm gone; mv moved other"
    subprocess.run(["sh", "-ec", writers], cwd=room.home, check=True)
    after = {path.name: look(path) for path in room.home.iterdir()}
    (room.point / "ours").touch()
    scene.flush()  # what was done here meets none of it
    assert scene.state == "Active"
    (room.home / "ours").unlink()
    assert {path.name: look(path) for path in room.home.iterdir()} == after
    (room.point / "ours").write_bytes(b"gone at home")
    scene.flush_into_conflict()


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        (byte,) = file.read(1)
        file.seek(0)
        file.write(bytes([byte ^ 1]))


def _append(path: Path) -> None:
    """And its time is as it was."""
    st = path.stat()
    with path.open("ab") as file:
        file.write(b"stray")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def _swap(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _save_over(path: Path) -> None:
    (path.parent / "saved").write_bytes(path.read_bytes())
    shutil.copystat(path, path.parent / "saved")
    (path.parent / "saved").rename(path)
    _flip(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "overwritten": lambda path: path.write_bytes(b"stray"),
    "flipped": _flip,
    "appended": _append,
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("elsewhere")),
    "saved over": _save_over,
    "linked": lambda path: _swap(path, lambda p: p.symlink_to("nowhere")),
    "directory": lambda path: _swap(path, lambda p: p.mkdir()),
    "pipe": lambda path: _swap(path, lambda p: os.mkfifo(p)),
}


def any_damage_is_a_conflict(room: Room) -> None:
    scene = room.scene
    room.fill(**dict.fromkeys(DAMAGE, 5000))
    room.read(*DAMAGE)
    for name, damage in DAMAGE.items():
        damage(room.home / name)
        room.write(name, 5, b"ours")
        scene.flush_into_conflict()
        assert name in scene.status["reason"]
        scene.resync()
        assert scene.state == "Active", scene.why
        assert room.same(name), name
    (room.home / "in the way").write_bytes(b"stray")
    (room.point / "in the way").write_bytes(b"ours")
    scene.flush_into_conflict()
    scene.resync()
    assert room.same("in the way")


def flushing_finds_it(make_mount: MakeMount, home: Path) -> None:
    """Durably, and before anything else is replayed."""
    (home / "file").write_bytes(b"original")
    scene = Scene(make_mount(home, *OPTIONS))
    (scene.point / "file").read_bytes()
    (home / "file").write_bytes(b"stray")
    with (scene.point / "file").open("r+b") as file:
        file.write(b"ours")
    (scene.point / "later").write_bytes(b"later")
    (scene.point / "directory").mkdir()
    scene.flush_into_conflict()
    scene.mount.kill9("both")
    scene.mount.mount("none")
    scene.await_state("NeedsResync")
    assert sorted(os.listdir(home)) == [".afm", "file"]
    assert (home / "file").read_bytes() == b"stray"


def next_request_resolves_it(room: Room) -> None:
    scene = room.scene
    room.fill(first=100, second=100, third=100, unread=100)
    (room.home / "unread directory").mkdir()
    requests: dict[str, Callable[[], object]] = {
        "first": lambda: (room.point / "unread").read_bytes(),
        "second": lambda: os.listdir(room.point / "unread directory"),
        "third": lambda: (room.point / "new").mkdir(),
    }
    room.read(*requests)
    for name, request in requests.items():
        room.stray(name, b"stray")
        room.write(name, 10, b"ours")
        scene.flush_into_conflict()
        before = scene.last_event
        for _ in range(5):  # these are no requests to the gateway
            assert "NeedsResync" in scene.control("getstate")
            (room.point / name).read_bytes()
        assert scene.state == "NeedsResync"
        request()
        assert not scene.await_end(before)["manual"]
        assert room.same(name)
    scene.flush()
    assert (room.home / "new").is_dir()


def else_the_command_resolves_it(room: Room) -> None:
    scene = room.scene
    room.fill(unread=100)
    scene.control("auto_resync off")
    room.conflict()
    before = scene.last_event
    (room.point / "unread").read_bytes()
    (room.point / "new").touch()
    assert scene.refusal("flushPending") == errno.EBUSY
    assert scene.state == "NeedsResync"
    assert (room.home / "met").read_bytes() == b"stray"
    scene.afmctl("resync", "-j", "sw1", "--yes")
    assert scene.await_end(before)["manual"]
    assert room.same("met")
    scene.flush()
    assert (room.home / "new").exists()
