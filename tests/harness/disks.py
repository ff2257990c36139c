"""Small disks, for what only a full or a failing one shows: each a file system. Takes root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")

_MAKE = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q", "--unsupported")}
_OPTIONS = {"ext4": "loop,errors=remount-ro", "xfs": "loop"}


def run(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def fill(path: Path, leave: int = 0) -> Path:
    """A file `foreign` in the directory `path`, which takes all but `leave` bytes of its disk."""
    file = path / "foreign"
    with file.open("ab") as stream:
        fd, step = stream.fileno(), 1 << 20
        while (count := free(path) - leave) > 0 and step:
            try:
                os.posix_fallocate(fd, os.fstat(fd).st_size, min(count, step))
            except OSError:
                step = step // 16 if step > 4096 else 0
    return file


def free(path: Path) -> int:
    """Bytes."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


class Disk:
    """A file system of so many bytes ("48M"), mounted at `path`: ext4 or XFS in an image, or a
    tmpfs. The image may lie on a disk of its own."""

    def __init__(
        self, base: Path, size: str, *mkfs: str, kind: str = "ext4", below: Path | None = None
    ) -> None:
        self.kind, self.size, self.mkfs = kind, size, mkfs
        self.image, self.path = (below or base) / "image", base / "disk"
        self.path.mkdir(parents=True)
        if kind != "tmpfs":
            if shutil.which(_MAKE[kind][0]) is None:
                pytest.skip(f"no {_MAKE[kind][0]} here")
            with self.image.open("wb") as image:
                image.truncate(int(size.removesuffix("M")) << 20)
            run(*_MAKE[kind], *mkfs, self.image)
        self.mount()

    def mount(self, *options: str) -> None:
        if self.kind == "tmpfs":
            words = ",".join((f"size={self.size}", *self.mkfs, *options))
            run("mount", "-t", "tmpfs", "-o", words, "tmpfs", self.path)
        else:
            words = ",".join((_OPTIONS[self.kind], *options))
            run("mount", "-t", self.kind, "-o", words, self.image, self.path)

    def unmount(self) -> None:
        run("umount", self.path)

    def remount(self, word: str) -> bool:
        """Read-only or writable, "ro" or "rw"; False if it is in use."""
        words = ["mount", "-o", f"remount,{word}", self.path]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def repair(self) -> None:
        """As an administrator does after an error. Not mounted."""
        found = subprocess.run(["e2fsck", "-p", "-f", self.image], capture_output=True, check=False)
        assert found.returncode in (0, 1), found.stdout

    def fail(self) -> None:
        """An error of the file system: it becomes read-only, for good."""
        source = run("findmnt", "-no", "SOURCE", self.path)
        trigger = Path("/sys/fs/ext4", os.path.basename(source), "trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel can't make ext4 fail")
        trigger.write_text("a test")

    @property
    def free(self) -> int:
        """Bytes."""
        return free(self.path)

    @property
    def free_files(self) -> int:
        return os.statvfs(self.path).f_favail

    def fill(self, leave: int = 0) -> Path:
        """Somebody else's file, which takes all but `leave` bytes."""
        return fill(self.path, leave)

    def end(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=False)
        self.image.unlink(missing_ok=True)


@contextmanager
def small_disk(
    base: Path, size: str = "48M", *mkfs: str, kind: str = "ext4", below: Path | None = None
) -> Iterator[Disk]:
    """A disk of its own. What is mounted on it has to end inside."""
    disk = Disk(base, size, *mkfs, kind=kind, below=below)
    try:
        yield disk
    finally:
        disk.end()
