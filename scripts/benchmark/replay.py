"""How fast the gateway brings files home, beside the programs that copy trees."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from scripts.benchmark.rows import DATA, KIB, put
from scripts.benchmark.systems import Afmfs
from tests.harness.mounting import REPOSITORY

COPIES = {
    "rsync -a": "rsync -a SOURCE/ TARGET/",
    "cp -a": "cp -a SOURCE/. TARGET/",
    "rsync -a, then sync -f": "rsync -a SOURCE/ TARGET/ && sync -f TARGET",
}
REPLAYS = {"replay, home_sync=none": "none", "replay, home_sync=batch": "batch"}


def make_files(root: Path, count: int) -> None:
    """`count` files of 4 KiB, a hundred to a directory."""
    for number in range(count):
        directory = root / f"d{number // 100}"
        if number % 100 == 0:
            directory.mkdir()
        put(f"{directory}/f{number % 100}", os.O_CREAT | os.O_EXCL, DATA[: 4 * KIB])


def settle() -> None:
    """Nothing of the turn before is still on its way to the disk."""
    os.sync()


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def replay(base: Path, count: int, home_sync: str) -> float:
    """Files a second: from the start of `afmctl flushPending --wait` to its end."""
    system = Afmfs(base, delay=3600)
    system.options = (f"home_sync={home_sync}",)
    system.start()
    try:
        make_files(system.root, count)
        settle()
        afmctl = [sys.executable, "-m", "afmfs.admin.afmctl", str(system.root)]
        seconds = timed([*afmctl, "flushPending", "--wait"])
    finally:
        system.stop()
    home = sum(len(files) for top, _, files in os.walk(system.source) if ".afm" not in top)
    assert home == count, f"{home} of {count} files are at home"
    return count / seconds


def copy(base: Path, source: Path, count: int, command: str) -> float:
    (base / "target").mkdir(parents=True)
    settle()
    words = command.replace("SOURCE", '"$1"').replace("TARGET", '"$2"')
    return count / timed(["sh", "-c", words, "copy", str(source), str(base / "target")])


def measure_replay(
    base: Path, count: int, repetitions: int, *, with_mount: bool
) -> dict[str, list[float]]:
    """Rates in files a second of every way to copy, turn by turn."""
    source = base / "files"
    source.mkdir()
    make_files(source, count)
    rates: dict[str, list[float]] = {}
    turns = (base / f"replay{number}" for number in itertools.count())
    for _ in range(repetitions):
        for name, command in COPIES.items():
            rates.setdefault(name, []).append(copy(next(turns), source, count, command))
        for name, home_sync in REPLAYS.items() if with_mount else ():
            rates.setdefault(name, []).append(replay(next(turns), count, home_sync))
    return rates
