"""What the mount process holds of a fileset does not grow with it."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

from tests.cache.parts import Parts, parts

__all__ = ["parts"]

FEW, MANY = 10, 100


async def test_inodes_in_memory(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is forgotten is found again as it was."""
    monkeypatch.setattr("afmfs.cache.store.inodes.IN_MEMORY", FEW)
    numbers = [parts.make(b"%d" % n).ino for n in range(MANY)]
    gc.collect()
    assert len(parts.store._inodes) <= FEW + 2  # the root, and the last one made
    assert [parts.inode(b"%d" % n).ino for n in range(MANY)] == numbers


async def test_open_blobs(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files themselves may all be open."""
    monkeypatch.setattr("afmfs.cache.content.blobs.OPEN_BLOBS", FEW)
    inodes = [parts.make(b"%d" % n) for n in range(MANY)]
    for n, inode in enumerate(inodes):
        await parts.content.write(inode, 0, b"%d" % n)
    assert open_below(parts.place / "blobs") <= FEW + 1  # the directory
    for n, inode in enumerate(inodes):
        assert await parts.content.read(inode, 0, 9) == b"%d" % n
    assert open_below(parts.place / "blobs") <= FEW + 1


async def test_a_page_of_a_directory(parts: Parts) -> None:
    """Read from where the last one ended, and no further than it is long."""

    def make(name: bytes, count: int) -> int:
        assert parts.root
        directory = parts.namespace.make(
            parts.root, name, mode=stat.S_IFDIR | 0o755, uid=0, gid=0, rdev=0, target=None
        )
        for n in range(count):
            parts.namespace.make(
                directory, b"%d" % n, mode=stat.S_IFIFO | 0o644, uid=0, gid=0, rdev=0, target=None
            )
        return directory.ino

    small, large = (cost_of_a_page(parts, make(b"%d" % n, n)) for n in (3 * FEW, 300 * FEW))
    assert large < 1.5 * small


def cost_of_a_page(parts: Parts, directory: int) -> int:
    """Instructions of SQLite's machine."""
    middle = parts.namespace.page(directory, 0, FEW)[-1][2]
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    parts.store.db.set_progress_handler(count, 1)
    assert len(parts.namespace.page(directory, middle, FEW)) == FEW
    parts.store.db.set_progress_handler(None, 1)
    return steps


def open_below(place: Path) -> int:
    """Descriptors of this process that are open there."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += Path(os.readlink(f"/proc/self/fd/{name}")).is_relative_to(place)
        except FileNotFoundError:
            continue  # the listing's own
    return count
