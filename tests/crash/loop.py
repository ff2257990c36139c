"""Kill the mount process and the gateway, again and again, under programs that write.

`python -m tests.crash.loop N [--seed S]` (scripts/crashloop). Each kill is a random one of the
mount process, the gateway, or both at once; at a random moment, or at a named crash point. After
each the cache is mounted again, checked, and every writer compares its tree with what it was
promised; now and then, and at the end, everything is flushed and home compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.points.board import Board
from tests.crash.points.names import AT_START, OF_GATEWAY, OF_MOUNT, ONLY_AT_START, POINTS
from tests.crash.points.seams import environment
from tests.crash.promised import digest, observe, shape
from tests.crash.tour import tour
from tests.harness.mounting import REPOSITORY, Mount, MountFailed, wait_until
from tests.harness.trees import assert_same

WRITERS = 2

OPTIONS = (
    "block_size=64K", "async_delay=0", "durable_interval=0.5", "auto_resync=off",
    "home_timeout=20",
)  # fmt: skip

REACHED_S = 1.5
"""How long a named point may take to be reached; then the kill comes at once."""

WHOLE = 40
"""Kills between two comparisons with home."""

Promised = dict[str, list[object]]
"""Path to the digest of what is promised to be there."""


class Lost(AssertionError):
    """A promise was broken; says how to see it again."""


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
        self.await_compared()

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
            if process.poll() is not None:
                raise Lost(f"writer {number}: {self.result(number)['broken']}{self.log(number)}")

    def _all_say(self, what: str, holds: Callable[[Path], bool]) -> None:
        def done() -> bool:
            self.check()
            return all(holds(self.control(number)) for number in range(WRITERS))

        wait_until(done, 90, what, every=0.01)

    def await_compared(self) -> None:
        """Until each has seen that the tree after a kill is the promised one."""
        now = str(self.epoch)
        self._all_say(
            "the writers compare",
            lambda place: (place / "seen").exists() and (place / "seen").read_text() == now,
        )

    def rest(self) -> None:
        for number in range(WRITERS):
            (self.control(number) / "rest").touch()
        self._all_say("the writers rest", lambda place: (place / "resting").exists())

    def go_on(self) -> None:
        for number in range(WRITERS):
            (self.control(number) / "rest").unlink()

    def stop(self) -> Promised:
        """End them; the tree that they were promised."""
        for number in range(WRITERS):
            (self.control(number) / "stop").touch()
        expected: Promised = {}
        for number, process in enumerate(self.processes):
            process.wait(120)
            result = self.result(number)
            if "broken" in result:
                raise Lost(f"writer {number}: {result['broken']}{self.log(number)}")
            print(f"writer {number}: {result['operations']} operations,", end=" ")
            print(f"{result['uncertain']} of them cut off by a kill")
            for path, (*what, first) in result["tree"].items():  # type: ignore[attr-defined]
                expected[f"w{number}/{path}"] = [*what, f"w{number}/{first}"]
        return expected

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def result(self, number: int) -> dict[str, object]:
        path = self.control(number) / "result.json"
        return json.loads(path.read_text()) if path.exists() else {"broken": "no result"}

    def log_lines(self, number: int) -> list[str]:
        return (self.control(number) / "log").read_text().splitlines()

    def log(self, number: int) -> str:
        return "\n".join(["", *self.log_lines(number)[-12:]])


def content_of(root: Path) -> Promised:
    """What is below the writers' directories."""
    found = shape(observe(root)).items()
    return {path: digest(what) for path, what in found if path.startswith("w") and "/" in path}


def fill(home: Path, dice: random.Random) -> None:
    """What the writers find: files of several blocks, none of them cached."""
    for number in range(WRITERS):
        top = home / f"w{number}"
        (top / "old").mkdir(parents=True)
        for name in ("a", "b", "old/c", "old/d", "old/e"):
            (top / name).write_bytes(dice.randbytes(dice.randrange(300_000)))
        with (top / "holes").open("wb") as file:
            file.write(b"data" * 5000)
            file.truncate(400_000)
        os.link(top / "a", top / "old/a too")


class Loop:
    """A mounted cache, its writers, and what kills them."""

    def __init__(self, mount: Mount, board: Board, notes: Path, seed: int) -> None:
        self.mount, self.board = mount, board
        self.dice = random.Random(seed)
        self.crew = Crew(mount.point, notes, seed)
        self.kinds: Counter[str] = Counter()
        self.resyncs = 0

    def run(self, kills: int, tell: Callable[[int], None] = lambda done: None) -> None:
        """So many kills; raises if a promise was broken."""
        try:
            self.crew.start()
            for number in range(1, kills + 1):
                if self.dice.random() < 0.06:
                    self.start_resync()
                self.kill()
                tell(number)
                if number % WHOLE == 0:
                    self.crew.rest()
                    self.compare_home()
                    self.crew.go_on()
            self.crew.check()
            expected = self.crew.stop()
        finally:
            self.crew.end()
        self.compare_home()
        tour(self.mount)
        wait_until(lambda: not self.never_reached(), 30, f"reached: {self.never_reached()}")
        self.compare_home()
        for root in (self.mount.point, self.mount.home):
            found = content_of(root)
            wrong = sorted(p for p in {*found, *expected} if found.get(p) != expected.get(p))
            if wrong:
                raise Lost(f"{root}: {[(p, found.get(p), expected.get(p)) for p in wrong[:5]]}")

    def never_reached(self) -> list[str]:
        """Crash points that no process has come by. Only root may give files away."""
        reached, root = self.board.reached(), os.geteuid() == 0
        return [name for name in POINTS if not reached[name] and (root or "chown" not in name)]

    # --- one kill

    def kill(self) -> None:
        who = self.dice.choice(["mount", "gateway", "both"])
        named = self.dice.random() < 0.6
        before = self.board.pid("gateway")
        if who != "gateway":
            self.crew.raise_epoch()
        time.sleep(self.dice.choice((0.0, 0.1, 0.4)) * self.dice.random())  # at any moment
        how = "at a moment"
        if named and self.kill_at_point(who):
            how = "at a point"
        else:
            self.mount.kill9(who)
        self.kinds[f"{who} {how}"] += 1
        if self.mount.process is None:
            self.mount_again()
            self.crew.raise_epoch()
            self.crew.await_compared()
        else:
            wait_until(lambda: self.board.pid("gateway") != before, 20, "another gateway")
            self.crew.check()

    def mount_again(self) -> None:
        """Now and then with a kill in the middle of the recovery, before it serves."""
        before = self.board.deaths().total()
        if self.dice.random() < 0.2:
            self.board.arm(self.one_of_few(AT_START), self.dice.choice((1, 1, 2)), both=False)
            with suppress(MountFailed):
                self.mount.mount("none")
            self.board.disarm()
            if self.board.deaths().total() == before:
                assert self.mount.process and self.mount.process.poll() is None
                return
            self.kinds["mount at its start"] += 1
            self.mount.kill9("mount")  # its remains are cleared away, and the cache is checked
        self.mount.mount("none")

    def one_of_few(self, points: list[str]) -> str:
        """One of the points that have killed least."""
        deaths = self.board.deaths()
        few = sorted(points, key=lambda name: (deaths[name], self.dice.random()))
        return self.dice.choice(few[: max(8, len(few) // 4)])

    def kill_at_point(self, who: str) -> bool:
        """Whether it was reached."""
        points = {"mount": OF_MOUNT, "gateway": OF_GATEWAY, "both": POINTS}[who]
        points = [name for name in points if name not in ONLY_AT_START]
        before = self.board.deaths().total()
        nth = self.dice.choice((1, 1, 2, 7))
        self.board.arm(self.one_of_few(points), nth, both=who == "both")
        end = time.monotonic() + REACHED_S
        while self.board.deaths().total() == before:
            if time.monotonic() > end:
                self.board.disarm()
                if self.board.deaths().total() == before:
                    return False
            time.sleep(0.005)
        if who != "gateway":
            self.mount.kill9(who)  # it is dead: its remains are cleared away
        return True

    # --- all of it

    def start_resync(self) -> None:
        """With the writers at rest while it is asked for, for it is refused while Dirty."""
        self.crew.rest()
        self.flush()
        run = self.mount.afmctl("resync", "--keep-uncached", "--yes")
        if run.returncode:
            raise Lost(f"resync: {run.stderr}")
        self.resyncs += 1
        self.crew.go_on()

    def flush(self) -> None:
        self.mount.flush(90)
        self.mount.await_state("Active", "Inactive", seconds=60)

    def compare_home(self) -> None:
        """Nothing but the cache writes there: it is the same, and none of it was put aside."""
        self.flush()
        assert_same(self.mount.point, self.mount.home)
        marker = self.mount.home / ".afm"
        aside = [p for p in marker.rglob("*") if p.parent.name in ("unlinked", ".afmtrash")]
        if aside:
            raise Lost(f"left at home: {aside}")


def play(
    base: Path, kills: int, seed: int, tell: Callable[[int], None] = lambda done: None
) -> Loop:
    """The whole of it below `base`."""
    home = base / "home"
    home.mkdir(parents=True)
    fill(home, random.Random(seed))
    board = Board.create(base / "board")
    mount = Mount(home, base / "fs", *OPTIONS, watch=3600)
    mount.environment = environment(base / "board")
    loop = Loop(mount, board, base / "notes", seed)
    try:
        mount.mount()
        loop.run(kills, tell)
        mount.unmount()
    except BaseException:
        print(mount.log_tail(120))
        raise
    finally:
        mount.terminate()
    return loop


def main() -> None:
    words = argparse.ArgumentParser(prog="scripts/crashloop", description=__doc__)
    words.add_argument("kills", type=int, metavar="N")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=Path, help="work here, and leave all as it is in the end")
    args = words.parse_args()
    seed = args.seed or random.SystemRandom().randrange(1, 1 << 20)
    print(f"again: scripts/crashloop {args.kills} --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="crashloop-") as place:
        base = (args.keep or Path(place)).resolve()
        began = time.monotonic()

        def tell(done: int) -> None:
            if done % 20 == 0:
                print(f"{done} kills, {time.monotonic() - began:.0f} s", flush=True)

        loop = play(base, args.kills, seed, tell)
        summary(loop, args.kills, time.monotonic() - began)


def summary(loop: Loop, kills: int, seconds: float) -> None:
    reached, deaths = loop.board.reached(), loop.board.deaths()
    print(f"{kills} kills in {seconds:.0f} s, {loop.resyncs} resyncs, nothing lost")
    for what, number in sorted(loop.kinds.items()):
        print(f"{number:8} {what}")
    print(f"{'reached':>12} {'killed':>6}")
    for name in POINTS:
        print(f"{reached[name]:12} {deaths[name]:6} {name}")
    spared = [name for name in POINTS if not deaths[name]]
    print(f"{len(POINTS)} crash points; reached, but not killed at: {', '.join(spared) or 'none'}")


if __name__ == "__main__":
    try:
        main()
    except (Lost, MountFailed, AssertionError) as lost:
        print(lost)
        sys.exit(1)
