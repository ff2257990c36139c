"""Many programs on one mount for a long time, while home goes away at random."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.harness.mounting import REPOSITORY, Mount
from tests.harness.sshd import Sshd, is_mounted
from tests.harness.trees import assert_same
from tests.soak.gauges import Gauge, growth, is_flat, look
from tests.soak.weather import Weather
from tests.soak.workers import BOOKS, book

ENDING = 120.0
"""Seconds in which a worker ends its turn, home being there."""

FLUSHING = 900.0
"""Seconds in which all that is pending comes home."""

EVENTS = 100_000
"""More than are kept."""

OPTIONS = ("durable_interval=1", "async_delay=1")


def crew(workers: int) -> list[str]:
    """What each of them is."""
    readers = max(1, workers // 5)
    programs = ["database", "repository", "archive"][: workers - readers - 1]
    return ["reader"] * readers + programs + ["scribe"] * (workers - readers - len(programs))


@dataclass
class Report:
    """What was seen."""

    minutes: float = 0.0
    storms: dict[str, int] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    gauges: dict[str, list[Gauge]] = field(default_factory=dict)
    slowest_state: float = 0.0
    faults: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"{self.minutes:.1f} minutes; home went away: {self.storms}"
        for name, result in self.results.items():
            for kind, (count, median, p99, most) in result.get("times", {}).items():
                yield (
                    f"{name:12} {kind:9} {count:8.0f} times, ms: "
                    f"median {median * 1e3:.2f}, 99 % {p99 * 1e3:.1f}, most {most * 1e3:.0f}"
                )
        for name, gauges in self.gauges.items():
            for kind, (middle, last) in growth(gauges).items():
                yield f"{name:12} {kind:11} {middle:14,.0f} -> {last:14,.0f}"
        yield f"reading .afm/state took {self.slowest_state * 1e3:.0f} ms at most"
        yield from (f"WRONG: {fault}" for fault in self.faults)


class Soak:
    def __init__(self, base: Path, seed: int, workers: int) -> None:
        self.base, self.seed = base, seed
        self.names = [f"{kind}{number}" for number, kind in enumerate(crew(workers))]
        self.served, self.native = base / "served", base / "native"
        self.report = Report()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, seconds: float, calm: float, storm: float) -> Report:
        """Everything, from an empty directory to the comparison."""
        self._fill()
        with Sshd(self.base / "sshd") as sshd:
            sshfs = sshd.mount(self.served, self.base / "remote", "reconnect")
            mount = Mount(self.base / "remote", self.base / "fs", *OPTIONS, watch=seconds + 3600)
            mount.mount()
            for directory in (*self.names, "library"):
                os.listdir(mount.point / directory)  # what is not known here needs home
            weather = Weather(sshd, sshfs, self.seed, calm, storm)
            try:
                with self._working(mount):
                    weather.start()
                    self._watch(mount, seconds)
                    weather.clear_up()
                self._finish(mount)
            finally:
                weather.stop()
                mount.terminate()
                assert not is_mounted(mount.point)
        self.report.storms = weather.storms
        return self.report

    def _fill(self) -> None:
        for directory in (*self.names, "library"):
            (self.served / directory).mkdir(parents=True)
        (self.native / "control").mkdir(parents=True)
        for number in range(BOOKS):
            (self.served / f"library/book{number}").write_bytes(book(self.seed, number))

    # --- the workers

    @contextmanager
    def _working(self, mount: Mount) -> Iterator[None]:
        """One of them works on the disk itself: what it meets is the machine's doing."""
        try:
            for number, name in enumerate(self.names):
                kind = name.rstrip("0123456789")
                place = "library" if kind == "reader" else name
                self._start(name, kind, mount.point / place, number)
            self._start("native", "scribe", self.native / "control", len(self.names))
            yield
            self._stop()
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def _start(self, name: str, kind: str, directory: Path, number: int) -> None:
        control = self.base / "notes" / name
        control.mkdir(parents=True)
        (control / "epoch").write_text("1")
        seed = self.seed if kind == "reader" else self.seed * 1000 + number
        words = [kind, str(directory), str(control), str(seed)]
        command = [sys.executable, "-m", "tests.soak.workers", *words]
        self._processes[name] = subprocess.Popen(command, cwd=REPOSITORY)

    def _stop(self) -> None:
        for name in self._processes:
            (self.base / "notes" / name / "stop").touch()
        for name, process in self._processes.items():
            process.wait(ENDING)
            self._take_result(name)

    def _take_result(self, name: str) -> None:
        path = self.base / "notes" / name / "result.json"
        result = json.loads(path.read_text()) if path.exists() else {"broken": "no result"}
        self.report.results[name] = result
        if "broken" in result:
            self.report.faults.append(f"{name}: {result['broken']}")
        if name.startswith("scribe"):
            for _, kind, took in result.get("late", []):
                if kind != "fsync":
                    self.report.faults.append(f"{name}: {kind} took {took:.1f} s")

    # --- looking on

    def _watch(self, mount: Mount, seconds: float) -> None:
        begin = time.monotonic()
        gateway, *_ = mount.gateways()
        assert mount.process is not None
        watched = {"mount": psutil.Process(mount.process.pid), "gateway": gateway}
        dice, every = random.Random(self.seed), min(5.0, seconds / 30)
        while (now := time.monotonic() - begin) < seconds:
            for name, process in watched.items():
                if gauge := look(process, now):
                    self.report.gauges.setdefault(name, []).append(gauge)
            self.report.slowest_state = max(self.report.slowest_state, _time_of_state(mount))
            if dice.random() < 0.2:
                _evict_some(mount, dice)
            self._assert_all_work()
            time.sleep(every)
        self.report.minutes = (time.monotonic() - begin) / 60
        if watched["gateway"] not in mount.gateways():
            self.report.faults.append("the gateway has died")
        for name, gauges in self.report.gauges.items():
            for kind, (middle, last) in growth(gauges).items():
                if not is_flat(kind, middle, last):
                    self.report.faults.append(f"{name}: {kind} {middle:,.0f} -> {last:,.0f}")

    def _assert_all_work(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                self._take_result(name)
                raise AssertionError(f"{name} has ended: {self.report.faults}")

    # --- the end

    def _finish(self, mount: Mount) -> None:
        """Home holds what the mount shows, for now and after a clean stop."""
        mount.await_state("Active", "Dirty", "NeedsResync")  # home is mounted: until that is seen
        mount.flush(timeout=FLUSHING)
        state = mount.status()["state"]
        if state != "Active":
            self.report.faults.append(f"state {state} at the end\n{mount.events(30)}")
        for event in mount.events(EVENTS).splitlines():
            if "afmNeedsResync" in event:  # nobody else has touched home
                self.report.faults.append(event)
        assert_same(mount.point, self.served, ignore=["mtime"])  # sftp knows seconds only
        mount.unmount()


def _time_of_state(mount: Mount) -> float:
    start = time.monotonic()
    (mount.point / ".afm/state").read_bytes()
    return time.monotonic() - start


def _evict_some(mount: Mount, dice: random.Random) -> None:
    """Whether it is refused, because home is away, does not matter."""
    some = [f"library/book{number}" for number in dice.sample(range(BOOKS), 20)]
    mount.afmctl("evict", *(word for path in some for word in ("--file", path)))
