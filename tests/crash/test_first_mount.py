"""A kill while the cache is being made: the next mount makes it, and home is ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.crash.points.board import Board
from tests.crash.points.seams import environment
from tests.harness.mounting import Mount, MountFailed, wait_until

POINTS = [("commit other: after", 2), ("recovery: before", 1), ("home create: after", 2)]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board.create(tmp_path / "board")
    yield board
    board.close()


@pytest.mark.mounted
@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_killed_in_the_first_mount(
    make_mount: MakeMount, home: Path, tmp_path: Path, board: Board, point: str, nth: int
) -> None:
    (home / "f").write_bytes(b"of home")
    mount = make_mount(home, "async_delay=0", start=False)
    mount.environment = environment(tmp_path / "board")
    board.arm(point, nth, both=True)
    started(mount)
    wait_until(lambda: board.deaths()[point], 20, f"{point} is reached")
    mount.kill9("both")
    mount.mount()
    assert (mount.point / "f").read_bytes() == b"of home"
    (mount.point / "g").write_bytes(b"new")
    mount.flush()
    assert (home / "g").read_bytes() == b"new"
    mount.unmount()


def started(mount: Mount) -> None:
    """Whether it came to serve or not."""
    try:
        mount.mount()
    except MountFailed:
        pass
