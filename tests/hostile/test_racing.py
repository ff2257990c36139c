"""While everything runs, somebody swaps what is at home for links that lead out of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import REPOSITORY, Mount
from tests.harness.trees import Tree, snapshot

pytestmark = pytest.mark.mounted

SECONDS = float(os.environ.get("AFMFS_RACE_SECONDS", "8"))
CANARY = b"outside!"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The names that home has, too, with what nobody may read or change."""
    top = tmp_path / "outside"
    for directory in ("d", "d/e", "e", "links"):
        (top / directory).mkdir(parents=True)
        for n in range(10):
            (top / directory / f"f{n}").write_bytes(CANARY * 1000)
    (top / "file").write_bytes(CANARY)
    (top / "d/file").write_bytes(CANARY)
    return top


@pytest.fixture
def swapped(home: Path) -> Path:
    for directory in ("d", "d/e", "links"):
        (home / directory).mkdir()
        for n in range(10):
            (home / directory / f"f{n}").write_bytes(b"at home!" * 1000)
    (home / "d/file").write_bytes(b"at home!")
    return home


@contextmanager
def swapping(home: Path, outside: Path, seed: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.swapper", home, outside, str(seed)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    try:
        yield
    finally:
        process.communicate(timeout=20)


class User:
    """Works on the mount, whatever is said; nothing that it reads may be from outside."""

    def __init__(self, mount: Mount, seed: int) -> None:
        self.mount, self.chance, self.made = mount, random.Random(seed), 0

    def work(self) -> None:
        directory = self.mount.point / self.chance.choice(["d", "d/e", "links"])
        name = directory / f"f{self.chance.randrange(10)}"
        call = self.chance.choice(
            [self.read, self.read, self.write, self.replace, self.remove, self.make, self.list]
        )
        try:
            call(directory, name)
        except OSError:
            pass

    def read(self, directory: Path, name: Path) -> None:
        assert CANARY not in name.read_bytes(), f"{name} is read outside home"

    def write(self, directory: Path, name: Path) -> None:
        with name.open("r+b") as file:
            file.seek(self.chance.randrange(9000))
            file.write(b"written!")

    def replace(self, directory: Path, name: Path) -> None:
        new = directory / "new"
        new.write_bytes(b"replaced" * self.chance.randrange(2000))
        os.replace(new, name)

    def remove(self, directory: Path, name: Path) -> None:
        name.unlink()

    def make(self, directory: Path, name: Path) -> None:
        self.made += 1
        (directory / f"made{self.made}").mkdir()
        (directory / f"made{self.made}/file").write_bytes(b"made")
        os.chown(directory / f"made{self.made}", 1001, 1001)
        os.symlink("/etc/passwd", directory / f"made{self.made}/link")

    def list(self, directory: Path, name: Path) -> None:
        for entry in os.scandir(directory):
            assert entry.stat(follow_symlinks=False).st_size != len(CANARY) * 999
        for top, _, files in os.walk(directory):
            for file in files:
                path = Path(top) / file
                if not path.is_symlink() and file != "file":  # a link to it is a file of home's
                    self.read(directory, path)


def facts(tree: Tree) -> dict[bytes, tuple[object, ...]]:
    return {path: (n.mode, n.owner, n.size, n.mtime, n.digest) for path, n in tree.items()}


@pytest.mark.parametrize("seed", range(int(os.environ.get("AFMFS_RACES", "1"))))
def test_nothing_outside_is_read_or_changed(
    swapped: Path, outside: Path, make_mount: MakeMount, seed: int
) -> None:
    before = facts(snapshot(outside))
    mount = make_mount(swapped, "async_delay=0", "block_size=4k")
    # A link that is there when a directory is read is a link here, too, and leads whoever uses it.
    assert [top for top, _, _ in os.walk(mount.point)]
    user, end, turns = User(mount, seed), time.monotonic() + SECONDS, 0
    commands = (["flushPending"], ["resync"], ["evict", "--safe-limit", "0"], ["resumeRequeued"],
                ["verify"], ["trash", "list"])  # fmt: skip
    with swapping(swapped, outside, seed):
        while time.monotonic() < end:
            for _ in range(40):
                user.work()
            name, *words = commands[turns % len(commands)]
            said = [*words, "--yes"] if name == "resync" else words
            command(mount, " ".join([name, *said]))
            turns += 1
    assert turns >= 3
    assert "afmNeedsResync" in mount.events(1000), "the links were met"
    assert facts(snapshot(outside)) == before
    assert (outside / "file").stat().st_size == len(CANARY)
    run = mount.afmctl("resync", "--wait", "--yes")
    assert run.returncode == 0, run.stderr + mount.events(30)
    mount.flush()
    assert facts(snapshot(outside)) == before
    log = mount.log_tail(2000)
    assert "Traceback" not in log, log


def command(mount: Mount, line: str) -> None:
    """To the control file, which answers at once; it may well be refused."""
    try:
        (mount.point / ".afm/control").write_text(line)
    except OSError:
        pass
