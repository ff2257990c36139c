"""Caches that are damaged at random, in several places at once, then repaired and worked with.

Whatever was harmed: no byte is shown, here or at home, that was never a version of that file; what
home had is there; and bytes that were only here, and whose blob is intact, are found again: under
their name, in a lost+found, or at home. (AFMFS_HARM: so many rounds, the first seed is AFMFS_SEED.)
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afmfs.cache.check.run import Mending, look
from afmfs.errors import Damaged, Refused
from tests.harness.engine import Engine, ThreadGateway
from tests.harness.files import EngineFiles
from tests.harness.mounting import wait_until

ROUNDS = int(os.environ.get("AFMFS_HARM", "2"))
FIRST = int(os.environ.get("AFMFS_SEED", "0"))
BLOCK = 4096
DIRECTORIES, FILES = 6, 12


class World:
    """A home, a cache of it with pending changes of each kind, and what may be read where."""

    def __init__(self, base: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.home = base / "home"
        self.versions: dict[bytes, set[bytes]] = defaultdict(set)  # by every path it ever had
        self.kept: dict[bytes, bytes] = {}  # what home had of files that nobody has changed
        self.pending: set[bytes] = set()  # bytes that are only in the cache
        for name in (b"t%d/f%d" % (d, f) for d in range(DIRECTORIES) for f in range(FILES)):
            path = self.home / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            data = self.noise()
            path.write_bytes(data)
            self.versions[name], self.kept[name] = {data}, data
        self.engine = Engine(
            self.home, base, "block_size=4K", "async_delay=3600", gateway=ThreadGateway
        )
        self.engine.checks = False

    def noise(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((60, 900, BLOCK, 3 * BLOCK + 11)))

    @property
    def files(self) -> EngineFiles:
        return EngineFiles(self.engine.fileset, self.engine.call)

    # -- work ------------------------------------------------------------------------------------

    def work(self, *, kill: bool) -> None:
        """With `kill` the cache is left as both processes' ends would leave it."""
        self.engine.start()
        names = sorted(self.versions)
        self.rng.shuffle(names)
        for name in names[:40]:
            self.read(name)
        for name in names[30:50]:
            self.write(name)
        self.engine.flush()
        self.pending.clear()
        for name in names[45:60]:
            self.write(name)
        for n in range(15):
            self.write(b"t%d/new%d" % (n % DIRECTORIES, n))
        for name in names[60:66]:
            self.patch(name)
        for n, name in enumerate(names[20:26]):
            self.rename(name, b"t%d/moved%d" % (n, n))
        self.rename(b"t0", b"renamed")
        for name in names[:4]:
            self.remove(name)
        if kill:
            self.engine.call(self.copy)  # in its thread, so at one moment
        self.engine.stop()
        if kill:
            shutil.rmtree(self.engine.cache)
            os.rename(self.engine.cache.parent / "killed", self.engine.cache)

    async def copy(self) -> None:
        shutil.copytree(self.engine.cache, self.engine.cache.parent / "killed")

    def read(self, path: bytes) -> bytes:
        handle = self.files.open(path, os.O_RDONLY)
        try:
            return self.files.read(handle, 0, 1 << 20)
        finally:
            self.files.close(handle)

    def write(self, path: bytes) -> None:
        data = self.noise()
        handle = self.files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.files.write(handle, 0, data)
        self.files.close(handle)
        self.versions[path] |= {data, b""}
        self.pending.add(data)
        self.kept.pop(path, None)

    def patch(self, path: bytes) -> None:
        (before,) = self.versions[path]
        data, start = self.rng.randbytes(40), self.rng.randrange(len(before) - 40)
        handle = self.files.open(path, os.O_WRONLY)
        self.files.write(handle, start, data)
        self.files.close(handle)
        self.versions[path].add(before[:start] + data + before[start + 40 :])
        self.pending.add(data)
        self.kept.pop(path, None)

    def rename(self, path: bytes, target: bytes) -> None:
        self.files.rename(path, target, 0)
        for name in [*self.versions]:
            if name == path or name.startswith(path + b"/"):
                self.versions[target + name[len(path) :]] |= self.versions[name]

    def remove(self, path: bytes) -> None:
        path = path.replace(b"t0/", b"renamed/")
        for data in self.versions[path]:
            self.pending.discard(data)
        self.kept.pop(path.replace(b"renamed/", b"t0/"), None)
        self.files.unlink(path)

    # -- harm ------------------------------------------------------------------------------------

    def harm(self) -> list[str]:
        """Some harm; what was done."""
        kinds: list[Callable[[], str]] = [self.pages, self.journal, self.blobs, self.log]
        return [self.rng.choice(kinds)() for _ in range(self.rng.randint(1, 3))]

    def pages(self) -> str:
        return self._overwrite(self.engine.cache / "cache.db")

    def journal(self) -> str:
        return self._overwrite(self.engine.cache / "gateway/1/gateway.db")

    def _overwrite(self, path: Path) -> str:
        size = 1024 if path.name == "cache.db" else 4096
        count = path.stat().st_size // size
        with path.open("r+b") as file:
            numbers = self.rng.sample(range(count), min(count, self.rng.randint(1, 6)))
            for number in numbers:
                other = os.pread(file.fileno(), size, self.rng.randrange(count) * size)
                data = self.rng.choice((bytes(size), self.rng.randbytes(size), other))
                start = self.rng.choice((0, 0, self.rng.randrange(size)))
                os.pwrite(file.fileno(), data[start:], number * size + start)
        return f"{path.name}: pages {numbers}"

    def blobs(self) -> str:
        every = sorted((self.engine.cache / "blobs").glob("??/*"))
        some = self.rng.sample(every, min(len(every), self.rng.randint(1, 8)))
        for path in some:
            if self.rng.random() < 0.5:
                path.unlink()
            else:
                os.truncate(path, self.rng.randrange(path.stat().st_size + 1))
        return f"blobs: {[path.name for path in some]}"

    def log(self) -> str:
        path = self.engine.cache / "cache.db-wal"
        if not path.exists() or not path.stat().st_size:
            return "no log"
        size = self.rng.randrange(path.stat().st_size)
        if self.rng.random() < 0.2:
            path.unlink()
        else:
            os.truncate(path, size)
        return f"log: {size} bytes are left"

    def intact(self) -> set[bytes]:
        """Pending bytes that some blob has."""
        every = [path.read_bytes() for path in (self.engine.cache / "blobs").glob("??/*")]
        return {data for data in self.pending if any(data in blob for blob in every)}

    # -- afterwards ------------------------------------------------------------------------------

    def mount(self) -> bool:
        """Whether it can be mounted; what home knows of the cache may be lost, so perhaps by
        taking home over."""
        for takeover in (False, True):
            self.engine.options = replace(self.engine.options, takeover=takeover)
            try:
                self.engine.start()
            except Refused:
                continue
            except BaseExceptionGroup as group:
                if group.split(Refused)[1] is not None:
                    raise
                continue
            return True
        return False

    def shown(self, directory: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Paths and bytes of all files that can be read."""
        for name in sorted(self.files.names(directory)):
            path = directory + b"/" + name if directory else name
            try:
                inode = self.files.walk(path)
                if stat.S_ISDIR(inode.mode):
                    yield from self.shown(path)
                elif stat.S_ISREG(inode.mode):
                    yield path, self.read(path)
            except (OSError, Damaged):
                continue

    def flush(self) -> None:
        async def start() -> None:
            self.engine.fileset.start()
            self.engine.fileset.flush_pending()

        async def status() -> Any:
            return self.engine.fileset.status()

        def settled() -> bool:
            one = self.engine.call(status)
            return one.job is None and one.requeued >= one.queue_length

        self.engine.call(start)
        wait_until(settled, 60, "all is sent that can be")

    def at_home(self) -> dict[bytes, bytes]:
        found = {}
        for directory, _, names in os.walk(os.fsencode(self.home)):
            for name in names:
                path = Path(os.fsdecode(directory), os.fsdecode(name))
                found[os.fsencode(path.relative_to(self.home))] = path.read_bytes()
        return found

    def set_aside(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.engine.cache / "lost+found").glob("*")]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + ROUNDS))
def test_random_harm(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, seed)
    world.work(kill=world.rng.random() < 0.5)
    print("harm:", world.harm())
    intact = world.intact()
    look(world.engine.cache, lambda finding, done: print(finding.kind, finding.text))
    Mending(world.engine.cache, lambda finding, done: None).run()
    left: list[str] = []
    look(world.engine.cache, lambda finding, done: left.append(finding.kind))
    assert set(left) <= {"setting"}, left
    assert world.mount() or left
    if not left:
        try:
            shown = dict(world.shown())
            world.flush()
            shown_after = dict(world.shown())
        finally:
            world.engine.stop()
        assert_nothing_wrong(world, [*shown.items(), *shown_after.items()])
        assert_nothing_lost(world, intact, [*shown_after.values(), *world.set_aside()])


def every_version(world: World) -> set[bytes]:
    return {data for versions in world.versions.values() for data in versions}


def assert_nothing_wrong(world: World, shown: list[tuple[bytes, bytes]]) -> None:
    every = every_version(world)
    for path, data in shown:
        if path.startswith(b"lost+found"):  # whatever a row was that nobody can judge
            assert data in every or not data.strip(b"\0"), f"{path!r} is no version of anything"
        else:
            assert data in world.versions[path], f"{path!r}: {len(data)} bytes, no version of it"
    for path, data in world.at_home().items():
        # What has no name any more is sent as far as it is here.
        if not path.startswith((b".afm/", b"lost+found/")):
            assert is_part(data, every), f"at home {path!r} has {len(data)} bytes, of no version"


def is_part(data: bytes, every: set[bytes]) -> bool:
    """Whether it is a version, or what is left of one whose blob was cut off: the beginning of a
    new file, or of what was written over a part of another."""
    if data in every or any(one.startswith(data) for one in every):
        return True
    alike = [one for one in every if len(one) == len(data)]
    return all(any(one[n] == byte for one in alike) for n, byte in enumerate(data))


def assert_nothing_lost(world: World, intact: set[bytes], here: list[bytes]) -> None:
    home = world.at_home()
    gone = [data for data in intact if not any(data in one for one in (*here, *home.values()))]
    assert not gone, f"{len(gone)} of {len(intact)} intact pieces are not found any more"
    there = set(home.values())
    assert all(data in there for data in world.kept.values()), "home has lost what it had"
