"""A life on disks whose every write is recorded, and what is left of it after a cut."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from afmfs.cache.content.durable import syncfs
from tests.harness.mounting import Mount, wait_until
from tests.power.cuts import Log, everything, survivors
from tests.power.disks import Disks, blank, detach, powered
from tests.power.history import Found, History

OPTIONS = ("block_size=4K", "auto_resync=off")
PACES = (("async_delay=0", "durable_interval=1"), ("async_delay=1", "durable_interval=5"))
"""Replay and durable points at any time, or long stretches without."""

FIRST_CACHE, FIRST_HOME = 0, 1
"""Disks of a life: those that it begins with."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Power is gone at a position, for the cache, and for home unless `home_lives`."""

    position: int
    manner: str  # what survives of what no flush has made durable
    seed: int
    home_lives: int | None = None  # until this position
    cache: int = FIRST_CACHE
    told: int | None = None  # the program has stopped at an earlier position

    def __str__(self) -> str:
        who = "both" if self.home_lives is None else f"cache, home lives until {self.home_lives}"
        return f"power cut at {self.position} ({who}), {self.manner} survives, {self!r}"


@dataclass
class Recording:
    """Where everything lies, and what happened."""

    base: Path
    disks: Disks
    history: History = field(default_factory=History)
    homes: list[tuple[int, int]] = field(default_factory=list)  # from a position on, which disk
    pauses: list[tuple[int, int]] = field(default_factory=list)  # home stood still between them
    begin: int = 0  # the program's first step, and what followed its last
    end: int = 0

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def cache_disk(self) -> Path:
        return self.base / "cache-disk"

    def home_disk(self, position: int) -> int:
        return [disk for start, disk in self.homes if start <= position][-1]

    # -- while it is recorded --------------------------------------------------------------------

    def start(self, fill: Path) -> None:
        cache = self.disks.add(blank(self.disks.directory / "blank"))
        assert cache == FIRST_CACHE
        home = self.disks.add(blank(self.disks.directory / "filled", fill))
        self.homes.append((0, home))
        self.disks.attach(cache, self.cache_disk)
        self.disks.attach(home, self.home)

    def go_on(self, log: Log, cut: Cut) -> int:
        """Power is back after a cut, and everything is recorded again; the cache's disk."""
        cache_image, home_image = self._images(log, cut)
        cache, home = self.disks.add(cache_image), self.disks.add(home_image)
        self.homes.append((self.disks.position, home))
        self.disks.attach(cache, self.cache_disk)
        self.disks.attach(home, self.home)
        return cache

    def detach(self) -> None:
        for point in (self.home, self.cache_disk):
            detach(point)

    def mount(self, *options: str, watch: float) -> Mount:
        mount = Mount(self.home, self.base / "fs", *OPTIONS, *options, watch=watch)
        mount.cache = self.cache_disk / "cache"
        mount.checks = False
        try:
            mount.mount()
        except BaseException:
            mount.terminate()
            raise
        return mount

    @contextmanager
    def gateway_stands_still(self, mount: Mount) -> Iterator[None]:
        """Nothing changes at home inside."""
        gateways = mount.gateways()
        for gateway in gateways:
            gateway.suspend()
        wait_until(lambda: all(map(_stands_still, gateways)), 10, "the gateway stands still")
        try:
            yield
        finally:
            for gateway in gateways:
                gateway.resume()

    def note_home(self, mount: Mount) -> None:
        """A moment at which the cache may lose power while home lives on."""
        with self.gateway_stands_still(mount):
            position = self.disks.position
            _sync(self.home)
            self.pauses.append((position, self.disks.position))

    def write_back(self, dice: random.Random) -> None:
        """As the kernel does whenever it likes: bytes of some blobs, or what is at home, reach
        their disk before anybody has asked for it. And with them what ext4's journal holds."""
        files = _files(self._blobs if dice.random() < 0.7 else self.home)
        _sync_each(dice.sample(files, min(len(files), dice.choice((1, 4, 99)))))

    def write_back_blobs(self) -> int:
        """All of them, but not the databases; the position."""
        _sync_each(_files(self._blobs))
        return self.disks.position

    @property
    def _blobs(self) -> Path:
        return self.cache_disk / "cache/blobs"

    def cut_home(self, mount: Mount, manner: str, seed: int) -> None:
        """Home's server restarts and the cache lives on."""
        with self.gateway_stands_still(mount):
            position = self.disks.position
            image = self.build(self.disks.log(), self.home_disk(position), position, manner, seed)
            self.disks.detach_busy(self.home)
            disk = self.disks.add(image)
            self.homes.append((self.disks.position, disk))
            self.disks.attach(disk, self.home)

    # -- after a cut -----------------------------------------------------------------------------

    def build(self, log: Log, disk: int, position: int, manner: str, seed: int) -> Path:
        image = self.disks.directory / f"image-{disk}"
        kept = survivors(log, disk, position, manner, random.Random(seed))
        log.build(self.disks.base(disk), kept, image)
        return image

    @contextmanager
    def after(self, log: Log, cut: Cut) -> Iterator[None]:
        """Both disks have power again, in their places."""
        cache_image, home_image = self._images(log, cut)
        with powered(home_image, self.home), powered(cache_image, self.cache_disk):
            yield

    def _images(self, log: Log, cut: Cut) -> tuple[Path, Path]:
        """What is left on the cache's and on home's disk."""
        home = self.home_disk(cut.position)
        cache_image = self.build(log, cut.cache, cut.position, cut.manner, cut.seed)
        if cut.home_lives is None:
            return cache_image, self.build(log, home, cut.position, cut.manner, cut.seed + 1)
        image = self.disks.directory / f"image-{home}"
        log.build(self.disks.base(home), everything(log, home, cut.home_lives), image)
        return cache_image, image


def tree(root: Path) -> Found:
    """What is at home."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.relative_to(root).parts[0] not in (".afm", "lost+found")
    }


def _files(root: Path) -> list[str]:
    return sorted(os.path.join(top, name) for top, _, names in os.walk(root) for name in names)


def _sync_each(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # destroyed meanwhile
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _stands_still(process: psutil.Process) -> bool:
    """Every thread of it: one may have been in a system call."""
    states = []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) == {"T"}
