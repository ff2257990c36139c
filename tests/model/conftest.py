"""Fixtures of tests by random programs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on a tmpfs: syncing costs nothing there, and inode numbers are never used twice.

    They tell what became of each object at home.
    """
    if not os.access(MEMORY, os.W_OK):
        pytest.skip(f"no tmpfs at {MEMORY}")
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)
