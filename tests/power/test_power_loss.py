"""Power is cut: under the cache, under home, under both, at any moment, and again in the recovery.

A program works in a real mount whose cache and home lie on recorded disks (`recorder`, `disks`).
For each of some moments the disks are made as they may be after a cut (`cuts`), mounted (ext4
replays its journal), the cache is opened on them, and looked at: it serves, what was fsynced is
there, every byte is one that was written (`history`), and after a flush home is equal, with nothing
found to be wrong there.

What this can't show: a disk that lies about its flushes or damages what it did not write, another
file system than ext4 in its default mode (data=ordered), and a server that loses what it has
acknowledged while the mount of it lives on (as NFS, which would say so by its verifier): home's
server restarts here as another mount at the same path.

AFMFS_ROUNDS sets how many lives of the program each test records (1), AFMFS_SEED which.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.harness.disks import needs_root
from tests.power.aftermath import LOST, check_home, engine_on, examine, examine_mounted, seen
from tests.power.cuts import MANNERS, Log
from tests.power.life import Life
from tests.power.recording import FIRST_CACHE, FIRST_HOME, Cut, Recording, tree

ROUNDS = int(os.environ.get("AFMFS_ROUNDS", "1"))
SEED = int(os.environ.get("AFMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 20)

CUTS = 8
MOST_CUTS = 5 * CUTS
"""Where none of the first has cost anything: one in twenty lives was so."""

pytestmark = [
    pytest.mark.mounted,
    needs_root,
    pytest.mark.parametrize("number", range(ROUNDS)),
]


@pytest.fixture
def dice(number: int) -> random.Random:
    print(f"again: AFMFS_SEED={SEED} AFMFS_ROUNDS={ROUNDS}")
    return random.Random(SEED * 1000 + number)


def cut_at(recording: Recording, log: Log, dice: random.Random) -> Cut:
    """Both lose power at a moment of the program's life: any, or any between two flushes."""
    begin, end = recording.begin, recording.end
    if dice.random() < 0.7:
        disk = dice.choice((FIRST_CACHE, FIRST_CACHE, FIRST_HOME))
        flushes = [flush for flush in log.flushes(disk) if begin <= flush < end]
        number = dice.randrange(len(flushes))
        begin, end = flushes[number], [*flushes, end][number + 1]
    position = dice.randrange(begin, end) + 1
    return Cut(position, dice.choice(MANNERS), dice.randrange(1 << 30))


def test_under_both(
    recording: Recording, dice: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    with Life.random(recording, dice) as life:
        assert not list(life.go_on())
        life.check()
    log = recording.disks.log()
    lost: list[int] = []
    while len(lost) < CUTS or (not any(lost) and len(lost) < MOST_CUTS):
        lost.append(examine(recording, log, cut_at(recording, log, dice)))
    print(f"steps lost: {lost}")
    assert caplog.text.count(LOST) == len(lost)  # each time the cache has noticed
    assert sum(lost) > 0  # what no fsync and no durable point follows, is
    examine_mounted(recording, log, cut_at(recording, log, dice))


def test_under_the_cache(
    recording: Recording, dice: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    """Home goes on: it knows more of the queue than the cache may."""
    with Life.random(recording, dice) as life:
        for _ in life.go_on(moments=CUTS):
            recording.note_home(life.mount)
        life.check()
    log = recording.disks.log()
    for position, until in recording.pauses:
        manner = dice.choice(MANNERS)
        examine(recording, log, Cut(position, manner, dice.randrange(1 << 30), until))
    assert caplog.text.count(LOST) == CUTS


def test_under_home(recording: Recording, dice: random.Random) -> None:
    """The cache goes on: it has forgotten nothing that home has lost."""
    with Life.random(recording, dice) as life:
        life.program.home_restarts = True
        tree(life.mount.point)  # without home, directories that were never read stay unknown
        for _ in life.go_on(moments=8):
            recording.cut_home(life.mount, dice.choice(MANNERS), dice.randrange(1 << 30))
        life.program.settle()
        life.mount.await_state("Active")
        life.check()
        assert tree(recording.home) == recording.history.expected
        assert not list(recording.home.glob(".afm/.afmtrash/*"))


def test_again_while_it_recovers(
    recording: Recording, dice: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    with Life.random(recording, dice) as life:
        assert not list(life.go_on())
        life.check()
    log = recording.disks.log()
    first = cut_at(recording, log, dice)
    cache = recording.go_on(log, first)
    begin = recording.disks.position
    engine = engine_on(recording.home, recording.cache_disk)
    try:
        engine.start()
        check_home(engine, seen(engine))
        end = recording.disks.position
    finally:
        engine.stop()
        recording.detach()
    log = recording.disks.log()
    for _ in range(CUTS):
        position, manner = dice.randrange(begin, end), dice.choice(MANNERS)
        seed = dice.randrange(1 << 30)
        cut = Cut(position, manner, seed, cache=cache, told=first.position)
        examine(recording, log, cut)


def test_at_the_first_mount(recording: Recording, dice: random.Random) -> None:
    """Nothing is promised yet, but that the next mount comes to be."""
    start = recording.disks.position
    with Life.random(recording, dice):
        pass
    log = recording.disks.log()
    for _ in range(CUTS):
        position = dice.randrange(start, recording.begin)
        cut = Cut(position, dice.choice(MANNERS), dice.randrange(1 << 30), cache=FIRST_CACHE)
        examine(recording, log, cut)
