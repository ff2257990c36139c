"""The tree comparison that other tests rely on notices what it must."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.trees import assert_same, differences, snapshot

ODD = b"\xff\nname"


def build(root: Path) -> None:
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/file").write_bytes(b"bytes" * 1000)
    os.link(root / "dir/file", root / "dir/sub/twin")
    (root / "link").symlink_to("dir/file")
    os.mkfifo(root / "fifo")
    Path(os.fsdecode(os.fsencode(root) + b"/" + ODD)).write_bytes(b"odd")
    (root / ".afm").mkdir()
    with (root / "holes").open("wb") as file:
        os.pwrite(file.fileno(), b"x", 1 << 20)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    build(tmp_path / "a")
    subprocess.run(["cp", "-a", "--sparse=always", tmp_path / "a", tmp_path / "b"], check=True)
    shutil.rmtree(tmp_path / "b/.afm")
    os.utime(tmp_path / "b", ns=(0, os.stat(tmp_path / "a").st_mtime_ns))
    return tmp_path / "a", tmp_path / "b"


def touch(path: Path, *, follow: bool = True) -> None:
    os.utime(path, ns=(0, path.lstat().st_mtime_ns + 1), follow_symlinks=follow)


def keep_times(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """`change`, with the root's and the directory's time as before."""

    def quietly(root: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in (root, root / "dir", root / "dir/sub")}
        change(root)
        for path, mtime in before.items():
            os.utime(path, ns=(0, mtime))

    return quietly


def split_twin(root: Path) -> None:
    info = (root / "dir/file").stat()
    (root / "dir/sub/twin").unlink()
    shutil.copyfile(root / "dir/file", root / "dir/sub/twin")
    os.utime(root / "dir/sub/twin", ns=(0, info.st_mtime_ns))


def change_byte(root: Path) -> None:
    info = (root / "dir/file").stat()
    with (root / "dir/file").open("r+b") as file:
        file.write(b"B")
    os.utime(root / "dir/file", ns=(0, info.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "byte": (change_byte, "digest"),
    "time of a file": (lambda r: touch(r / "dir/file"), "mtime"),
    "time of a directory": (lambda r: touch(r / "dir"), "mtime"),
    "time of a symlink": (lambda r: touch(r / "link", follow=False), "mtime"),
    "mode": (lambda r: (r / "dir/file").chmod(0o600), "mode"),
    "more": (keep_times(lambda r: (r / "more").write_bytes(b"")), "only in the second"),
    "less": (keep_times(lambda r: (r / "fifo").unlink()), "only in the first"),
    "twin": (keep_times(split_twin), "twins"),
}


def test_equal_trees_are_equal_and_the_marker_is_left_out(pair: tuple[Path, Path]) -> None:
    assert_same(*pair, holes=True)
    assert ODD in snapshot(pair[0])


@pytest.mark.parametrize("what", CHANGES)
def test_every_difference_is_seen(pair: tuple[Path, Path], what: str) -> None:
    change, words = CHANGES[what]
    change(pair[1])
    found = differences(snapshot(pair[0]), snapshot(pair[1]))
    assert found
    assert all(words in line for line in found), found


def test_filled_holes_are_seen_where_asked_for(pair: tuple[Path, Path]) -> None:
    info = (pair[1] / "holes").stat()
    with (pair[1] / "holes").open("r+b") as file:
        file.write(bytes(65536))
    os.utime(pair[1] / "holes", ns=(0, info.st_mtime_ns))
    assert_same(*pair)
    with pytest.raises(AssertionError, match="holes"):
        assert_same(*pair, holes=True)
