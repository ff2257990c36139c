"""Kill the mount process and the gateway, again and again, under programs that write.

AFMFS_KILLS sets how many kills (8), AFMFS_SEED which.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import REPOSITORY, Mount
from tests.harness.trees import assert_same

KILLS = int(os.environ.get("AFMFS_KILLS", "8"))
WRITERS = 2


@dataclass
class Crew:
    """The writers, each with its directory of the mount and its notes outside."""

    point: Path
    notes: Path
    seed: int
    epoch: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def control(self, number: int) -> Path:
        return self.notes / f"w{number}"

    def start(self) -> None:
        for number in range(WRITERS):
            self.control(number).mkdir(parents=True)
        self.raise_epoch()
        for number in range(WRITERS):
            words = [str(self.point / f"w{number}"), str(self.control(number))]
            words.append(str(self.seed * WRITERS + number))
            command = [sys.executable, "-m", "tests.crash.writer", *words]
            self.processes.append(subprocess.Popen(command, cwd=REPOSITORY))

    def raise_epoch(self) -> None:
        """Said before a kill and after the remount: an error in between may be its doing."""
        self.epoch += 1
        for number in range(WRITERS):
            beside = self.control(number) / "next"
            beside.write_text(str(self.epoch))
            beside.rename(self.control(number) / "epoch")

    def check(self) -> None:
        """None has ended early."""
        for number, process in enumerate(self.processes):
            assert process.poll() is None, f"writer {number}: {self.result(number)}"

    def stop(self) -> dict[str, str | None]:
        """End them; the tree that they were promised."""
        for number in range(WRITERS):
            (self.control(number) / "stop").touch()
        expected: dict[str, str | None] = {}
        for number, process in enumerate(self.processes):
            assert process.wait(120) == 0
            result = self.result(number)
            assert "broken" not in result, f"writer {number}: {result['broken']}{self.log(number)}"
            print(f"writer {number}: {result['operations']} operations")
            print(f"  {result['uncertain']} of them cut off by a kill")
            expected |= {f"w{number}/{path}": hash_ for path, hash_ in result["tree"].items()}
            expected[f"w{number}"] = None
        return expected

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def result(self, number: int) -> dict[str, object]:
        path = self.control(number) / "result.json"
        return json.loads(path.read_text()) if path.exists() else {"broken": "no result"}

    def log(self, number: int) -> str:
        lines = (self.control(number) / "log").read_text().splitlines()[-12:]
        return "\n".join(["", *lines])


def content_of(root: Path) -> dict[str, str | None]:
    """Relative path to the hash of a file's bytes, or None for a directory."""
    found: dict[str, str | None] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not name.startswith(".afm"):
            is_dir = path.is_dir()
            found[name] = None if is_dir else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def fill(home: Path, dice: random.Random) -> None:
    """What the writers find: files of several blocks, none of them cached."""
    for number in range(WRITERS):
        (home / f"w{number}/old").mkdir(parents=True)
        for name in ("a", "b", "old/c", "old/d"):
            content = dice.randbytes(dice.randrange(300_000))
            (home / f"w{number}" / name).write_bytes(content)


def kill_and_mend(mount: Mount, crew: Crew, who: str) -> None:
    if who != "gateway":
        crew.raise_epoch()
    mount.kill9(who)
    if who != "gateway":
        mount.mount("none")
        crew.raise_epoch()


def test_the_writers_themselves(home: Path, tmp_path: Path) -> None:
    """On a plain directory, where nothing is killed, they leave what they say."""
    fill(home, random.Random(1))
    crew = Crew(home, tmp_path / "notes", 1)
    try:
        crew.start()
        time.sleep(1.5)
        crew.check()
        expected = crew.stop()
        assert content_of(home) == expected
    finally:
        crew.end()


@pytest.mark.mounted
def test_whatever_is_killed_nothing_acknowledged_is_lost(
    make_mount: MakeMount, home: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("AFMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 20)
    print(f"again: AFMFS_SEED={seed} AFMFS_KILLS={KILLS}")
    dice = random.Random(seed)
    fill(home, dice)
    options = ("block_size=64K", "async_delay=1", "durable_interval=1")
    mount = make_mount(home, *options, watch=300)
    crew = Crew(mount.point, tmp_path / "notes", seed)
    try:
        crew.start()
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.2, 2.5))  # what is cut off is to be anything
            crew.check()
            kill_and_mend(mount, crew, dice.choice(["mount", "gateway", "both"]))
        time.sleep(0.5)
        crew.check()
        expected = crew.stop()
    finally:
        crew.end()
    mount.flush()
    assert content_of(mount.point) == expected
    assert content_of(home) == expected
    assert_same(mount.point, home)
    assert mount.status()["state"] == "Active"
