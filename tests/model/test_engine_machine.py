"""The engine answers like a plain directory: as the test on the mount, and often enough to be rare.

AFMFS_ENGINE_EXAMPLES sets how many programs are run (200).
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.harness.engine import Engine, ThreadGateway
from tests.harness.files import EngineFiles
from tests.harness.machine import TreeMachine, fill, machine_settings
from tests.harness.trees import differences, snapshot

EXAMPLES = int(os.environ.get("AFMFS_ENGINE_EXAMPLES", "200"))


class EngineTree:
    """A fileset of its own for each program."""

    def __init__(self, base: Path) -> None:
        self.base = base
        fill(base / "home")
        options = ("block_size=64K", "async_delay=1", "durable_interval=1")
        self.engine = Engine(base / "home", base, *options, gateway=ThreadGateway)
        self.engine.start()
        self._attach()

    def _attach(self) -> None:
        self.files = EngineFiles(self.engine.fileset, self.engine.call)

    def flush(self) -> None:
        self.engine.flush()

    def evict(self, paths: list[bytes]) -> None:
        inos = [self.files.walk(path).ino for path in paths]
        self.engine.call(lambda: self.engine.fileset.evictions.evict(inos))

    def restart(self, *, crash: bool) -> None:
        self.engine.stop()
        self.engine.start()
        self._attach()

    def check(self, plain: Path) -> None:
        """Home, after the flush, is the plain tree; its times are the engine's."""
        at_home = snapshot(self.engine.home)
        assert differences(snapshot(plain), at_home, ignore=["mtime"]) == []
        for path, node in at_home.items():
            assert self.files.walk(path).mtime == node.mtime, path
        assert self.engine.fileset.status().state == "Active"

    def close(self) -> None:
        self.engine.stop()
        shutil.rmtree(self.base)


MEMORY = Path("/dev/shm")
"""Where syncing costs nothing: what survives a power loss is not the question here."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


def test_the_engine_answers_like_a_plain_directory(place: Path) -> None:
    numbers = itertools.count()
    plain = place / "plain"

    class Machine(TreeMachine):
        def begin(self) -> None:
            shutil.rmtree(plain, ignore_errors=True)
            fill(plain)
            self.plain_root = plain
            self.tested = EngineTree(place / f"engine{next(numbers)}")

    run_state_machine_as_test(Machine, settings=machine_settings(EXAMPLES))
