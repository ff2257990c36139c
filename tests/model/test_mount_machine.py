"""The mount answers like a plain directory, whatever a program does, and home ends up the same.

A failure prints the steps and a line to replay them with.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import end_mounts
from tests.harness.files import KernelFiles
from tests.harness.machine import TreeMachine, fill, machine_settings
from tests.harness.mounting import Mount
from tests.harness.trees import differences, snapshot

EXAMPLES = int(os.environ.get("AFMFS_EXAMPLES", "20"))

READY = 40
"""Trees that a home holds for so many examples: mounting once is quicker."""


class World:
    """A mount over a home with a fresh tree for each example; mounted anew when used up."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.mount: Mount | None = None
        self.homes = itertools.count()
        self.fresh: Iterator[Path] = iter(())

    def next(self) -> Path:
        """A directory's name that has not been used."""
        found = next(self.fresh, None)
        if found is None or self.mount is None or self.mount.process is None:
            self.close()
            base = self.base / f"w{next(self.homes)}"
            names = [Path(f"example{number}") for number in range(READY)]
            for name in names:
                fill(base / "home" / name)
            options = ("block_size=64K", "async_delay=2", "durable_interval=1")
            self.mount = Mount(base / "home", base, *options, watch=300)
            self.mount.mount()
            self.fresh = iter(names)
            found = next(self.fresh)
        return found

    def close(self, *, failed: bool = True) -> None:
        if self.mount is not None:
            end_mounts([self.mount], failed=failed)
            shutil.rmtree(self.mount.base, ignore_errors=True)
            self.mount = None


class MountedTree:
    """One directory of the mount."""

    def __init__(self, world: World) -> None:
        name = world.next()
        assert world.mount is not None
        self.mount, self.name = world.mount, name
        self.files = KernelFiles(self.mount.point / name)

    def flush(self) -> None:
        self.mount.flush()

    def evict(self, paths: list[bytes]) -> None:
        words = [os.path.join(os.fsencode(self.name), path) for path in paths]
        line = shlex.join(["evict", "--json", "--file", *map(os.fsdecode, words)])
        control = self.mount.point / ".afm/control"
        if words:
            with suppress(OSError):  # the only one is dirty
                control.write_bytes(os.fsencode(line))

    def restart(self, *, crash: bool) -> None:
        if crash:
            self.mount.kill9("both")
            self.mount.mount("none")
        else:
            self.mount.remount()

    def check(self, plain: Path) -> None:
        seen = snapshot(self.mount.point / self.name)
        expected = snapshot(plain)
        assert differences(expected, seen, ignore=["mtime"]) == []
        assert differences(seen, snapshot(self.mount.home / self.name)) == []
        assert self.mount.status()["state"] == "Active"

    def close(self) -> None: ...


@pytest.mark.mounted
def test_the_mount_answers_like_a_plain_directory(tmp_path: Path) -> None:
    world, numbers = World(tmp_path), itertools.count()

    class Machine(TreeMachine):
        def begin(self) -> None:
            self.tested = MountedTree(world)
            self.plain_root = tmp_path / f"plain{next(numbers)}"
            fill(self.plain_root)

    failed = True
    try:
        run_state_machine_as_test(Machine, settings=machine_settings(EXAMPLES))
        failed = False
    finally:
        world.close(failed=failed)


class PlainTree:
    """Stands for the mount where the machine itself is tested; may forget to write."""

    def __init__(self, root: Path) -> None:
        fill(root)
        self.root = root
        self.files = KernelFiles(root)

    def flush(self) -> None: ...

    def evict(self, paths: list[bytes]) -> None: ...

    def restart(self, *, crash: bool) -> None: ...

    def check(self, plain: Path) -> None:
        assert differences(snapshot(plain), snapshot(self.root), ignore=["mtime"]) == []

    def close(self) -> None:
        shutil.rmtree(self.root)


class Forgetful(KernelFiles):
    def cut(self, handle: int, size: int) -> None:
        """Does not."""


@pytest.mark.parametrize("forgetful", [False, True])
def test_the_machine_itself(tmp_path: Path, forgetful: bool) -> None:
    """Two plain directories answer alike; one that does not is found out."""
    numbers = itertools.count()

    class Machine(TreeMachine):
        def begin(self) -> None:
            number = next(numbers)
            self.plain_root = tmp_path / f"plain{number}"
            fill(self.plain_root)
            self.tested = PlainTree(tmp_path / f"tested{number}")
            if forgetful:
                self.tested.files = Forgetful(self.tested.root)

    if forgetful:
        with pytest.raises(AssertionError):
            run_state_machine_as_test(Machine, settings=machine_settings(200))
    else:
        run_state_machine_as_test(Machine, settings=machine_settings(20))
