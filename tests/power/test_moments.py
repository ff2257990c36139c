"""Power is cut at the worst moment of each rule: the kernel has written back what the rule is
about, and nothing else. (`test_power_loss` meets these moments by chance, and others.)"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.harness.disks import needs_root
from tests.power.aftermath import examine
from tests.power.history import Found
from tests.power.life import Life
from tests.power.program import BLOCK, Program
from tests.power.recording import Cut, Recording

pytestmark = [pytest.mark.mounted, needs_root]

Work = Callable[[Program, str], None]

SIZE = 6 * BLOCK

NOTHING_BY_ITSELF = ("async_delay=600", "durable_interval=600")

WORKS: list[Work] = []


def work(function: Work) -> Work:
    """On a file that is cached, whole, durable, and the same at home."""
    WORKS.append(function)
    return function


@work
def overwrite(program: Program, path: str) -> None:
    """The second write needs no flush of its own, and what of it is lost has no entry."""
    program.write(path, 10, b"first")
    program.write(path, 3 * BLOCK, b"second")


@work
def overwrite_what_has_grown(program: Program, path: str) -> None:
    program.resize(path, SIZE + 3 * BLOCK)
    program.write(path, SIZE + 10, b"first")
    program.write(path, SIZE + 2 * BLOCK, b"second")


@work
def shrink(program: Program, path: str) -> None:
    program.resize(path, BLOCK + 10)


@work
def shrink_and_grow(program: Program, path: str) -> None:
    program.resize(path, BLOCK + 10)
    program.resize(path, SIZE)


@work
def shrink_and_write(program: Program, path: str) -> None:
    program.resize(path, BLOCK + 10)
    program.write(path, 2 * BLOCK, b"behind what was cut off")


@work
def empty(program: Program, path: str) -> None:
    program.resize(path, 0)


@work
def empty_and_write(program: Program, path: str) -> None:
    program.resize(path, 0)
    program.write(path, 100, b"again")


@work
def remove(program: Program, path: str) -> None:
    program.remove(path)


@work
def replace(program: Program, path: str) -> None:
    program.make(f"{path}~")
    program.write(f"{path}~", 0, b"another")
    program.rename(f"{path}~", path)


@work
def evict(program: Program, path: str) -> None:
    program.evict(path)


@work
def evict_and_fetch(program: Program, path: str) -> None:
    program.evict(path)
    program.read(path, 0, SIZE)


@work
def sync_a_part(program: Program, path: str) -> None:
    program.write(path, BLOCK, b"synced")
    program.sync(path)
    program.write(path, BLOCK, b"not so")
    program.write(path, SIZE, b"appended")


def clean_files(dice: random.Random) -> Found:
    return {one.__name__: dice.randbytes(SIZE) for one in WORKS}


def test_the_worst_moments(recording: Recording) -> None:
    dice = random.Random(1)
    moments: list[tuple[str, int]] = []
    with Life(recording, dice, clean_files(dice), *NOTHING_BY_ITSELF) as life:
        program = life.program
        for one in WORKS:
            program.read(one.__name__, 0, SIZE)
        program.make("a reason for a durable point")
        program.settle()
        for one in WORKS:
            one(program, one.__name__)
            moments.append((one.__name__, recording.write_back_blobs()))
    log = recording.disks.log()
    for name, position in moments:
        for manner in ("none", "all"):
            try:
                examine(recording, log, Cut(position, manner, 1))
            except Exception as error:
                error.add_note(name)
                raise
