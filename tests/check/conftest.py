"""A harmed cache for each test; made once, copied for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check.scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.engine.stop()


# The repair is being written: these run where AFMFS_CHECK is set.
collect_ignore_glob = [] if "AFMFS_CHECK" in os.environ else ["test_*.py"]
