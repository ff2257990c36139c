from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.walk import MAX_DIRECTORIES, PINNED


def same(fd: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(fd), os.lstat(path))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_leads_to_the_directory_and_remembers_it(home: Home, root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    assert same(home.directory(()), root)
    deep = home.directory((b"a", b"b", b"c"))
    assert same(deep, root / "a/b/c")
    assert home.directory((b"a", b"b", b"c")) == deep
    assert same(home.directory((b"a", b"b")), root / "a/b")


@pytest.mark.parametrize("bad", [b"", b".", b"..", b"a/b", b"/etc", b"../x"])
def test_refuses_what_is_no_component(home: Home, root: Path, bad: bytes) -> None:
    (root / "a" / "b").mkdir(parents=True)
    for path in ((bad,), (b"a", bad)):
        with pytest.raises(OSError, match="Invalid argument"):
            home.directory(path)


@pytest.mark.parametrize("path", [(b"link",), (b"a", b"link"), (b"link", b"b"), (b"file",)])
def test_never_follows_a_symlink(home: Home, root: Path, tmp_path: Path, path: object) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (root / "a").mkdir()
    (root / "link").symlink_to(outside)
    (root / "a" / "link").symlink_to("../../outside")
    (root / "file").touch()
    with pytest.raises(NotADirectoryError):
        home.directory(path)  # type: ignore[arg-type]


def test_a_component_swapped_for_a_symlink(home: Home, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    inside = home.directory((b"a", b"b"))
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to(outside)
    home.make_dir(inside, b"made")  # an old descriptor stays within home
    assert (root / "moved/b/made").is_dir()
    home.forget_directories()
    with pytest.raises(NotADirectoryError):
        home.directory((b"a", b"b"))
    assert os.listdir(outside / "b") == []


def test_forgetting(home: Home, root: Path) -> None:
    (root / "a").mkdir()
    home.directory((b"a",))
    (root / "a").rmdir()
    (root / "a").mkdir()
    home.forget_directory((b"a",))
    assert same(home.directory((b"a",)), root / "a")
    home.forget_directory((b"never", b"seen"))


def test_few_descriptors_for_many_directories(home: Home, root: Path) -> None:
    before = descriptors()
    for n in range(MAX_DIRECTORIES + 100):
        name = b"%d" % n
        home.make_dir(home.root, name)
        home.directory((name,))
    assert descriptors() <= before + MAX_DIRECTORIES + PINNED
    assert same(home.directory((b"0",)), root / "0")
    home.forget_directories()
    assert descriptors() <= before + PINNED
    home.close()
    assert descriptors() <= before


def test_what_a_thread_asked_for_last_stays_open(home: Home) -> None:
    """Evicted by other threads, closed only when its own has asked for PINNED others."""
    for n in range(PINNED + 1):
        home.make_dir(home.root, b"%d" % n)
    mine = home.directory((b"0",))
    number = os.fstat(mine).st_ino
    with ThreadPoolExecutor(1) as other:
        other.submit(home.forget_directories).result()
    for n in range(1, PINNED):
        home.directory((b"%d" % n,))
        assert os.fstat(mine).st_ino == number
    home.directory((b"%d" % PINNED,))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(mine)


def test_a_deep_walk_takes_one_place(home: Home, root: Path) -> None:
    root.joinpath("near").mkdir()
    deep = (b"deep",) * (2 * PINNED)
    root.joinpath(*map(os.fsdecode, deep)).mkdir(parents=True)
    near = home.directory((b"near",))
    home.forget_directories()
    home.directory(deep)
    assert same(near, root / "near")
    with pytest.raises(FileNotFoundError):
        home.directory((*deep, b"missing"))
    assert same(near, root / "near")


def test_many_threads_at_once(home: Home, root: Path) -> None:
    """Each thread sees the directory that it asked for, whatever the others evict and forget."""
    paths = [(b"%d" % a, b"%d" % b) for a in range(30) for b in range(30)]
    for a, b in paths:
        (root / os.fsdecode(a) / os.fsdecode(b)).mkdir(parents=True, exist_ok=True)
    inode = {path: os.lstat(root.joinpath(*map(os.fsdecode, path))).st_ino for path in paths}
    start = threading.Barrier(4)

    def look(seed: int) -> int:
        start.wait()
        for n in range(3000):
            path = paths[(n * 7 + seed * 101) % len(paths)]
            if n % 500 == seed:
                home.forget_directories()
            if os.fstat(home.directory(path)).st_ino != inode[path]:
                return n
        return -1

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(look, range(4))) == [-1] * 4


def test_a_walk_overtaken_by_a_rename_is_not_remembered(home: Home, root: Path) -> None:
    """Forgotten between the opening of a directory and its keeping: the path may lie by now."""
    (root / "a").mkdir()
    epoch = home._epoch
    fd = os.open(b"a", os.O_PATH, dir_fd=home.root)
    home.forget_directories()
    home._top.pins += 1
    assert home._keep((b"a",), fd, epoch, home._top).fd == fd
    assert home.directory((b"a",)) != fd


def test_nothing_is_handed_out_after_the_close(home: Home, root: Path) -> None:
    (root / "a").mkdir()
    home.directory((b"a",))
    home.close()
    for path in ((b"a",), (b"b",)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            home.directory(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        home.lstat(home.directory(()), b"a")
