"""The programs of a soak, each in its own directory of the mount and each sure of what it reads.

`python -m tests.soak.workers KIND DIRECTORY CONTROL SEED` works until there is CONTROL/stop, and
leaves CONTROL/result.json: how often it did what, how long that took, and what went wrong.
"""

from __future__ import annotations

import errno
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.crash.promised import Tree
from tests.crash.writer import Broken, Writer

BOOKS = 120
"""Files of the library, which readers read and nobody writes."""

THINKING = 0.4
"""Seconds between two operations, at most: a remote home has to keep up with all of them, between
its storms, for an hour."""

RESTING = 4.0
"""Seconds between two turns of a program that writes, at most: each is hundreds of operations."""

LATE = 1.0
"""No operation on what is cached may take as many seconds."""


class Clock:
    """How long each kind of operation took."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)
        self._late: list[tuple[float, str, float]] = []

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        took = time.monotonic() - start
        self._times[kind].append(took)
        if took > LATE:
            self._late.append((start, kind, took))

    def result(self) -> dict[str, Any]:
        def row(times: list[float]) -> list[float]:
            ordered = sorted(times)
            at = int(len(ordered) * 0.99)
            return [len(ordered), statistics.median(ordered), ordered[at], ordered[-1]]

        return {"times": {k: row(t) for k, t in self._times.items()}, "late": self._late}


class Scribe(Writer):
    """Files of its own, all of them cached: none of its operations may wait for home."""

    def __init__(self, directory: Path, control: Path, seed: int) -> None:
        super().__init__(directory, control, seed)
        self.compared = self.epoch()  # nothing is killed
        self.clock = Clock()

    def step(
        self, what: str, after: Tree, call: Callable[[], object], *, synced: bool = False
    ) -> bool:
        """A sync is as fast as the disk: not one of those that must be quick."""
        kind = "fsync" if synced else what.split()[0]

        def timed() -> None:
            with self.clock.timed(kind):
                call()

        done = super().step(what, after, timed, synced=synced)
        time.sleep(self.dice.uniform(0, THINKING))
        return done

    def expect(self, path: str, call: Callable[[], bytes], wanted: bytes) -> None:
        with self.clock.timed("read"):
            super().expect(path, call, wanted)

    def evict(self) -> None:
        """What is read here is cached."""

    def fifo(self) -> None:
        """SFTP makes no FIFOs: home could not hold it."""

    def result(self) -> dict[str, object]:
        return super().result() | self.clock.result()


def book(seed: int, number: int) -> bytes:
    """The bytes of one of the library's files."""
    dice = random.Random(f"{seed} {number}")
    return dice.randbytes(dice.randrange(1, 600_000))


class Program:
    """Something that is done again and again. What may fail while home is away says EIO."""

    PAUSE = RESTING

    def __init__(self, directory: Path, control: Path, seed: int) -> None:
        self.directory, self.control, self.seed = directory, control, seed
        self.dice = random.Random(seed)
        self.clock = Clock()
        self.away = 0

    def run(self) -> None:
        while not (self.control / "stop").exists():
            self.turn()
            time.sleep(self.dice.uniform(0, self.PAUSE))

    def turn(self) -> None:
        raise NotImplementedError

    def result(self) -> dict[str, object]:
        return {"away": self.away} | self.clock.result()

    def program(self, *words: str) -> None:
        run = subprocess.run(words, cwd=self.directory, capture_output=True, text=True)
        if run.returncode:
            raise Broken(f"{' '.join(words)}: {run.stdout}{run.stderr}")


class Reader(Program):
    """Reads what home has and the cache evicts now and then."""

    PAUSE = THINKING

    def turn(self) -> None:
        number = self.dice.randrange(BOOKS)
        start = time.monotonic()
        try:
            found = (self.directory / f"book{number}").read_bytes()
        except OSError as error:
            if error.errno != errno.EIO:
                raise Broken(f"book {number}: {error}") from error
            self.away += 1
            return
        if found != book(self.seed, number):
            raise Broken(f"book {number} reads wrong, after {time.monotonic() - start:.3f} s")


class Database(Program):
    """SQLite: a sum over two tables that every transaction keeps."""

    def turn(self) -> None:
        with closing(sqlite3.connect(self.directory / "accounts.db", timeout=60)) as db:
            db.execute("PRAGMA journal_mode=DELETE")
            with db:
                db.execute("CREATE TABLE IF NOT EXISTS moved (amount INTEGER, note BLOB)")
                amount = self.dice.randrange(1000)
                for part in (amount, -amount):
                    note = self.dice.randbytes(self.dice.randrange(2000))
                    db.execute("INSERT INTO moved VALUES (?,?)", (part, note))
                db.execute("DELETE FROM moved WHERE rowid < (SELECT max(rowid) FROM moved) - 399")
            if db.execute("SELECT sum(amount) FROM moved").fetchone() != (0,):
                raise Broken("the accounts don't add up")


class Repository(Program):
    """git: commits of changed files, a check of all objects now and then, packing."""

    def turn(self) -> None:
        if not (self.directory / ".git").exists():
            self.program("git", "init", "-q")
            self.program("git", "config", "user.email", "soak@example.org")
            self.program("git", "config", "user.name", "soak")
        path = self.directory / f"file{self.dice.randrange(20)}"
        path.write_bytes(self.dice.randbytes(5000))
        self.program("git", "add", "-A")
        self.program("git", "commit", "-q", "--allow-empty", "-m", "a turn")
        if self.dice.random() < 0.1:
            self.program("git", "fsck", "--no-progress")
            self.program("git", "repack", "-adq")


class Archive(Program):
    """tar, rsync and rm -r of a small tree, compared."""

    def turn(self) -> None:
        tree = self.directory / "tree"
        for number in range(10):
            (tree / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
            (tree / f"d{number % 3}/{number}").write_bytes(self.dice.randbytes(20_000))
        self.program("tar", "cf", "tree.tar", "tree")
        self.program("rsync", "-a", "--checksum", "--delete", "tree/", "copy/")
        self.program("diff", "-r", "tree", "copy")
        self.program("rm", "-r", "tree")
        self.program("tar", "xf", "tree.tar")
        self.program("diff", "-r", "tree", "copy")


KINDS: dict[str, Callable[[Path, Path, int], Scribe | Program]] = {
    "scribe": Scribe,
    "reader": Reader,
    "database": Database,
    "repository": Repository,
    "archive": Archive,
}


def main() -> None:
    kind, directory, control, seed = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    worker = KINDS[kind](directory, control, int(seed))
    result: dict[str, object] = {}
    try:
        worker.run()
    except Broken as broken:
        result["broken"] = str(broken)
    result |= worker.result()
    (control / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
