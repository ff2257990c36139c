"""Small disks: file systems in images, for what only a full or a failing disk shows. Takes root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")


class Disk:
    """An ext4 in an image, mounted by a loop device at `path`."""

    def __init__(self, base: Path, size: str, *mkfs: str) -> None:
        self.image, self.path = base / "image", base / "disk"
        self.path.mkdir(parents=True)
        with self.image.open("wb") as image:
            image.truncate(int(size.removesuffix("M")) << 20)
        subprocess.run(["mkfs.ext4", "-q", *mkfs, self.image], check=True)
        self.mount()

    def mount(self) -> None:
        words = ["-t", "ext4", "-o", "loop,errors=remount-ro"]
        subprocess.run(["mount", *words, self.image, self.path], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.path], check=True)

    def repair(self) -> None:
        """As an administrator does after an error. Not mounted."""
        run = subprocess.run(["e2fsck", "-p", "-f", self.image], capture_output=True, check=False)
        assert run.returncode in (0, 1), run.stdout

    def fail(self) -> None:
        """An error of the file system: it becomes read-only, for good."""
        source = subprocess.run(
            ["findmnt", "-no", "SOURCE", self.path], check=True, capture_output=True, text=True
        ).stdout.strip()
        trigger = Path("/sys/fs/ext4", os.path.basename(source), "trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel can't make ext4 fail")
        trigger.write_text("a test")

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def free_files(self) -> int:
        return os.statvfs(self.path).f_favail

    def fill(self, leave: int = 0) -> Path:
        """Somebody else's file, which takes all but `leave` bytes."""
        path = self.path / "foreign"
        with path.open("ab") as file:
            fd = file.fileno()
            while (count := self.free - leave) > 0:
                size = os.fstat(fd).st_size
                try:
                    os.posix_fallocate(fd, size, min(count, 1 << 20))
                except OSError:
                    if count < 4096:
                        break
                    try:
                        os.posix_fallocate(fd, size, 4096)
                    except OSError:
                        break
        return path


@contextmanager
def small_disk(base: Path, size: str = "48M", *mkfs: str) -> Iterator[Disk]:
    """A disk of its own. What is mounted on it has to end inside."""
    disk = Disk(base, size, *mkfs)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk.path], check=False)
        disk.image.unlink()
