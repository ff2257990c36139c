"""A random program, run on a plain directory and on what is tested, which must answer alike."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.harness.files import Files, KernelFiles, Times

BLOCK = 65536
"""Bytes: the block size that the tested filesets have."""

NAMES = [b"a", b"b", b"c", b"\xff\n", b"x" * 255]
OFFSETS = [0, 1, 100, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 150_000, 200_001]
LENGTHS = [1, 10, 4096, 5000, BLOCK, BLOCK + 10]
MODES = [0o600, 0o755, 0o4711, 0o2755, 0o1777, 0o444]


def machine_settings(examples: int) -> settings:
    """Programs of thirty steps. A failure is shown as it was found, with a line to replay it:
    each run is slow. With AFMFS_SHRINK=1 it is made as short as five minutes allow."""
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        print_blob=True,
        phases=[*phases, Phase.shrink] if os.environ.get("AFMFS_SHRINK") else phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def run_seeded(
    machine: type[RuleBasedStateMachine], examples: int, *, again: str, steps: int = 30
) -> None:
    """Run the same programs each time, or those of AFMFS_SEED; a failure says how to see them once
    more, with `again` setting so many examples. It may depend on time, and not come back."""
    seed = int(os.environ.get("AFMFS_SEED", "1"))
    wanted = settings(machine_settings(examples), stateful_step_count=steps, database=None)
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=wanted)
    except BaseException:
        print(f"the same programs once more: AFMFS_SEED={seed} {again}={examples}")
        raise


indexes = st.integers(0, 15)
names = st.sampled_from(NAMES)
offsets = st.sampled_from(OFFSETS)
contents = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size),
    st.integers(0, 255),
    st.sampled_from(LENGTHS),
)
times = st.builds(Times, st.integers(0, 1 << 61), st.integers(0, 1 << 61))


class Tested(Protocol):
    """What a machine drives beside its plain directory."""

    files: Files

    def flush(self) -> None: ...

    def evict(self, paths: list[bytes]) -> None:
        """Free what is cached of these, as far as that is allowed."""

    def restart(self, *, crash: bool) -> None:
        """Unmount and mount again, or kill -9 and mount again."""

    def check(self, plain: Path) -> None:
        """Home, after a flush, and what is tested hold what the plain directory holds."""

    def close(self) -> None: ...


def fill(root: Path) -> None:
    """What is at home before: blocks to fetch, directories to read, links."""
    (root / "b").mkdir(parents=True)
    dice = random.Random(7)
    (root / "a").write_bytes(dice.randbytes(150_000))
    (root / "b/a").write_bytes(dice.randbytes(70_000))
    os.link(root / "b/a", root / "b/b")
    (root / "c").symlink_to("b")
    (root / "b/c").symlink_to("nowhere")


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """What a call returned, or its errno."""
    try:
        return "ok", call()
    except OSError as error:
        return "failed", error.errno


class TreeMachine(RuleBasedStateMachine):
    """One rule for each call. Subclasses make `tested` and `plain_root`, alike at the start."""

    tested: Tested
    plain_root: Path

    def __init__(self) -> None:
        super().__init__()
        self.differs = False
        self.begin()
        self.plain = KernelFiles(self.plain_root)
        self.handles: list[tuple[int, Any, int]] = []  # plain handle, tested handle, flags

    def begin(self) -> None:
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            self._close_all()
            if not self.differs:  # what is known to differ would only hide where it began
                self.tested.flush()
                self.tested.check(self.plain_root)
        finally:
            self.tested.close()

    # --- choosing, by what the plain directory holds

    def _known(self, *, directories: bool = False) -> list[bytes]:
        """All paths, or those of directories: symlinks to them serve as parents, too."""
        found = [b""] if directories else []
        for top, below, files in os.walk(self.plain.root):
            prefix = top[len(self.plain.root) + 1 :]
            names = below if directories else [*below, *files]
            found += [os.path.join(prefix, name) for name in names]
        return sorted(found)

    def _old(self, index: int) -> bytes:
        known = self._known() or [b"missing"]
        return known[index % len(known)]

    def _new(self, index: int, name: bytes) -> bytes:
        parents = self._known(directories=True)
        return os.path.join(parents[index % len(parents)], name)

    def _same(self, call: Callable[[Files], Any]) -> None:
        expected = outcome(lambda: call(self.plain))
        self._agree(outcome(lambda: call(self.tested.files)), expected)

    def _same_at(self, index: int, call: Callable[[Files, Any], Any]) -> None:
        one, other, _ = self.handles[index % len(self.handles)]
        expected = outcome(lambda: call(self.plain, one))
        self._agree(outcome(lambda: call(self.tested.files, other)), expected)

    def _agree(self, found: tuple[str, Any], expected: tuple[str, Any]) -> None:
        self.differs = found != expected
        assert not self.differs, f"found {_brief(found)}, expected {_brief(expected)}"

    def _on_file(self, path: bytes, flags: int, call: Callable[[Files, Any], Any]) -> None:
        """Open, call, close: as most programs do."""

        def whole(files: Files) -> Any:
            handle = files.open(path, flags)
            try:
                return call(files, handle)
            finally:
                files.close(handle)

        if stat.S_ISFIFO(self._mode(path)):
            return  # would wait for its other end
        self._same(whole)

    def _mode(self, path: bytes) -> int:
        found = outcome(lambda: os.stat(self.plain.at(path)))
        return found[1].st_mode if found[0] == "ok" else 0

    def _close_all(self) -> None:
        for one, other, _ in self.handles:
            self.plain.close(one)
            self.tested.files.close(other)
        self.handles.clear()

    # --- files

    @rule(index=indexes, name=names, mode=st.sampled_from(MODES))
    def create(self, index: int, name: bytes, mode: int) -> None:
        path = self._new(index, name)
        self._same(lambda f: f.close(f.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)))

    @rule(index=indexes, offset=offsets, data=contents, truncate=st.booleans())
    def write(self, index: int, offset: int, data: bytes, truncate: bool) -> None:
        flags = os.O_WRONLY | (os.O_TRUNC if truncate else 0)
        self._on_file(self._old(index), flags, lambda f, h: f.write(h, offset, data))

    @rule(index=indexes, data=contents)
    def append(self, index: int, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND
        self._on_file(self._old(index), flags, lambda f, h: f.append(h, data))

    @rule(index=indexes, offset=offsets, data=contents)
    def map_write(self, index: int, offset: int, data: bytes) -> None:
        path = self._old(index)
        size = os.stat(self.plain.at(path)).st_size if stat.S_ISREG(self._mode(path)) else 0
        if offset < size:
            part = data[: size - offset]
            self._on_file(path, os.O_RDWR, lambda f, h: f.map_write(h, offset, part))

    @rule(index=indexes, offset=offsets, size=st.sampled_from(LENGTHS))
    def read(self, index: int, offset: int, size: int) -> None:
        path = self._old(index)
        if not stat.S_ISDIR(self._mode(path)):
            self._on_file(path, os.O_RDONLY, lambda f, h: f.read(h, offset, size))

    @rule(index=indexes, size=offsets)
    def truncate(self, index: int, size: int) -> None:
        path = self._old(index)
        self._same(lambda f: f.truncate(path, size))

    # --- handles that stay open

    @precondition(lambda self: len(self.handles) < 4)
    @rule(index=indexes, append=st.booleans())
    def hold(self, index: int, append: bool) -> None:
        path = self._old(index)
        if not stat.S_ISREG(self._mode(path)):
            return
        flags = os.O_RDWR | (os.O_APPEND if append else 0)
        one = self.plain.open(path, flags)
        self.handles.append((one, self.tested.files.open(path, flags), flags))

    @precondition(lambda self: self.handles)
    @rule(index=indexes, offset=offsets, data=contents)
    def write_held(self, index: int, offset: int, data: bytes) -> None:
        if self.handles[index % len(self.handles)][2] & os.O_APPEND:
            self._same_at(index, lambda f, h: f.append(h, data))
        else:
            self._same_at(index, lambda f, h: f.write(h, offset, data))

    @precondition(lambda self: self.handles)
    @rule(index=indexes, offset=offsets, size=st.sampled_from(LENGTHS))
    def read_held(self, index: int, offset: int, size: int) -> None:
        self._same_at(index, lambda f, h: f.read(h, offset, size))
        self._same_at(index, lambda f, h: f.look_at(h))

    @precondition(lambda self: self.handles)
    @rule(index=indexes, size=offsets)
    def cut_held(self, index: int, size: int) -> None:
        self._same_at(index, lambda f, h: f.cut(h, size))

    @precondition(lambda self: self.handles)
    @rule(index=indexes)
    def sync_held(self, index: int) -> None:
        self._same_at(index, lambda f, h: f.fsync(h))

    @precondition(lambda self: self.handles)
    @rule(index=indexes)
    def let_go(self, index: int) -> None:
        one, other, _ = self.handles.pop(index % len(self.handles))
        self.plain.close(one)
        self.tested.files.close(other)

    # --- names

    @rule(index=indexes, name=names, mode=st.sampled_from(MODES))
    def mkdir(self, index: int, name: bytes, mode: int) -> None:
        path = self._new(index, name)
        self._same(lambda f: f.mkdir(path, mode))

    @rule(index=indexes)
    def rmdir(self, index: int) -> None:
        path = self._old(index)
        self._same(lambda f: f.rmdir(path))

    @rule(index=indexes)
    def unlink(self, index: int) -> None:
        path = self._old(index)
        self._same(lambda f: f.unlink(path))

    @rule(index=indexes, parent=indexes, name=names, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, index: int, parent: int, name: bytes, flags: int) -> None:
        path, target = self._old(index), self._new(parent, name)
        self._same(lambda f: f.rename(path, target, flags))

    @rule(index=indexes, other=indexes, flags=st.sampled_from([0, 2]))
    def rename_over(self, index: int, other: int, flags: int) -> None:
        path, target = self._old(index), self._old(other)
        self._same(lambda f: f.rename(path, target, flags))

    @rule(index=indexes, parent=indexes, name=names)
    def link(self, index: int, parent: int, name: bytes) -> None:
        path, target = self._old(index), self._new(parent, name)
        self._same(lambda f: f.link(path, target))

    @rule(index=indexes, name=names, text=st.sampled_from([b"a", b"b", b"b/../a", b"nowhere"]))
    def symlink(self, index: int, name: bytes, text: bytes) -> None:
        path = self._new(index, name)
        self._same(lambda f: f.symlink(text, path))

    # --- looking

    @rule(index=indexes, mode=st.sampled_from(MODES))
    def chmod(self, index: int, mode: int) -> None:
        path = self._old(index)
        self._same(lambda f: f.chmod(path, mode))

    @rule(index=indexes, to=times)
    def stamp(self, index: int, to: Times) -> None:
        path = self._old(index)
        self._same(lambda f: f.stamp(path, to))

    @rule(index=indexes)
    def look(self, index: int) -> None:
        path = self._old(index)
        self._same(lambda f: f.look(path))
        self._same(lambda f: f.readlink(path))
        self._same(lambda f: f.names(path))

    # --- what the plain directory knows nothing of

    @rule()
    def flush(self) -> None:
        self.tested.flush()

    @rule(clean=st.booleans(), look=st.booleans())
    def evict(self, clean: bool, look: bool) -> None:
        """What is not clean stays; what is read again is what it was."""
        if clean:
            self.tested.flush()
        known = self._known()
        self.tested.evict(known)
        for path in known if look else ():
            if stat.S_ISREG(self._mode(path)):
                self._on_file(path, os.O_RDONLY, lambda f, h: f.read(h, 0, 4 * BLOCK))

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self._close_all()
        self.tested.restart(crash=crash)


def _brief(result: tuple[str, Any]) -> str:
    word, value = result
    if isinstance(value, bytes) and len(value) > 40:
        value = f"{len(value)} bytes {value[:16]!r}... ({value.count(0)} zeros)"
    return f"{word} {value!r}"
