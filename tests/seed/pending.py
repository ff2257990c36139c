"""Rows on removes and renames that were pending when a recovery began."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from tests.conftest import MakeMount
from tests.harness.trees import assert_same
from tests.seed.scene import BLOCK, OPTIONS, Room, Scene, noise

NAMES = ("removed", "renamed", "changed", "directory/inner")


def _pending(make_mount: MakeMount, home: Path) -> Scene:
    """Removes and renames that home has not seen when both processes are killed."""
    (home / "directory").mkdir()
    for seed, name in enumerate(NAMES):
        (home / name).write_bytes(noise(2 * BLOCK, seed))
    scene = Scene(make_mount(home, *OPTIONS))
    for name in NAMES:
        (scene.point / name).read_bytes()
    (scene.point / "removed").unlink()
    (scene.point / "renamed").rename(scene.point / "renamed to")
    (scene.point / "directory").rename(scene.point / "directory renamed to")
    (scene.point / "changed").write_bytes(b"changed")
    (scene.point / "new").write_bytes(b"new")
    scene.mount.kill9("both")
    assert sorted(os.listdir(home)) == [".afm", "changed", "directory", "removed", "renamed"]
    return scene


def _lose_the_queue(scene: Scene) -> None:
    db = sqlite3.connect(scene.mount.cache / "cache.db")
    with db:
        db.execute("DELETE FROM queue")
    db.close()


def _recover(scene: Scene) -> None:
    scene.mount.mount("none")
    scene.await_event("afmRecoveryEnd", 0)
    scene.flush()


def recovery_finds_them_pending(make_mount: MakeMount, home: Path) -> None:
    scene = _pending(make_mount, home)
    scene.mount.mount("none")
    assert scene.events("afmRecoveryStart")
    scene.await_event("afmRecoveryEnd", 0)
    scene.flush()
    assert_same(scene.point, home)
    assert sorted(os.listdir(home)) == [
        ".afm", "changed", "directory renamed to", "new", "renamed to"
    ]  # fmt: skip


def renames_reach_home(make_mount: MakeMount, home: Path) -> None:
    """Also where nothing tells any more what their old names were."""
    scene = _pending(make_mount, home)
    _lose_the_queue(scene)
    _recover(scene)
    assert (home / "renamed to").read_bytes() == noise(2 * BLOCK, 1)
    assert (home / "directory renamed to/inner").read_bytes() == noise(2 * BLOCK, 3)


def extra_files_may_be_left(make_mount: MakeMount, home: Path) -> None:
    scene = _pending(make_mount, home)
    _lose_the_queue(scene)
    _recover(scene)
    extra = {"removed", "renamed"}  # a directory that was moved is found by its number
    assert set(os.listdir(home)) - set(os.listdir(scene.point)) == extra | {".afm"}
    assert (home / "removed").read_bytes() == noise(2 * BLOCK)  # old data
    again = scene.resync()
    assert again["aside"] == 0 and extra <= set(os.listdir(home))


def both_have_the_latest(make_mount: MakeMount, home: Path) -> None:
    scene = _pending(make_mount, home)
    _lose_the_queue(scene)
    _recover(scene)
    for name in ("removed", "renamed"):
        (home / name).unlink()
    times = scene.point.stat()
    os.utime(home, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_same(scene.point, home)
    assert (home / "changed").read_bytes() == b"changed"
    assert (home / "new").read_bytes() == b"new"
    assert scene.state == "Active"


def a_resync_takes_away_what_they_would_have(room: Room) -> None:
    room.fill(removed=100, renamed=100, met=100)
    (room.home / "directory").mkdir()
    (room.home / "directory/inner").write_bytes(b"inner")
    room.read("removed", "renamed", "met", "directory/inner")
    room.stray("met", b"stray")
    room.write("met", 0, b"ours")
    (room.point / "removed").unlink()
    (room.point / "renamed").rename(room.point / "renamed to")
    (room.point / "directory").rename(room.point / "directory renamed to")
    room.scene.flush_into_conflict()
    room.scene.resync()
    assert_same(room.point, room.home)
