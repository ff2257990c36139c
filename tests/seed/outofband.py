"""Rows on a new home that was given a copy of the cache beforehand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import MakeMount
from tests.harness.trees import assert_same, snapshot
from tests.seed.scene import BLOCK, OPTIONS, Event, Look, Scene, look, noise

T0 = 1_600_000_000_123_456_789

Copy = Callable[[Path, Path], object]


def _rsync(source: Path, target: Path) -> None:
    subprocess.run(["rsync", "-a", f"{source}/", f"{target}/"], check=True, timeout=60)


def _cp(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", f"{target}/"], check=True, timeout=60)


class Moved(NamedTuple):
    """A fileset that a copy was made of, beside its old home."""

    scene: Scene
    new: Path

    def failover(self) -> Event:
        before = self.scene.last_event
        self.scene.afmctl("failover", "-j", "sw1", "--new-target", str(self.new))
        event = self.scene.await_end(before)
        assert event["kind"] == "failover"
        assert self.scene.status["target"] == str(self.new)
        return event

    def looks(self) -> dict[str, Look]:
        return {
            str(path.relative_to(self.new)): look(path)
            for path in self.new.rglob("*")
            if ".afm" not in path.parts
        }


def _moved(make_mount: MakeMount, home: Path, copy: Copy, *options: str) -> Moved:
    (home / "directory/inner").mkdir(parents=True)
    for number in range(12):
        path = home / ("directory" if number % 2 else "directory/inner") / f"file{number}"
        path.write_bytes(noise(BLOCK + number, number))
    (home / "link").symlink_to("directory")
    new = home.with_name("new home")
    new.mkdir()
    scene = Scene(make_mount(home, *OPTIONS, *options))
    (scene.point / "made here").write_bytes(noise(3 * BLOCK))
    for name in (".", "directory", "directory/inner", "link"):
        # rsync takes the time of what is no file for the same within a second
        os.utime(scene.point / name, ns=(T0, T0), follow_symlinks=False)
    scene.flush()
    copy(scene.point, new)
    return Moved(scene, new)


def any_copy_with_nanoseconds_will_do(make_mount: MakeMount, home: Path) -> None:
    moved = _moved(make_mount, home, _cp)
    before, old = moved.looks(), snapshot(home)
    event = moved.failover()
    assert (event["files"], event["bytes_total"], event["aside"]) == (0, 0, 0)
    assert moved.looks() == before  # nothing was written
    assert moved.scene.state == "Active"
    (moved.scene.point / "made here").write_bytes(b"changed since")
    (moved.scene.point / "directory/inner/file0").unlink()
    moved.scene.flush()
    assert_same(moved.scene.point, moved.new)
    assert snapshot(home) == old  # the old home is left behind


def rsync_is_such_a_tool(make_mount: MakeMount, home: Path) -> None:
    """And what was made to differ after it is queued, if only by a nanosecond."""
    if shutil.which("rsync") is None:
        pytest.skip("needs rsync")
    said = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version v?(\d+)\.(\d+)\.\d+ +protocol version (\d+)", said)
    assert version and (int(version[1]), int(version[2])) >= (3, 1) and int(version[3]) >= 31
    moved = _moved(make_mount, home, _rsync)
    new, point = moved.new, moved.scene.point
    assert_same(point, new)
    times, stamp = (new / "directory").stat(), (new / "directory/file1").stat()
    os.utime(new / "directory/file1", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    stamp = (new / "directory/file3").stat()
    os.truncate(new / "directory/file3", 10)
    os.utime(new / "directory/file3", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (new / "directory/file5").unlink()
    (new / "directory/extra").write_bytes(b"extra")
    os.utime(new / "directory", ns=(times.st_atime_ns, times.st_mtime_ns))
    before = moved.looks()
    event = moved.failover()
    different = {f"directory/file{number}" for number in (1, 3, 5)}
    assert event["files"] == 3
    assert event["bytes_total"] == sum((point / name).stat().st_size for name in different)
    after = moved.looks()
    assert {name for name in after if after[name] != before.get(name)} == (
        different | {"directory"}  # in which two of them were made
    )
    (new / "directory/extra").unlink()
    os.utime(new / "directory", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_same(point, new)


def size_and_mtime_are_compared(make_mount: MakeMount, home: Path) -> None:
    """Nothing else of a file is: that is what avoids the rest."""
    moved = _moved(make_mount, home, _cp)
    for name, keep in (("file1", True), ("file3", False)):
        path = moved.new / "directory" / name
        times = path.stat()
        with path.open("r+b") as file:
            file.write(b"other bytes")
        if keep:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = moved.looks()
    (moved.scene.point / "directory/file7").write_bytes(b"pending")  # goes with it
    (moved.scene.point / "directory/file9").rename(moved.scene.point / "directory/renamed")
    event = moved.failover()
    after = moved.looks()
    assert after["directory/file1"] == before["directory/file1"]
    assert after["directory/file3"].content == noise(BLOCK + 3, 3)
    assert after["directory/file7"].content == b"pending"
    assert after["directory/renamed"].content == noise(BLOCK + 9, 9)
    assert "directory/file9" not in after
    assert event["files"] == 2  # file3 and file7; a new name is given without any of it


def _use_names_again(point: Path) -> None:
    """As it is done with logs."""
    for number in (1, 3):
        (point / f"directory/file{number}").rename(point / f"directory/file{number}.old")
        (point / f"directory/file{number}").write_bytes(b"next")
    (point / "directory/file5").unlink()
    (point / "directory/file5").mkdir()
    (point / "directory/inner").rename(point / "inner.old")
    (point / "directory/inner").mkdir()
    (point / "directory/inner/file0").write_bytes(b"next")


def pending_names_that_were_copied_are_equal(make_mount: MakeMount, home: Path) -> None:
    def copy(source: Path, target: Path) -> None:
        _use_names_again(source)
        _cp(source, target)

    moved = _moved(make_mount, home, copy)
    event = moved.failover()
    assert (event["files"], event["bytes_total"], event["aside"]) == (0, 0, 0)
    assert_same(moved.scene.point, moved.new)
    assert moved.scene.state == "Active"


def what_is_pending_goes_along(make_mount: MakeMount, home: Path) -> None:
    """Though size and mtime are equal: none of it changes these."""
    moved = _moved(make_mount, home, _cp, "xattrs")
    point, new = moved.scene.point, moved.new
    os.setxattr(new / "directory/file1", "user.old", b"old")
    os.setxattr(point / "directory/file1", "user.old", b"old")
    moved.scene.flush()
    os.removexattr(point / "directory/file1", "user.old")
    os.setxattr(point / "directory/file3", "user.new", b"new")
    os.chmod(point / "directory/file5", 0o4711)
    os.link(point / "directory/file7", point / "another name")
    (point / "directory/inner/file0").unlink()
    (point / "directory/inner").rename(point / "inner renamed")
    moved.failover()
    assert_same(point, new)
    assert os.listxattr(new / "directory/file1") == []
    assert os.getxattr(new / "directory/file3", "user.new") == b"new"
    assert moved.scene.state == "Active"


def blocks_of_partial_files_go_to_the_new_home(make_mount: MakeMount, home: Path) -> None:
    (home / "partial").write_bytes(noise(5 * BLOCK))
    (home / "never").write_bytes(noise(BLOCK))
    new = home.with_name("new home")
    new.mkdir()
    scene = Scene(make_mount(home, *OPTIONS))
    with (scene.point / "partial").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), BLOCK, 2 * BLOCK)
    event = Moved(scene, new).failover()
    part = noise(5 * BLOCK)[2 * BLOCK : 3 * BLOCK]
    assert (new / "partial").read_bytes() == bytes(2 * BLOCK) + part + bytes(2 * BLOCK)
    assert (event["nulled"], event["nulled_bytes"], event["lost"]) == (1, 4 * BLOCK, 1)
    assert not (new / "never").exists()
    listed = scene.mount.afmctl("verify").stdout
    assert re.search("lost .*never", listed), listed
