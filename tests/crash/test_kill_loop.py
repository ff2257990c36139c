"""Kill the mount process and the gateway, again and again, under programs that write.

AFMFS_KILLS sets how many kills (15), AFMFS_SEED which; `scripts/crashloop` does it for longer.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.loop import Crew, content_of, fill, play
from tests.harness.mounting import wait_until

KILLS = int(os.environ.get("AFMFS_KILLS", "15"))


def test_the_writers_themselves(home: Path, tmp_path: Path) -> None:
    """On a plain directory, where nothing is killed, they leave what they say."""
    fill(home, random.Random(1))
    crew = Crew(home, tmp_path / "notes", 1)
    try:
        crew.start()
        worked = lambda: min(map(len, (crew.log_lines(0), crew.log_lines(1)))) > 600  # noqa: E731
        wait_until(worked, 60, "the writers work")
        crew.check()
        expected = crew.stop()
        assert content_of(home) == expected
    finally:
        crew.end()


@pytest.mark.mounted
def test_whatever_is_killed_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """And every crash point is one: in the end it was reached."""
    seed = int(os.environ.get("AFMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 20)
    print(f"again: scripts/crashloop {KILLS} --seed {seed}")
    loop = play(tmp_path, KILLS, seed)
    assert loop.kinds.total() >= KILLS
    assert loop.never_reached() == []
    loop.board.close()
