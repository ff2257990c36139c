"""Somebody swaps what is at home just after the gateway has made it, or looked at it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.home import Home
from tests.gateway.fake_mount import FakeMount

ALICE, BOB = 1001, 1002

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of several users")


@pytest.fixture
def mount(home: Path, tmp_path: Path) -> Iterator[FakeMount]:
    home.chmod(0o777)
    (home / "bobs file").write_bytes(b"secret")
    (home / "bobs directory").mkdir()
    (home / "roots fifo").touch()
    for name in ("bobs file", "bobs directory"):
        os.chown(home / name, BOB, BOB)
        (home / name).chmod(0o700)
    fake = FakeMount(tmp_path / "cache", home)
    yield fake
    fake.close()


def after(
    monkeypatch: pytest.MonkeyPatch, verb: str, name: bytes, swap: Callable[[], object]
) -> None:
    """Do `swap` as soon as a verb of home's has dealt with a name."""
    call = getattr(Home, verb)

    def wrapper(self: Home, *words: object) -> object:
        result = call(self, *words)
        if name in words:
            monkeypatch.undo()
            swap()
        return result

    monkeypatch.setattr(Home, verb, wrapper)


def take_the_place(home: Path, name: str, of: str) -> Callable[[], object]:
    def swap() -> None:
        (home / of).rename(home / "away")
        (home / name).rename(home / of)

    return swap


def belongs(path: Path) -> tuple[int, int]:
    info = path.lstat()
    return info.st_uid, stat.S_IMODE(info.st_mode)


@pytest.mark.parametrize("verb", ["make_dir", "lstat"])
@pytest.mark.parametrize("prey", ["bobs directory", "bobs file"])
def test_a_new_directory_swapped_for_what_is_another_users(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, prey: str, verb: str
) -> None:
    """Made, and about to be given to Alice, who may do with it what she likes then."""
    mount.make(b"new", mode=stat.S_IFDIR | 0o755, uid=ALICE, gid=ALICE)
    after(monkeypatch, verb, b"new", take_the_place(mount.home, prey, "new"))
    mount.start()
    mount.await_message("inconsistent")
    assert belongs(mount.home / "new") == (BOB, 0o700)


@pytest.mark.parametrize("prey", ["bobs file", "bobs directory"])
def test_a_known_fifo_swapped_for_what_is_another_users(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, prey: str
) -> None:
    os.mkfifo(mount.home / "fifo")
    ino = mount.adopt(b"fifo")
    mount.setattr(ino, uid=ALICE, gid=ALICE)
    after(monkeypatch, "lstat", b"fifo", take_the_place(mount.home, prey, "fifo"))
    mount.start()
    mount.await_message("inconsistent")
    assert belongs(mount.home / "fifo") == (BOB, 0o700)


def test_a_symlink_in_the_place_of_a_directory(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o700)
    (mount.home / "link").symlink_to(outside)
    mount.make(b"new", mode=stat.S_IFDIR | 0o755, uid=ALICE, gid=ALICE)
    after(monkeypatch, "lstat", b"new", take_the_place(mount.home, "link", "new"))
    mount.start()
    mount.await_message("inconsistent")
    assert belongs(outside) == (0, 0o700)


def test_extended_attributes_go_to_what_was_looked_at(home: Path) -> None:
    root = Home(os.fsencode(home))
    try:
        root.make_dir(root.root, b"d")
        root.make_dir(root.root, b"e")
        now = root.lstat(root.root, b"d")
        with root.held(root.root, b"d", now.st_mode, now) as held:
            (home / "d").rename(home / "moved")
            (home / "e").rename(home / "d")
            xattrs.put(held, b"user.a", b"1")
            assert xattrs.read(held) == {b"user.a": b"1"}
        assert os.listxattr(home / "moved") == ["user.a"]
        assert os.listxattr(home / "d") == []
    finally:
        root.close()
