"""Every way to open, write, map, cut and stamp a file."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.harness.surfaces import Surface
from tests.harness.syscalls import fallocate

pytestmark = pytest.mark.mounted

PAGE = mmap.PAGESIZE


def test_append_by_two_descriptors(work: Path) -> None:
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    one, two = (os.open(work / "log", flags) for _ in range(2))
    for number in range(50):
        os.write(one, b"one %d\n" % number)
        os.write(two, b"two %d\n" % number)
    os.close(one)
    os.close(two)
    lines = (work / "log").read_bytes().splitlines()
    assert lines == [b"%s %d" % (who, n) for n in range(50) for who in (b"one", b"two")]


def test_open_flags(work: Path) -> None:
    path = work / "file"
    path.write_bytes(b"something")
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    with pytest.raises(NotADirectoryError):
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    (work / "link").symlink_to("file")
    with pytest.raises(OSError) as caught:
        os.open(work / "link", os.O_RDONLY | os.O_NOFOLLOW)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(IsADirectoryError):
        os.open(work, os.O_WRONLY)


def test_direct_io(work: Path) -> None:
    """Aligned, straight past the page cache, in both directions."""
    data = random.Random(2).randbytes(64 * PAGE)
    buffer = mmap.mmap(-1, len(data))
    buffer.write(data)
    flags = os.O_CREAT | os.O_RDWR | os.O_DIRECT
    descriptor = os.open(work / "direct", flags)
    try:
        assert os.pwrite(descriptor, buffer, 0) == len(data)
        assert os.pwrite(descriptor, memoryview(buffer)[:PAGE], 7 * PAGE) == PAGE
        back = mmap.mmap(-1, len(data))
        assert os.preadv(descriptor, [back], 0) == len(data)
        expected = data[: 7 * PAGE] + data[:PAGE] + data[8 * PAGE :]
        assert back[:] == expected
        back.close()
    finally:
        os.close(descriptor)
        buffer.close()
    assert (work / "direct").read_bytes() == expected


def test_shared_mapping(work: Path, surface: Surface) -> None:
    """Stores arrive with msync, and those after it with the close."""
    path = work / "mapped"
    path.write_bytes(bytes(3 * PAGE + 100))
    surface.flush()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[10:15] = b"first"
        mapping[2 * PAGE - 2 : 2 * PAGE + 2] = b"seam"
        mapping.flush()
        with path.open("rb") as other:
            content = other.read()
        assert content[10:15] == b"first"
        assert content[2 * PAGE - 2 : 2 * PAGE + 2] == b"seam"
        mapping[3 * PAGE + 95 :] = b"final"
    surface.flush()
    at_home = (surface.home / work.name / "mapped").read_bytes()
    assert at_home[10:15] == b"first"
    assert at_home[-5:] == b"final"


def test_private_mapping_of_a_file_of_home(surface: Surface, work: Path) -> None:
    (work / "file").write_bytes(b"content" * 10_000)
    surface.flush()
    surface.remount()
    with (
        (work / "file").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping,
    ):
        mapping[0:7] = b"private"
        assert mapping[7:14] == b"content"
    assert (work / "file").read_bytes() == b"content" * 10_000


@pytest.mark.parametrize("remount", [False, True])
@pytest.mark.parametrize("flush", [False, True])
def test_cut_and_extended_shows_no_old_bytes(
    work: Path, surface: Surface, flush: bool, remount: bool
) -> None:
    path = work / "file"
    path.write_bytes(b"old" * 100_000)
    surface.flush()
    if remount:
        surface.remount()
    os.truncate(path, 1000)
    if flush:
        surface.flush()
    os.truncate(path, 200_000)
    assert path.read_bytes() == (b"old" * 334)[:1000] + bytes(199_000)


def test_sparse_write_far_behind_the_end(work: Path) -> None:
    with (work / "sparse").open("w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far", 5_000_000_000)
        assert os.pread(file.fileno(), 10, 2_500_000_000) == bytes(10)
        assert os.fstat(file.fileno()).st_size == 5_000_000_003
        file.truncate(100_000)
    assert (work / "sparse").read_bytes() == bytes(100_000)


def test_random_writes_agree_with_memory(work: Path, surface: Surface) -> None:
    dice = random.Random(3)
    path, memory = work / "random", bytearray()
    path.touch()
    for turn in range(150):
        offset, size = dice.randrange(300_000), dice.randrange(1, 40_000)
        data = dice.randbytes(size)
        with path.open("r+b", buffering=0) as file:
            if dice.random() < 0.2:
                file.truncate(offset)
                memory[offset:] = b""
                memory.extend(bytes(offset - len(memory)))
            else:
                os.pwrite(file.fileno(), data, offset)
                memory.extend(bytes(max(0, offset - len(memory))))
                memory[offset : offset + size] = data
        if turn % 50 == 25:
            surface.flush()
    assert path.read_bytes() == memory


def test_fallocate(work: Path, surface: Surface) -> None:
    """pyfuse3 has no fallocate: the call says so, and the C library's emulation works."""
    with (work / "space").open("w+b") as file:
        if surface.is_mount:
            with pytest.raises(OSError) as caught:
                fallocate(file.fileno(), 0, 0, 10_000)
            assert caught.value.errno == errno.EOPNOTSUPP
        os.posix_fallocate(file.fileno(), 0, 10_000)
        assert os.fstat(file.fileno()).st_size == 10_000


LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    for lock in (fcntl.flock, fcntl.lockf):
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(lock.__name__, "is taken")
"""


def test_locks_hold_within_the_machine(work: Path) -> None:
    """flock and fcntl each, against another process; they end with who had them."""

    def tried() -> str:
        run = [sys.executable, "-c", LOCK, work / "locked"]
        return subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout

    with (work / "locked").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert tried() == "flock is taken\n"
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert tried() == "flock is taken\nlockf is taken\n"
    assert tried() == ""


def test_a_file_without_a_name(work: Path, surface: Surface) -> None:
    """O_TMPFILE is refused in the way that programs know, and what they do instead works."""
    if surface.is_mount:
        with pytest.raises(OSError) as caught:
            os.open(work, os.O_TMPFILE | os.O_RDWR, 0o600)
        assert caught.value.errno == errno.EOPNOTSUPP
    with tempfile.TemporaryFile(dir=work) as file:
        file.write(b"nobody's")
        file.seek(0)
        assert file.read() == b"nobody's"
    assert os.listdir(work) == []


def test_fifos_and_sockets(work: Path, surface: Surface) -> None:
    os.mkfifo(work / "fifo", 0o640)
    reader = os.open(work / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(work / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)
    here = os.getcwd()
    os.chdir(work)  # a socket's path has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            client.connect("socket")
    finally:
        os.chdir(here)
    assert stat.S_ISSOCK((work / "socket").lstat().st_mode)
    if os.geteuid() == 0:
        os.mknod(work / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        assert (work / "null").stat().st_rdev == os.makedev(1, 3)
    surface.flush()


def test_times_to_the_nanosecond(work: Path, surface: Surface) -> None:
    (work / "file").touch()
    (work / "dir").mkdir()
    (work / "link").symlink_to("missing")
    for number, name in enumerate(("file", "dir", "link")):
        stamps = (1_000_000_000_000_000_001 + number, 1_234_567_890_123_456_789 + number)
        os.utime(work / name, ns=stamps, follow_symlinks=False)
        info = (work / name).lstat()
        assert (info.st_atime_ns, info.st_mtime_ns) == stamps
    surface.flush()
    for number, name in enumerate(("file", "dir", "link")):
        at_home = (surface.home / work.name / name).lstat()
        assert at_home.st_mtime_ns == 1_234_567_890_123_456_789 + number


def test_times_that_change_by_themselves(work: Path) -> None:
    def mtime(path: Path) -> int:
        return path.stat().st_mtime_ns

    path = work / "file"
    os.utime(work, ns=(1, 1))
    path.write_bytes(b"x")
    assert mtime(work) > 1
    for change in (
        lambda: path.write_bytes(b"y"),
        lambda: os.truncate(path, 10),
        lambda: os.truncate(path, 10),
    ):
        os.utime(path, ns=(1, 1))
        changed = path.stat().st_ctime_ns
        change()
        assert mtime(path) > 1
        assert path.stat().st_ctime_ns >= changed
    os.utime(path, ns=(1, 1))
    path.chmod(0o600)
    assert mtime(path) == 1
    os.utime(work, ns=(1, 1))
    path.unlink()
    assert mtime(work) > 1


def test_modes_and_owners(work: Path) -> None:
    path = work / "file"
    path.touch()
    for mode in (0o000, 0o4755, 0o2711, 0o1777, 0o640):
        path.chmod(mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    if os.geteuid() == 0:
        path.chmod(0o6755)
        os.chown(path, 12, 34)
        info = path.stat()
        assert (info.st_uid, info.st_gid) == (12, 34)
        os.symlink("file", work / "link")
        os.chown(work / "link", 56, 78, follow_symlinks=False)
        assert (work / "link").lstat().st_uid == 56
        assert path.stat().st_uid == 12


def test_statvfs(surface: Surface, work: Path) -> None:
    """Home's figures; what is available is no more than home and the cache's disk have."""
    here, home = os.statvfs(work), os.statvfs(surface.home)
    assert here.f_namemax == home.f_namemax
    size = here.f_blocks * here.f_frsize
    assert size == pytest.approx(home.f_blocks * home.f_frsize, rel=0.01)
    assert 0 < here.f_bavail * here.f_frsize <= size
    assert here.f_files > 0


def test_inode_numbers_last(work: Path, surface: Surface) -> None:
    numbers = {}
    for number in range(20):
        path = work / str(number)
        path.touch()
        numbers[path] = path.stat().st_ino
    assert len(set(numbers.values())) == 20
    surface.flush()
    surface.remount()
    assert {path: path.stat().st_ino for path in numbers} == numbers


def test_fsync_of_files_and_directories(work: Path) -> None:
    with (work / "file").open("wb") as file:
        file.write(b"durable")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    directory = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    descriptor = os.open(work / "sync", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
    os.write(descriptor, b"each write")
    os.close(descriptor)
