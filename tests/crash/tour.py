"""Everything once, in a fixed order: so every crash point is reached, whatever the dice said."""

from __future__ import annotations

import os
from pathlib import Path

from tests.crash.deeds import NOBODY
from tests.harness.mounting import Mount
from tests.harness.syscalls import RENAME_EXCHANGE, renameat2

BIG = 300_000


def tour(mount: Mount) -> None:
    """In a directory of its own. A flush between steps keeps them from being merged away."""
    top = mount.point / "tour"
    for step in (_make, _change, _fetch, _take_away):
        step(mount, top)
        mount.flush()
    assert mount.afmctl("resync", "--keep-uncached", "--yes", "--wait").returncode == 0


def _make(mount: Mount, top: Path) -> None:
    top.mkdir()
    (top / "gone").mkdir()
    for name in ("a", "b", "c", "cut", "removed"):
        (top / name).write_bytes(os.urandom(BIG))
    with (top / "holes").open("wb") as file:
        file.write(b"data" * 5000)
        file.truncate(BIG)
    os.link(top / "a", top / "a too")
    os.symlink("a", top / "symlink")
    os.mkfifo(top / "fifo")


def _change(mount: Mount, top: Path) -> None:
    renameat2(os.fsencode(top / "a"), os.fsencode(top / "b"), RENAME_EXCHANGE)
    (top / "new").write_bytes(b"saved")
    os.rename(top / "new", top / "c")
    os.truncate(top / "cut", 10)
    os.truncate(top / "b", 200_000)
    with (top / "b").open("r+b", buffering=0) as file:
        file.write(b"in place")
        os.fsync(file.fileno())
    os.chmod(top / "c", 0o600)
    if os.geteuid() == 0:
        os.chown(top / "c", NOBODY, NOBODY)
    os.utime(top / "c", ns=(10**18, 10**18))
    os.rename(top / "c", top / "d")


def _fetch(mount: Mount, top: Path) -> None:
    """Some of it is partly cached: written, fetched, shrunk, and cached whole in the end."""
    for name in ("holes", "b"):
        assert mount.afmctl("evict", "--file", str(top / name)).returncode == 0
    with (top / "b").open("r+b", buffering=0) as file:
        file.write(b"no block of this is here")
        os.fsync(file.fileno())
    os.truncate(top / "b", 150_000)
    for name in ("holes", "b"):
        (top / name).read_bytes()


def _take_away(mount: Mount, top: Path) -> None:
    (top / "gone").rmdir()
    (top / "removed").unlink()
    os.truncate(top / "d", 0)
    (top / "d").write_bytes(b"another generation")
