"""scripts/bench scale [N]: what a fileset of N inodes costs, with as many entries in its queue.

A tenth of it first, to see what grows. Measured are the time that a mount takes until it answers
(also after a kill of both processes), that of a small file made, written and closed, and of reading
`.afm/state`, at rest and while the queue is replayed; how fast that goes; the memory of both
processes; and the time that umount takes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scripts.benchmark.fileset import Fileset, Seen
from scripts.benchmark.planted import plant

SAMPLES = 200


class Figures:
    """Of one size, by name, as they are shown."""

    def __init__(self, fileset: Fileset, seconds: float) -> None:
        self.shown: dict[str, str] = {}
        self._fileset, self._seconds = fileset, seconds
        self._started = time.perf_counter()

    def measure(self) -> None:
        with self._from_now("mount, s").mounted() as process:
            self._answers()
            self._at_rest()
            self._replay()
            process.kill()
            process.wait()
        with self._from_now("mount after kill -9, s").mounted():
            self._answers()
            self._from_now("umount, s")
        self._note_time()

    def _from_now(self, what: str) -> Fileset:
        self._what, self._started = what, time.perf_counter()
        return self._fileset

    def _note_time(self) -> None:
        self.shown[self._what] = f"{time.perf_counter() - self._started:.2f}"

    def _answers(self) -> None:
        (self._fileset.point / ".afm/state").read_bytes()
        self._note_time()

    def _at_rest(self) -> None:
        seen = Seen()
        for _ in range(SAMPLES):
            self._fileset.sample(seen)
        self._fileset.weigh(seen)
        self._note("at rest", seen)

    def _replay(self) -> None:
        """For some seconds."""
        seen, before = Seen(), self._count("num_exec")
        start = time.perf_counter()
        self._fileset.control("flushPending")
        while time.perf_counter() - start < self._seconds and self._count("queue_length"):
            self._fileset.sample(seen)
            self._fileset.weigh(seen)
            time.sleep(0.1)
        done, seconds = self._count("num_exec") - before, time.perf_counter() - start
        self.shown["replay, entries/s"] = f"{done / seconds:,.0f}"
        self._note("while replaying", seen)

    def _count(self, key: str) -> int:
        found = self._fileset.status()[key]
        assert isinstance(found, int)
        return found

    def _note(self, when: str, seen: Seen) -> None:
        for what, times in (("file made", seen.operation), (".afm/state", seen.state)):
            self.shown[f"{what} {when}, ms"] = (
                f"{median(times) * 1e3:.1f} (at most {max(times) * 1e3:.0f})"
            )
        for name, sizes in seen.memory.items():
            self.shown[f"{name} process {when}, MiB"] = f"{max(sizes):.0f}"


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--seconds", type=float, default=30, help="of replay, for each size")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a directory on the disk")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as place:
        fileset = Fileset(Path(place))
        fileset.home.mkdir()
        fileset.point.mkdir()
        with fileset.mounted():
            pass
        columns, there = {}, 0
        for count in (options.count // 10, options.count):
            plant(fileset.cache, count - there)
            there = count
            figures = Figures(fileset, options.seconds)
            figures.measure()
            columns[f"{count:,}"] = figures.shown
        print("| | " + " | ".join(columns) + " |")
        print("|---|" + "--:|" * len(columns))
        for what in figures.shown:
            print(
                f"| {what} | " + " | ".join(one.get(what, "-") for one in columns.values()) + " |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
