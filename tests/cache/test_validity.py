"""The block map and the spans of a file, against a set of valid bytes."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from afmfs.cache.content.validity import Validity
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.model import blocks

BLOCK = 8
POSITIONS = st.integers(0, 60)


class ValidityMachine(RuleBasedStateMachine):
    """`valid` is the oracle: the bytes below the file's size that are right in the blob."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.place.name) / "cache.db")
        self.validity = Validity(self.store, BLOCK)
        self.valid: set[int] = set()

    @initialize(size=st.integers(1, 60))
    def begin(self, size: int) -> None:
        with self.store as store:
            self.inode = store.add(
                Inode(7, stat.S_IFREG, 0, 0, 0, 1, size, 0, 0, 0, whole=False, home_valid=size)
            )

    @rule(start=POSITIONS, length=st.integers(1, 30))
    def mark(self, start: int, length: int) -> None:
        """As a write does: it may extend the file, and leaves a hole where it begins beyond."""
        if self.inode.whole:
            return
        end, size = start + length, max(self.inode.size, start + length)
        short = self._short_last_block()
        with self.store as store:
            self.validity.mark(self.inode, start, end, size)
            store.save(self.inode, size=size)
            self.validity.become_whole(self.inode)
        self.valid |= set(range(start, end)) | (short & set(range(size)))

    def _short_last_block(self) -> set[int]:
        """A complete block that is cut short by the end of the file stays complete as it grows."""
        last = (self.inode.size - 1) // BLOCK
        if not self.inode.size or not self._complete(last):
            return set()
        return set(range(self.inode.size, (last + 1) * BLOCK))

    def _complete(self, number: int) -> bool:
        first, end = blocks.bounds(number, self.inode.size, BLOCK)
        return set(range(first, end)) <= self.valid

    @rule(start=POSITIONS, length=st.integers(1, 30))
    def unmark(self, start: int, length: int) -> None:
        start, end = min(start, self.inode.size), min(start + length, self.inode.size)
        if start >= end:
            return
        with self.store:
            self.validity.unmark(self.inode, start, end)
        self.valid -= set(range(start, end))

    @rule(size=st.integers(1, 60))
    def shrink(self, size: int) -> None:
        if size >= self.inode.size:
            return
        with self.store as store:
            self.validity.shrink(self.inode, size)
            store.save(self.inode, size=size)
        self.valid &= set(range(size))

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "inode"):
            return
        inode = self.inode
        if inode.whole:
            assert self.valid == set(range(inode.size))
        found = {n for a, b in self.validity.valid(inode, 0, inode.size) for n in range(a, b)}
        assert found == self.valid
        full = [n for n in range(blocks.count(inode.size, BLOCK)) if self._complete(n)]
        expected = sum(e - b for b, e in (blocks.bounds(n, inode.size, BLOCK) for n in full))
        assert self.validity.cached_blocks(inode) == (len(full), expected)

    def teardown(self) -> None:
        self.store.close()
        self.place.cleanup()


ValidityMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None
)
test_validity = ValidityMachine.TestCase
