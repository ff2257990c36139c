"""Look again at a cut of a life that was kept: `python -m tests.power.again DIRECTORY 'Cut(...)'`.

A failed test keeps its directory (pytest says where temporary files lie), and its output has the
cut. The mount itself never lives the same life twice.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

from tests.power.aftermath import examine
from tests.power.cuts import Log
from tests.power.history import Step
from tests.power.recording import Cut, Recording

KEPT = "recording"


def keep(recording: Recording) -> None:
    """Its images lie in memory till now."""
    kept = recording.base / "kept"
    memory, recording.disks.directory = recording.disks.directory, kept
    try:
        subprocess.run(["cp", "-r", "--sparse=always", str(memory), str(kept)], check=True)
        (recording.base / KEPT).write_bytes(pickle.dumps(recording))
    finally:
        recording.disks.directory = memory


def main() -> None:
    base, cut = Path(sys.argv[1]), eval(sys.argv[2], {"Cut": Cut})
    logging.basicConfig(level=logging.INFO)
    recording: Recording = pickle.loads((base / KEPT).read_bytes())
    for number, step in enumerate(recording.history.steps):
        if step.begun <= (cut.told or cut.position):
            print(number, step.what.name, f"{step.begun}-{step.done}", *_about(step))
    print("steps lost:", examine(recording, Log(recording.disks.directory), cut))


def _about(step: Step) -> list[object]:
    return [step.file, step.path, step.target, step.offset, step.size, len(step.data)]


if __name__ == "__main__":
    main()
