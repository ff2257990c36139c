"""Power is cut at the worst moments of each rule: of the blobs and of the databases' logs, the one
has reached the disk and the other has not. (`test_power_loss` meets them by chance, and others.)"""

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
def shrink_grow_and_write(program: Program, path: str) -> None:
    program.resize(path, BLOCK + 10)
    program.resize(path, SIZE)
    program.write(path, 2 * BLOCK, b"over the hole")


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
def evict_and_write(program: Program, path: str) -> None:
    program.evict(path)
    program.write(path, BLOCK + 10, b"of a block that is not here")


@work
def sync_a_part(program: Program, path: str) -> None:
    program.write(path, BLOCK, b"synced")
    program.sync(path)
    program.write(path, BLOCK, b"not so")
    program.write(path, SIZE, b"appended")


@work
def sync_a_new_one(program: Program, path: str) -> None:
    program.make(f"{path}+")
    program.write(f"{path}+", 0, b"new")
    program.sync(f"{path}+")


BLOBS, LOGS = "the blobs are written back", "the logs are"


def clean_files(dice: random.Random) -> Found:
    names = [f"{half}/{one.__name__}" for half in (BLOBS, LOGS) for one in WORKS]
    return {BLOBS: None, LOGS: None} | {name: dice.randbytes(SIZE) for name in names}


def record(recording: Recording) -> list[tuple[str, int]]:
    """The worst moments."""
    dice, moments = random.Random(1), list[tuple[str, int]]()
    with Life(recording, dice, clean_files(dice), *NOTHING_BY_ITSELF) as life:
        program = life.program
        for path in program.files():
            program.read(path, 0, SIZE)
        program.make("a reason for a durable point")
        program.settle()
        moments.append(("all is durable", recording.disks.position))
        for one in WORKS:
            path = f"{BLOBS}/{one.__name__}"
            one(program, path)
            moments.append((path, recording.write_back_blobs()))
        for one in WORKS:
            path = f"{LOGS}/{one.__name__}"
            one(program, path)
            program.sync(LOGS)
            moments.append((path, recording.disks.position))
    return moments


def test_the_worst_moments(recording: Recording) -> None:
    moments = record(recording)
    log = recording.disks.log()
    for path, position in moments:
        try:
            examine(recording, log, Cut(position, "none", 1))
        except Exception as error:
            error.add_note(path)
            raise
