"""What a resync promises, on a real mount whose processes are killed with SIGKILL.

AFMFS_RESYNC_MOUNTS sets how many programs are run (20), AFMFS_SEED which ones.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.harness.machine import run_seeded
from tests.harness.repair_machine import RepairMachine
from tests.harness.repaired_mount import RepairedMount

EXAMPLES = int(os.environ.get("AFMFS_RESYNC_MOUNTS", "20"))

STEPS = 12


@pytest.mark.mounted
def test_a_resync_of_a_mount_puts_home_right_and_loses_nothing(memory: Path) -> None:
    numbers, kills = itertools.count(), []

    class Machine(RepairMachine):
        SHORT_READS = True

        def place(self) -> Path:
            base = memory / f"example{next(numbers)}"
            base.mkdir()
            return base

        def make(self, base: Path, *options: str) -> RepairedMount:
            return RepairedMount(base, *options)

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                if isinstance(self.repaired, RepairedMount):
                    kills.append(self.repaired.kills)
                    assert not self.repaired.mount.watchdog_fired, "it stopped answering"

    run_seeded(Machine, EXAMPLES, again="AFMFS_RESYNC_MOUNTS", steps=STEPS)
    assert sum(kills) >= EXAMPLES // 4, f"hardly anything was killed: {kills}"
