from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.home import Home
from afmfs.model.properties import Properties

NS = 1_600_000_000_123_456_789
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@contextmanager
def another_user() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def fails(code: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda exc: exc.errno == code)


@pytest.mark.parametrize("bad", [b"", b".", b"..", b"a/b", b"/absolute"])
def test_no_verb_takes_a_path(home: Home, bad: bytes) -> None:
    d = home.root
    os.close(home.make_file(d, b"f"))
    calls = [
        lambda: home.lstat(d, bad),
        lambda: home.open_file(d, bad, os.O_RDONLY),
        lambda: home.make_file(d, bad),
        lambda: home.make_dir(d, bad),
        lambda: home.symlink(b"x", d, bad),
        lambda: home.readlink(d, bad),
        lambda: home.mknod(d, bad, stat.S_IFIFO, 0),
        lambda: home.link(d, bad, d, b"g"),
        lambda: home.link(d, b"f", d, bad),
        lambda: home.unlink(d, bad),
        lambda: home.rmdir(d, bad),
        lambda: home.rename(d, bad, d, b"g"),
        lambda: home.rename(d, b"f", d, bad),
        lambda: home.rename_new(d, b"f", d, bad),
        lambda: home.exchange(d, b"f", d, bad),
        lambda: home.set_attributes_at(d, bad, 0o600, 0, 0),
        lambda: home.set_times_at(d, bad, 0, 0),
        lambda: xattrs.at(d, bad),
    ]
    for call in calls:
        with fails(errno.EINVAL):
            call()


def test_opens_regular_files_only(home: Home, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "directory").mkdir()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(root, os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
        before = os.listdir("/proc/self/fd")
        for name, code in (
            (b"link", errno.ELOOP),
            (b"directory", errno.EISDIR),
            (b"fifo", errno.ESTALE),
            (b"socket", errno.ESTALE),
            (b"nothing", errno.ENOENT),
        ):
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                with fails(code):
                    home.open_file(home.root, name, flags)
        assert os.listdir("/proc/self/fd") == before


def test_a_fifo_put_in_the_way_never_blocks(
    home: Home, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped in after the file was looked at."""
    (root / "file").touch()
    os.mkfifo(root / "fifo")
    regular = home.lstat(home.root, b"file")
    monkeypatch.setattr(home, "lstat", lambda dirfd, name: regular)
    done = threading.Event()

    def open_it() -> None:
        for flags, code in ((os.O_RDONLY, errno.ESTALE), (os.O_WRONLY, errno.ENXIO)):
            with fails(code):
                home.open_file(home.root, b"fifo", flags)
        done.set()

    threading.Thread(target=open_it, daemon=True).start()
    assert done.wait(10)


def test_files(home: Home, root: Path) -> None:
    fd = home.make_file(home.root, b"f")
    os.write(fd, b"bytes")
    os.close(fd)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o600
    with fails(errno.EEXIST):
        home.make_file(home.root, b"f")
    fd, found = home.open_file(home.root, b"f", os.O_RDWR)
    assert (os.pread(fd, 9, 0), found.st_size) == (b"bytes", 5)
    assert not os.get_inheritable(fd)
    os.close(fd)
    home.unlink(home.root, b"f")
    assert not (root / "f").exists()


def test_a_dangling_symlink_is_no_place_for_a_new_file(home: Home, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "made outside")
    with fails(errno.EEXIST):
        home.make_file(home.root, b"link")
    assert not (root.parent / "made outside").exists()


def test_other_objects(home: Home, root: Path) -> None:
    d = home.root
    home.make_dir(d, b"d")
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o700
    home.symlink(b"to \xff", d, b"s")
    assert home.readlink(d, b"s") == b"to \xff"
    home.link(d, b"s", d, b"s2")
    assert home.lstat(d, b"s2").st_ino == home.lstat(d, b"s").st_ino
    for kind in (stat.S_IFIFO, stat.S_IFSOCK):
        home.mknod(d, b"n%o" % kind, kind | 0o777, 0)
        assert stat.S_IFMT(home.lstat(d, b"n%o" % kind).st_mode) == kind
    home.rmdir(d, b"d")
    assert not (root / "d").exists()


@pytest.mark.parametrize("noreplace", [True, False])
def test_renames(home: Home, root: Path, noreplace: bool) -> None:
    home.properties = replace(home.properties, noreplace=noreplace)
    d = home.root
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    with fails(errno.EEXIST):
        home.rename_new(d, b"a", d, b"b")
    home.rename_new(d, b"a", d, b"c")
    home.exchange(d, b"b", d, b"c")
    assert ((root / "b").read_text(), (root / "c").read_text()) == ("a", "b")
    home.rename(d, b"b", d, b"c")
    assert (root / "c").read_text() == "a"
    with fails(errno.ENOENT):
        home.rename_new(d, b"b", d, b"d")


@needs_root
def test_attributes_owner_before_mode(home: Home, root: Path) -> None:
    """A chown clears the set-id bits."""
    d = home.root
    fd = home.make_file(d, b"f")
    home.set_attributes(fd, stat.S_IFREG | 0o6755, 123, 456)
    home.set_times(fd, NS, NS + 1)
    found = os.fstat(fd)
    os.close(fd)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o6755, 123, 456)
    assert (found.st_atime_ns, found.st_mtime_ns) == (NS, NS + 1)
    home.mknod(d, b"p", stat.S_IFIFO, 0)
    home.make_dir(d, b"d")
    for name, mode in ((b"p", stat.S_IFIFO | 0o641), (b"d", stat.S_IFDIR | 0o2000)):
        home.set_attributes_at(d, name, mode, 123, 456)
        home.set_times_at(d, name, NS, NS + 2)
        found = home.lstat(d, name)
        assert (found.st_mode, found.st_uid, found.st_mtime_ns) == (mode, 123, NS + 2)
    home.set_times(home.readable, NS, NS)
    assert root.stat().st_mtime_ns == NS


@needs_root
def test_attributes_of_a_symlink_never_reach_its_target(home: Home, root: Path) -> None:
    d = home.root
    target = root.parent / "target"
    target.touch(0o600)
    before = target.stat()
    home.symlink(os.fsencode(target), d, b"s")
    home.set_attributes_at(d, b"s", stat.S_IFLNK | 0o777, 123, 456)
    home.set_times_at(d, b"s", NS, NS)
    found = home.lstat(d, b"s")
    assert (found.st_uid, found.st_gid, found.st_mtime_ns) == (123, 456, NS)
    with fails(errno.ELOOP):  # a symlink where a file was expected
        home.set_attributes_at(d, b"s", stat.S_IFREG | 0o666, 123, 456)
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_what_is_set_already_is_not_set_again(home: Home) -> None:
    fd = home.make_file(home.root, b"f")
    now = os.fstat(fd)
    home.set_attributes(fd, now.st_mode, now.st_uid, now.st_gid, now)
    assert os.fstat(fd).st_ctime_ns == now.st_ctime_ns
    home.set_attributes(fd, stat.S_IFREG | 0o640, now.st_uid, now.st_gid, now)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    os.close(fd)


@needs_root
def test_without_the_right_to_give_files_away() -> None:
    with tempfile.TemporaryDirectory() as path:
        os.chown(path, NOBODY, NOBODY)
        with another_user():
            home = Home(path.encode(), Properties(owners=False))
            fd = home.make_file(home.root, b"f")
            home.set_attributes(fd, 0o640, 123, 456)
            home.set_attributes(fd, 0o600, NOBODY, NOBODY)
            found = os.fstat(fd)
            os.close(fd)
            home.close()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, NOBODY, 0o600)


def test_a_home_without_modes_is_not_asked_for_them(home: Home) -> None:
    home.properties = replace(home.properties, modes=False, owners=False)
    fd = home.make_file(home.root, b"f")
    home.set_attributes(fd, 0o777, os.getuid(), os.getgid())
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)


def test_xattrs(home: Home, root: Path) -> None:
    d = home.root
    fd = home.make_file(d, b"f")
    try:
        xattrs.put(fd, b"user.raw", b"\0\xff")
    except OSError:
        os.close(fd)
        pytest.skip("no extended attributes here")
    home.make_dir(d, b"d")
    by_name = xattrs.at(d, b"d")
    xattrs.put(by_name, b"user.x", b"1")
    assert xattrs.read(by_name) == {b"user.x": b"1"}
    assert xattrs.read(fd) == {b"user.raw": b"\0\xff"}
    xattrs.remove(fd, b"user.raw")
    xattrs.remove(fd, b"user.raw")
    assert xattrs.read(fd) == {}
    os.close(fd)
    home.symlink(b"d", d, b"s")
    assert xattrs.read(xattrs.at(d, b"s")) == {}  # its own, not its target's


def test_own_directories_are_made_on_demand(home: Home, root: Path) -> None:
    home.make_dir(home.root, b".afm")
    for fd, name in ((home.scratch(), "scratch"), (home.unlinked(), "unlinked")):
        made = root / ".afm" / name
        assert os.path.samestat(os.fstat(fd), made.stat())
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert home.scratch() == home.scratch()


def test_own_directories_swapped_for_symlinks(home: Home, root: Path, tmp_path: Path) -> None:
    home.make_dir(home.root, b".afm")
    (root / ".afm" / "scratch").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        home.scratch()


def test_listing_and_the_whole(home: Home, root: Path) -> None:
    (root / "a").mkdir()
    fd = home.open_directory((b"a",))
    os.fsync(fd)
    assert os.listdir(fd) == []
    os.close(fd)
    home.sync()
    assert home.statvfs().f_namemax > 0
    assert home.mount_id() == home.mount_id()


def test_no_home() -> None:
    with fails(errno.ENOENT):
        Home(b"/no/such/home")


def test_close_leaves_nothing_open(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    (root / "a" / "b").mkdir(parents=True)
    home = Home(os.fsencode(root))
    home.directory((b"a", b"b"))
    home.forget_directory((b"a", b"b"))
    home.close()
    assert os.listdir("/proc/self/fd") == before
