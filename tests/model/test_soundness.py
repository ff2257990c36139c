"""What is wrong with the rows of a map that has runs of chunks."""

from __future__ import annotations

from typing import Any

import pytest

from afmfs.model import bitmap
from afmfs.model.bitmap import CHUNK
from afmfs.model.soundness import Map, map_faults, map_ranges

BLOCK = 8
SIZE = 100 * CHUNK * BLOCK
LAST = SIZE - CHUNK * BLOCK
BITS = bytes([1]) + bytes(1023)


@pytest.mark.parametrize(
    ("chunks", "spans", "kinds"),
    [
        (
            {0: BITS, 1: bitmap.run(98), 99: BITS},
            [(LAST + BLOCK + 1, LAST + BLOCK + 3)],
            set(),
        ),
        ({1: bitmap.run(99)}, [], set()),
        ({1: bitmap.run(100)}, [], {"stale bit"}),
        ({1: bitmap.run(1 << 61)}, [], {"bad row"}),
        ({1: bitmap.run(0)}, [], {"bad row"}),
        ({1: bytes(9)}, [], {"bad row"}),
        ({-9: bitmap.run(5)}, [], {"stale bit"}),
        ({1: bitmap.run(5), 5: BITS}, [], {"overlap"}),
        ({1: bitmap.run(5), 3: bitmap.run(9)}, [], {"overlap"}),
        ({0: BITS, 2: bitmap.run(5)}, [(6 * CHUNK * BLOCK, 6 * CHUNK * BLOCK + 1)], {"overlap"}),
        ({0: BITS, 2: bitmap.run(5)}, [(7 * CHUNK * BLOCK, 7 * CHUNK * BLOCK + 1)], set()),
    ],
)
def test_runs(chunks: dict[Any, Any], spans: list[tuple[int, int]], kinds: set[str]) -> None:
    found = {kind for kind, _ in map_faults(Map(chunks, spans), SIZE, BLOCK)}
    assert found == kinds


def test_what_a_map_with_runs_says() -> None:
    chunk = CHUNK * BLOCK
    rows = Map({0: BITS, 1: bitmap.run(1 << 20), 7: None, "x": BITS}, [(1 << 50, (1 << 50) + 3)])
    end = (1 + (1 << 20)) * chunk
    assert map_ranges(rows, 1 << 60, BLOCK) == (
        (0, BLOCK), (chunk, end), (1 << 50, (1 << 50) + 3),
    )  # fmt: skip
    assert map_ranges(rows, chunk + 5, BLOCK) == ((0, BLOCK), (chunk, chunk + 5))
