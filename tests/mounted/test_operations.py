"""What the kernel gets to see through the adapter, and that nothing ends it."""

from __future__ import annotations

import ctypes
import errno
import inspect
import os
import random
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyfuse3 import FlagT, FUSEError, InodeT

from mount.operations import Operations

pytestmark = pytest.mark.mounted

MountAt = Callable[..., Path]


@pytest.fixture
def point(mounted: MountAt) -> Path:
    return mounted()


def renameat2(source: Path, target: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    here = -100
    if libc.renameat2(here, os.fsencode(source), here, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def test_every_handler_is_guarded() -> None:
    """An exception but FUSEError ends the mount."""
    handlers = {
        name: method
        for name, method in vars(Operations).items()
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    }
    assert {"lookup", "create", "write", "readdir", "getxattr"} <= handlers.keys()
    assert [name for name, one in handlers.items() if not hasattr(one, "is_guarded")] == []


def test_an_unforeseen_error_is_eio_and_the_mount_lives(point: Path) -> None:
    with pytest.raises(OSError) as caught:
        os.stat(point / "strange-error")
    assert caught.value.errno == errno.EIO
    assert (point.parent / "cache/afmfs.log").read_text().count("ValueError: a bug") == 1
    os.stat(point)


def test_files(point: Path) -> None:
    file = point / "file"
    file.write_bytes(b"one")
    with file.open("ab") as out:
        out.write(b"two")
    assert file.read_bytes() == b"onetwo"
    os.truncate(file, 4)
    assert file.stat().st_size == 4
    assert file.read_bytes() == b"onet"
    file.write_bytes(b"new")  # O_TRUNC
    assert file.read_bytes() == b"new"


def test_times_to_the_nanosecond_also_before_1970(point: Path) -> None:
    file = point / "times"
    file.touch()
    for times in ((1_234_567_890_123_456_789, 987_654_321), (-1, -1_500_000_000)):
        os.utime(file, ns=times)
        after = file.stat()
        assert (after.st_atime_ns, after.st_mtime_ns) == times


def test_modes_and_the_umask(point: Path) -> None:
    before = os.umask(0o027)
    try:
        (point / "masked").touch(0o666)
        (point / "masked-dir").mkdir(0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE((point / "masked").stat().st_mode) == 0o640
    assert stat.S_IMODE((point / "masked-dir").stat().st_mode) == 0o750
    os.chmod(point / "masked", 0o4711)
    assert stat.S_IMODE((point / "masked").stat().st_mode) == 0o4711


def test_special_files(point: Path) -> None:
    os.mkfifo(point / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(point / "socket"))
    assert stat.S_ISFIFO((point / "fifo").stat().st_mode)
    assert stat.S_ISSOCK((point / "socket").stat().st_mode)
    if os.geteuid() == 0:
        os.mknod(point / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert (point / "null").stat().st_rdev == os.makedev(1, 3)


def test_links(point: Path) -> None:
    (point / "linked").write_text("x")
    os.link(point / "linked", point / "linked2")
    assert (point / "linked2").stat().st_nlink == 2
    os.symlink(b"\xff/no-utf8", os.fsencode(point) + b"/symbolic")
    assert os.readlink(os.fsencode(point) + b"/symbolic") == b"\xff/no-utf8"


def test_rename_flags(point: Path) -> None:
    one, two = point / "one", point / "two"
    one.write_text("1")
    two.write_text("2")
    with pytest.raises(FileExistsError):
        renameat2(one, two, 1)
    renameat2(one, two, 2)
    assert (one.read_text(), two.read_text()) == ("2", "1")
    os.rename(one, two)
    assert two.read_text() == "2"
    assert not one.exists()
    with pytest.raises(OSError) as caught:
        renameat2(two, one, 4)  # RENAME_WHITEOUT
    assert caught.value.errno == errno.EINVAL


def test_names_of_any_bytes_up_to_homes_limit(point: Path) -> None:
    root = os.fsencode(point) + b"/"
    for name in (b"\xff\xfe", b"new\nline", b"n" * 255):
        os.mkdir(root + name)
        assert name in os.listdir(os.fsencode(point))
        os.rmdir(root + name)
    for call in (os.mkdir, os.stat, os.mkfifo, os.unlink):
        with pytest.raises(OSError) as caught:
            call(root + b"n" * 256)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_a_large_directory_is_listed_whole(point: Path) -> None:
    where = point / "large"
    where.mkdir()
    names = [f"name-{number}" for number in range(1500)]
    for name in names:
        (where / name).touch()
    with os.scandir(where) as entries:
        found = {entry.name: entry.inode() for entry in entries}
    assert sorted(found) == sorted(names)
    assert all((where / name).stat().st_ino == ino for name, ino in found.items())
    run = subprocess.run(["ls", "-a", where], capture_output=True, text=True, check=True)
    assert run.stdout.split()[:2] == [".", ".."]


def test_removed_while_listed(point: Path) -> None:
    where = point / "vanishing"
    where.mkdir()
    for number in range(1000):
        (where / str(number)).touch()
    subprocess.run(["rm", "-r", where], check=True)
    assert not where.exists()


def test_unlinked_files_stay_open(point: Path) -> None:
    with (point / "gone").open("w+b") as file:
        file.write(b"still here")
        file.flush()
        os.unlink(point / "gone")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), 100, 0) == b"still here"


def test_statfs(point: Path) -> None:
    figures = os.statvfs(point)
    assert (figures.f_frsize, figures.f_blocks, figures.f_bavail) == (4096, 1000, 400)
    assert figures.f_namemax == 255


def test_without_the_option_there_are_no_xattrs(point: Path) -> None:
    (point / "plain").touch()
    for call in (
        lambda: os.getxattr(point / "plain", "user.x"),
        lambda: os.setxattr(point / "plain", "user.x", b""),
        lambda: os.listxattr(point / "plain"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_xattrs(mounted: MountAt) -> None:
    file = mounted("xattrs") / "file"
    file.touch()
    os.setxattr(file, "user.x", b"\0\xff", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(file, "user.x", b"", os.XATTR_CREATE)
    assert os.getxattr(file, "user.x") == b"\0\xff"
    assert os.listxattr(file) == ["user.x"]
    os.removexattr(file, "user.x")
    with pytest.raises(OSError) as caught:
        os.getxattr(file, "user.x")
    assert caught.value.errno == errno.ENODATA


def test_the_state_of_a_file_is_an_xattr_that_cannot_be_changed(mounted: MountAt) -> None:
    file = mounted("xattrs") / "with-state"
    file.touch()
    assert os.getxattr(file, "user.afm.state") == b"cached"
    assert os.listxattr(file) == []
    for call in (
        lambda: os.setxattr(file, "user.afm.state", b"x"),
        lambda: os.removexattr(file, "user.afm.state"),
    ):
        with pytest.raises(PermissionError):
            call()


def test_the_kernel_may_cache_writes(mounted: MountAt) -> None:
    file = mounted("writeback") / "file"
    with file.open("wb", buffering=0) as out:
        for _ in range(1000):
            out.write(b"ten bytes\n")
    assert file.stat().st_size == 10_000
    assert file.read_bytes() == b"ten bytes\n" * 1000


@pytest.mark.parametrize("options", [(), ("writeback",)])
def test_small_writes_anywhere(mounted: MountAt, tmp_path: Path, options: tuple[str, ...]) -> None:
    chance = random.Random(1)
    with (
        (mounted(*options) / "anywhere").open("w+b", buffering=0) as here,
        (tmp_path / "there").open("w+b", buffering=0) as there,
    ):
        for _ in range(500):
            offset, data = chance.randrange(500_000), chance.randbytes(chance.randrange(1, 6000))
            for file in (here, there):
                os.pwrite(file.fileno(), data, offset)
            if chance.random() < 0.02:
                os.fsync(here.fileno())
        assert os.pread(here.fileno(), 1 << 20, 0) == os.pread(there.fileno(), 1 << 20, 0)


class FullFileset:
    """Of a set-ID file; the truncation has filled the disk."""

    opened = 0

    async def open(self, ino: int, flags: int) -> SimpleNamespace:
        self.opened += 1
        return SimpleNamespace(mode=stat.S_IFREG | 0o4755)

    async def setattr(self, ino: int, **changes: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    def release(self, ino: int) -> None:
        self.opened -= 1


async def test_an_open_that_fails_leaves_nothing_open() -> None:
    """The kernel releases only what it was given."""
    fileset: Any = FullFileset()
    ctx: Any = SimpleNamespace(uid=1000)
    operations = Operations(fileset, ctx, xattrs=False, writeback=False)
    with pytest.raises(FUSEError) as caught:
        await operations.open(InodeT(20), FlagT(os.O_WRONLY | os.O_TRUNC), ctx)
    assert (caught.value.errno, fileset.opened) == (errno.ENOSPC, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("change", ["echo x >>", ":>", "truncate -s 1"])
def test_a_change_by_another_user_takes_the_set_id_bits(mounted: MountAt, change: str) -> None:
    point = mounted("allow_other")
    for above in point.parents:
        if "pytest" in str(above):
            above.chmod(0o755)
    file = point / "set-id"
    file.write_text("12")
    os.chmod(file, 0o6777)
    subprocess.run(
        ["sh", "-c", f"{change} '{file}'"], user=65534, group=65534, extra_groups=[], check=True
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o777
