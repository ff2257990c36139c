"""scripts/bench: turns of every system, interleaved; medians; ratios; a table in Markdown."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scripts.benchmark.replay import measure_replay
from scripts.benchmark.rows import ROWS, Work, measure, spread
from scripts.benchmark.systems import SYSTEMS, Example, Missing, fetch_example

REPLAY = "replay"

Rates = dict[str, dict[str, list[float]]]
"""system: row: one rate for each repetition."""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Compare the mount with other file systems, in one run on one disk.",
        epilog="rows: " + "; ".join([*ROWS, REPLAY]),
    )
    every = ",".join(SYSTEMS)
    parser.add_argument("--systems", default=every, help=f"which take part (default: {every})")
    parser.add_argument("--rows", help="parts of row names, by commas (default: all)")
    parser.add_argument("--count", type=int, default=1000, help="small files (default: 1000)")
    parser.add_argument("--megabytes", type=int, default=64, help="of streamed files")
    parser.add_argument("--repetitions", type=int, default=5, help="medians of so many turns")
    parser.add_argument(
        "--delay", type=int, default=15, help="seconds that afmfs and rclone put work off"
    )
    parser.add_argument("--replay-files", type=int, default=10_000)
    parser.add_argument("--options", default="", help="further mount options for afmfs")
    parser.add_argument("--example", type=Path, help="passthroughfs.py, if there already")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a directory on the disk")
    parser.add_argument("--json", type=Path, help="write every single rate there")
    options = parser.parse_args(words)
    options.systems = options.systems.split(",")
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"no such system: {', '.join(sorted(unknown))}; there are {every}")
    parts = (options.rows or "").split(",")
    options.rows = [row for row in [*ROWS, REPLAY] if any(part in row for part in parts)]
    if not options.rows:
        parser.error("no row has such a name")
    return options


def available(options: argparse.Namespace, base: Path) -> list[str]:
    """The systems that can be mounted here; says what the others lack."""
    found = []
    for name in options.systems:
        try:
            if name == Example.name:
                Example.script = options.example or fetch_example(base)
            SYSTEMS[name](base / "check", 0)
            found.append(name)
        except Missing as missing:
            print(f"bench: without {name}: {missing}", file=sys.stderr)
        shutil.rmtree(base / "check", ignore_errors=True)
    return found


def take_turn(
    name: str, base: Path, options: argparse.Namespace, rows: list[str]
) -> dict[str, float]:
    system = SYSTEMS[name](base, options.delay)
    if name == "afmfs" and options.options:
        system.options = tuple(options.options.split(","))
    system.start()
    try:
        work = Work(system.root, options.count, options.megabytes, system.native, {})
        return measure(work, rows)
    finally:
        system.stop()


def run_rows(names: list[str], base: Path, options: argparse.Namespace, rows: list[str]) -> Rates:
    """Turns in another order each time, so that no system always follows the same one."""
    rates: Rates = {name: {} for name in names}
    for repetition in range(options.repetitions):
        shift = repetition % len(names)
        for name in names[shift:] + names[:shift]:
            print(f"bench: {repetition + 1}/{options.repetitions} {name}", file=sys.stderr)
            for row, rate in take_turn(name, base / f"{name}{repetition}", options, rows).items():
                rates[name].setdefault(row, []).append(rate)
    return rates


def shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def table(head: list[str], lines: list[list[str]]) -> str:
    """Markdown, with columns aligned for reading as text."""
    widths = [max(len(line[n]) for line in [head, *lines]) for n in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *rest = (
            f"{c:<{w}}" if n == 0 else f"{c:>{w}}"
            for n, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    ruler = (
        "|" + "|".join("-" * (w + 1) + ("-" if n == 0 else ":") for n, w in enumerate(widths)) + "|"
    )
    return "\n".join([line(head), ruler, *(line(cells) for cells in lines)])


def rows_table(rates: Rates, rows: list[str]) -> str:
    names = list(rates)
    others = [name for name in names if name != "afmfs"] if "afmfs" in names else []
    lines = []
    for row in rows:
        medians = {name: median(rates[name][row]) for name in names if row in rates[name]}
        cells = [shown(medians[name]) if name in medians else "-" for name in names]
        ours = medians.get("afmfs")
        cells += [f"{ours / medians[n]:.2f}" if ours and n in medians else "-" for n in others]
        lines.append([f"{row}, {ROWS[row]}", *cells])
    return table(["", *names, *(f"afmfs / {name}" for name in others)], lines)


def replay_table(rates: dict[str, list[float]]) -> str:
    base = median(rates["rsync -a"])
    lines = [[n, shown(median(r)), f"{median(r) / base:.2f}"] for n, r in rates.items()]
    return table(["4 KiB files brought home", "files/s", "/ rsync -a"], lines)


def machine(directory: Path) -> str:
    words = ["findmnt", "-no", "FSTYPE", "-T", str(directory)]
    fstype = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, {fstype or '?'}"


def main() -> None:
    options = arguments(sys.argv[1:])
    base = Path(tempfile.mkdtemp(prefix="afmfs-bench-", dir=options.dir))
    spread(base)  # removed at the end only: see small_objects
    everything: dict[str, object] = {"machine": machine(base), "count": options.count}
    try:
        print(f"{everything['machine']}; medians of {options.repetitions} interleaved turns; ")
        print(f"{options.count} small files, {options.megabytes} MiB streams\n")
        rows = [row for row in options.rows if row != REPLAY]
        names = available(options, base)
        if rows:
            rates = run_rows(names, base, options, rows)
            everything["rows"] = rates
            print(rows_table(rates, rows), flush=True)
        if REPLAY in options.rows:
            replayed = measure_replay(
                base, options.replay_files, options.repetitions, with_mount="afmfs" in names
            )
            everything["replay"] = replayed
            print(f"\n{replay_table(replayed)}")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
