"""A program's life in a mount whose disks are recorded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tests.harness.mounting import Mount
from tests.power.history import Found
from tests.power.program import Program
from tests.power.recording import PACES, Recording, tree

STEPS = 250
WATCH_SECONDS = 240.0


def some_files(dice: random.Random) -> Found:
    """What home has before: files of several blocks."""
    names = [f"d/h{number}" if number % 2 else f"h{number}" for number in range(8)]
    return {"d": None} | {name: dice.randbytes(dice.randrange(50_000)) for name in names}


def _fill(root: Path, home: Found) -> Path:
    root.mkdir()
    for path, data in home.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)
    return root


class Life:
    """Mounted from the beginning; ends, with its disks detached, with the block."""

    def __init__(
        self, recording: Recording, dice: random.Random, home: Found, *options: str
    ) -> None:
        self.recording, self.dice = recording, dice
        recording.start(_fill(recording.base / "fill", home))
        self.mount: Mount = recording.mount(*options, watch=WATCH_SECONDS)
        history, disks = recording.history, recording.disks
        self.program = Program(
            self.mount.point, history, lambda: disks.position, dice, recording.write_back
        )
        self.program.found(home)
        recording.begin = disks.position

    def __enter__(self) -> Life:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.recording.end = self.recording.disks.position
        if kind is not None:
            print(self.mount.log_tail(100))
        self.mount.terminate()
        assert not self.mount.watchdog_fired
        self.recording.detach()

    @classmethod
    def random(cls, recording: Recording, dice: random.Random) -> Life:
        return cls(recording, dice, some_files(dice), *dice.choice(PACES))

    def go_on(self, steps: int = STEPS, moments: int = 0) -> Iterator[None]:
        """Stops at some moments."""
        chosen = set(self.dice.sample(range(steps), moments))
        for number in range(steps):
            self.program.step()
            if number in chosen:
                yield

    def check(self) -> None:
        """So far no power was cut for the cache: it has all of it."""
        assert tree(self.mount.point) == self.recording.history.expected
