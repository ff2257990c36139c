"""scripts/bench resync [N]: what a resync of N cached inodes costs those who work beside it.

A home of N empty files, all of them known to the cache; then a resync of all of it. Measured are
the latency of a small file made, written and closed, without it and while it runs, how long
`.afm/state` takes to read, and the memory of both processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

PER_DIRECTORY = 1000


@dataclass
class Seen:
    """Samples of one phase; seconds, and MiB."""

    operation: list[float] = field(default_factory=list)
    state: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)


class Fileset:
    def __init__(self, base: Path) -> None:
        self.home, self.point, self.cache = base / "home", base / "mnt", base / "cache"
        self.numbers = iter(range(1 << 40))

    def plant(self, count: int) -> None:
        self.point.mkdir()
        for number in range(count):
            directory = self.home / f"d{number // PER_DIRECTORY}"
            if number % PER_DIRECTORY == 0:
                directory.mkdir(parents=True)
            os.close(os.open(directory / f"f{number}", os.O_CREAT | os.O_WRONLY, 0o644))

    @contextmanager
    def mounted(self) -> Iterator[None]:
        options = f"cache={self.cache},async_delay=3600"  # only the resync works at home
        words = [
            sys.executable,
            "-m",
            "mount",
            str(self.home),
            str(self.point),
            "-f",
            "-o",
            options,
        ]
        with subprocess.Popen(words) as process:
            try:
                while not os.path.ismount(self.point):
                    assert process.poll() is None, "the mount failed"
                    time.sleep(0.05)
                yield
            finally:
                subprocess.run(["umount", str(self.point)], check=False)
                process.wait(30)

    def know_all(self) -> int:
        """Read every directory; how many files there are."""
        return sum(len(names) for _, _, names in os.walk(self.point))

    def control(self, line: str) -> None:
        fd = os.open(self.point / ".afm/control", os.O_WRONLY)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.point / ".afm/status.json").read_bytes())
        return found

    def sample(self, seen: Seen) -> None:
        path = self.point / f"new{next(self.numbers)}"
        start = time.perf_counter()
        path.write_bytes(b"x" * 100)
        middle = time.perf_counter()
        (self.point / ".afm/state").read_bytes()
        seen.operation.append(middle - start)
        seen.state.append(time.perf_counter() - middle)

    def weigh(self, seen: Seen) -> None:
        for name, words in (("mount", "-m mount"), ("gateway", "afmfs.gateway.process")):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    pages = int((process / "statm").read_text().split()[1])
                except OSError:
                    continue
                if words in line and str(self.cache) in line:
                    seen.memory.setdefault(name, []).append(
                        pages * os.sysconf("SC_PAGE_SIZE") / 2**20
                    )


def run(fileset: Fileset, seconds: float) -> tuple[Seen, Seen, Seen]:
    """Before, while the plan is written, and while it is executed."""
    before, planning, pushing = Seen(), Seen(), Seen()
    fileset.weigh(before)
    fileset.control("resync")  # from Active only: nothing may be pending before
    end = time.monotonic() + seconds
    while (job := fileset.status()["job"]) is not None and time.monotonic() < end:
        assert isinstance(job, dict)
        seen = pushing if job["phase"] == "pushing" else planning
        for _ in range(20):
            fileset.sample(seen)
        fileset.weigh(seen)
    fileset.control("stop")
    for _ in range(500):
        fileset.sample(before)
    return before, planning, pushing


def show(name: str, seen: Seen, base: float) -> None:
    if not seen.operation:
        print(f"{name:10} no sample")
        return
    memory = ", ".join(f"{key} {max(values):.0f} MiB" for key, values in seen.memory.items())
    middle = median(seen.operation)
    print(
        f"{name:10} {len(seen.operation):6} samples: {middle * 1e6:6.0f} us ({middle / base:.2f}),"
        f" .afm/state {median(seen.state) * 1e3:.1f} ms, at most {max(seen.state) * 1e3:.1f};"
        f" {memory}"
    )


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench resync", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60, help="of the resync, at most")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a directory on the disk")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as place:
        fileset = Fileset(Path(place))
        fileset.plant(options.count)
        with fileset.mounted():
            print(f"{fileset.know_all()} files are known")
            before, planning, pushing = run(fileset, options.seconds)
        base = median(before.operation)
        for name, seen in (("alone", before), ("planning", planning), ("pushing", pushing)):
            show(name, seen, base)


if __name__ == "__main__":
    main(sys.argv[1:])
