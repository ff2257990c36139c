"""A resync puts home right whatever was done to it, and nothing is lost on the way.

AFMFS_RESYNC_EXAMPLES sets how many programs are run (200), AFMFS_SEED which ones.
"""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.harness.killing import closing_below
from tests.harness.machine import NAMES, run_seeded
from tests.harness.repair_machine import RepairMachine
from tests.harness.repaired_engine import RepairedEngine, hurried

EXAMPLES = int(os.environ.get("AFMFS_RESYNC_EXAMPLES", "200"))


def test_a_resync_puts_home_right_and_loses_nothing(memory: Path) -> None:
    numbers = itertools.count()

    class Machine(RepairMachine):
        def place(self) -> Path:
            base = memory / f"example{next(numbers)}"
            base.mkdir()
            return base

        def make(self, base: Path, *options: str) -> RepairedEngine:
            return RepairedEngine(base, *options)

        @rule(
            names=st.frozensets(st.sampled_from(NAMES), max_size=2),
            code=st.sampled_from([errno.ENOSPC, errno.EACCES]),
        )
        def home_refuses(self, names: frozenset[bytes], code: int) -> None:
            self.refuse(names, code)

    with hurried(), closing_below(memory):
        run_seeded(Machine, EXAMPLES, again="AFMFS_RESYNC_EXAMPLES")
