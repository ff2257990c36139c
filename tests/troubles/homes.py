"""Homes that can be got into trouble, each with what a fileset is told to mount and where its files
really are.

They are context managers: nothing is left, whatever state a test leaves them in.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.harness.disks import Disk, small_disk
from tests.harness.faulty_fs import GROW, FaultyHome
from tests.harness.mounting import Mount, force_unmount
from tests.harness.sshd import Sshd, Sshfs
from tests.troubles.scene import fill


class Home:
    """A plain directory."""

    whole_seconds = False  # it keeps times in seconds

    def __init__(self, base: Path) -> None:
        self.base = base
        self.target = self.served = base / "home"
        self.stack = ExitStack()

    def __enter__(self) -> Home:
        try:
            self.prepare()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def prepare(self) -> None:
        fill(self.served)

    def put_aside(self) -> None:
        self.target.rename(self.base / "aside")

    def put_back(self) -> None:
        if self.target.exists():
            self.target.rename(self.base / "wrong")
        (self.base / "aside").rename(self.target)

    def copy(self) -> None:
        """A snapshot of it, an hour ago."""
        snapshot = self.base / "snapshot"
        subprocess.run(["cp", "-a", self.target, snapshot], check=True)
        marker = snapshot / ".afm/home.json"
        os.utime(marker, (marker.stat().st_atime, marker.stat().st_mtime - 3600))

    def put_snapshot(self) -> None:
        """An administrator has restored it."""
        self.put_aside()
        (self.base / "snapshot").rename(self.target)

    def wipe(self) -> None:
        for path in self.target.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def replace(self) -> None:
        """Another fileset's home is mounted in its place."""
        self.put_aside()
        fill(self.target)
        other = Mount(self.target, self.base / "other")
        other.mount()
        other.terminate()

    def change(self) -> None:
        """Somebody writes to it."""
        for name in ("one/old1", "one/old2", "one/old5"):
            (self.served / name).write_bytes(os.urandom(7))


class Bound(Home):
    """A directory that is mounted: an empty one comes to light when it isn't."""

    def prepare(self) -> None:
        self.served = self.base / "served"
        fill(self.served)
        self.target.mkdir()
        self.stack.callback(force_unmount, self.target)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "--bind", self.served, self.target], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.target], check=True)


class OnDisk(Home):
    """A file system of its own."""

    size = "16M"
    mkfs: tuple[str, ...] = ("-O", "^has_journal", "-m", "0")
    disk: Disk

    def prepare(self) -> None:
        self.disk = self.stack.enter_context(small_disk(self.base, self.size, *self.mkfs))
        self.target = self.served = self.disk.path / "home"
        fill(self.served)

    def _mount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", self.disk.path], check=True)

    def make_read_only(self) -> None:
        subprocess.run(["sync", "-f", self.disk.path], check=True)
        self._mount("ro")

    def make_writable(self) -> None:
        self._mount("rw")

    def fill_up(self) -> None:
        self.disk.fill()

    def make_room(self) -> None:
        (self.disk.path / "foreign").unlink()

    def take_permission(self) -> None:
        """Also root's."""
        self._say("chattr", "-R", "+i", self.served)
        self.stack.callback(self.give_permission)

    def give_permission(self) -> None:
        self._say("chattr", "-R", "-f", "-i", self.served)

    def freeze(self) -> None:
        self._say("fsfreeze", "-f", self.disk.path)
        self.stack.callback(self._say, "fsfreeze", "-u", self.disk.path)

    def thaw(self) -> None:
        self._say("fsfreeze", "-u", self.disk.path)

    @staticmethod
    def _say(*words: str | Path) -> None:
        """Where it is so already, it is well."""
        subprocess.run(words, check=False, capture_output=True)


class OnSmallDisk(OnDisk):
    """With room for some files more."""

    mkfs = (*OnDisk.mkfs, "-N", "64")

    def fill_up(self) -> None:
        (self.disk.path / "foreign").mkdir()
        for number in range(self.disk.free_files):
            (self.disk.path / "foreign" / str(number)).touch()

    def make_room(self) -> None:
        shutil.rmtree(self.disk.path / "foreign")


class Faulty(Home):
    """Behind a file system that does as it is told."""

    fs: FaultyHome

    def prepare(self) -> None:
        self.served = self.base / "served"
        fill(self.served)
        self.fs = self.stack.enter_context(FaultyHome(self.served, self.target))

    def be_slow(self) -> None:
        self.fs.set(delay=1.0)

    def be_stale(self) -> None:
        self.fs.set(errno=errno.ESTALE)

    def fail(self) -> None:
        self.fs.set(errno=errno.EIO)

    def lose_sector(self) -> None:
        """Of a file that is about to be written."""
        self.fs.set(errno=errno.EIO, kinds=[GROW], of="one/old2")

    def shut_out(self) -> None:
        self.fs.set(errno=errno.EACCES)

    def exceed_quota(self) -> None:
        self.fs.set(errno=errno.EDQUOT, kinds=[GROW])

    def die(self) -> None:
        self.fs.kill()

    def mount_again(self) -> None:
        self.fs.unmount()
        self.fs.mount()

    def be_well(self) -> None:
        self.fs.set()


class Remote(Home):
    """A server's directory, by sshfs without `reconnect`."""

    whole_seconds = True
    sshd: Sshd
    sshfs: Sshfs

    def prepare(self) -> None:
        self.served = self.base / "served"
        fill(self.served)
        self.sshd = self.stack.enter_context(Sshd(self.base / "sshd"))
        self.sshfs = self.sshd.mount(self.served, self.target)

    def hang(self) -> None:
        self.sshd.stop()

    def answer(self) -> None:
        self.sshd.cont()
