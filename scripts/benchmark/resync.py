"""scripts/bench resync [N]: what a resync of N cached inodes costs those who work beside it.

A home of N empty files, all of them known to the cache; then a resync of all of it. Measured are
the latency of a small file made, written and closed, without it and while it runs, how long
`.afm/state` takes to read, and the memory of both processes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scripts.benchmark.fileset import Fileset, Seen

PER_DIRECTORY = 1000


def plant(home: Path, count: int) -> None:
    """Empty files, a thousand to a directory."""
    for number in range(count):
        directory = home / f"d{number // PER_DIRECTORY}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        os.close(os.open(directory / f"f{number}", os.O_CREAT | os.O_WRONLY, 0o644))


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
        plant(fileset.home, options.count)
        fileset.point.mkdir()
        with fileset.mounted():
            print(f"{fileset.know_all()} files are known")
            before, planning, pushing = run(fileset, options.seconds)
        base = median(before.operation)
        for name, seen in (("alone", before), ("planning", planning), ("pushing", pushing)):
            show(name, seen, base)


if __name__ == "__main__":
    main(sys.argv[1:])
