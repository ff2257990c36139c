"""A resync puts home right whatever was done to it, and nothing is lost on the way.

AFMFS_RESYNC_EXAMPLES sets how many programs are run (200), AFMFS_SEED which ones.
"""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.harness.killing import closing_below
from tests.harness.machine import NAMES, indexes, names, run_seeded
from tests.harness.program_machine import contents
from tests.harness.repair_machine import RepairMachine, hows
from tests.harness.repaired_engine import RepairedEngine, hurried

EXAMPLES = int(os.environ.get("AFMFS_RESYNC_EXAMPLES", "200"))

codes = st.sampled_from([errno.ENOSPC, errno.EACCES])


class Refused(RepairMachine):
    """Home refuses some names for a while, also while resyncs run."""

    @rule(refused=st.frozensets(st.sampled_from(NAMES), max_size=2), code=codes)
    def home_refuses(self, refused: frozenset[bytes], code: int) -> None:
        self.refuse(refused, code)

    @rule(index=indexes, name=names, data=contents, to=names, how=hows, code=codes)
    def resync_beside_refusals(
        self, index: int, name: bytes, data: bytes, to: bytes, how: str, code: int
    ) -> None:
        """What is refused, and what waits for it, when a resync comes: by chance alone the three
        meet too rarely."""
        self.refuse(frozenset([name, to]), code)
        self.rename(index, index, to, 0)
        self.create(index, name, 0o644)
        for number in range(3):
            self.append(index + number, data)
        self.flush()
        self._resync(how, [])


def run(machine: type[RepairMachine], memory: Path) -> None:
    numbers = itertools.count()

    class Machine(machine):  # type: ignore[misc, valid-type]
        def place(self) -> Path:
            base = memory / f"example{next(numbers)}"
            base.mkdir()
            return base

        def make(self, base: Path, *options: str) -> RepairedEngine:
            return RepairedEngine(base, *options)

    with hurried(), closing_below(memory):
        run_seeded(Machine, EXAMPLES, again="AFMFS_RESYNC_EXAMPLES")


def test_a_resync_puts_home_right_and_loses_nothing(memory: Path) -> None:
    run(RepairMachine, memory)


@pytest.mark.long
def test_so_it_does_beside_what_home_refuses(memory: Path) -> None:
    run(Refused, memory)
