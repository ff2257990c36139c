"""The block map and the spans of a file, against a set of valid bytes; of huge ones, against ranges
of them, with the steps of SQLite's machine counted."""

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
from afmfs.model import bitmap, blocks, ranges
from afmfs.model.ranges import Ranges
from afmfs.model.soundness import Map, map_faults, map_ranges
from tests.harness.steps import StepsCounted

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


CHUNK = BLOCK * bitmap.CHUNK
HUGE = 1 << 56
MOST_STEPS = 5_000
"""Of one request: where the chunks of a huge file are gone through, it takes as many for a thousand
of them, and there are up to 2^40."""

FAR = st.builds(
    lambda base, chunk, by: max(0, base + chunk * CHUNK + by),
    st.sampled_from([0, 1 << 40, HUGE - 4 * CHUNK]),
    st.integers(0, 3),
    st.integers(-2 * BLOCK, 2 * BLOCK),
)


class HugeMachine(RuleBasedStateMachine):
    """Of files whose size says nothing of what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.place.name) / "cache.db")
        self.validity = Validity(self.store, BLOCK)
        self.valid: Ranges = ()
        self.requests = 0

    @initialize(size=FAR, whole=st.booleans())
    def begin(self, size: int, whole: bool) -> None:
        size += 1
        with self.store as store:
            self.inode = store.add(
                Inode(7, stat.S_IFREG, 0, 0, 0, 1, size, 0, 0, 0, whole=whole, home_valid=size)
            )
        self.valid = ((0, size),) if whole else ()

    def counted(self) -> StepsCounted:
        self.requests += 1
        return StepsCounted(self.store.db, MOST_STEPS)

    def grown(self, size: int) -> Ranges:
        """What becomes valid as the file grows: the rest of a short last block that is complete."""
        last = (self.inode.size - 1) // BLOCK * BLOCK
        if self.inode.whole or not ranges.gaps(self.valid, last, self.inode.size):
            end = size if self.inode.whole else min(size, last + BLOCK)
            return ((self.inode.size, end),) if end > self.inode.size else ()
        return ()

    @rule(start=FAR, length=st.one_of(st.integers(1, 3 * BLOCK), FAR))
    def mark(self, start: int, length: int) -> None:
        if self.inode.whole:
            return
        end = start + length + 1
        size = max(self.inode.size, end)
        self.valid = ranges.union([*self.valid, *self.grown(size), (start, end)])
        with self.counted(), self.store as store:
            self.validity.mark(self.inode, start, end, size)
            store.save(self.inode, size=size)
            self.validity.become_whole(self.inode)

    @rule(size=FAR)
    def grow(self, size: int) -> None:
        if size <= self.inode.size:
            return
        self.valid = ranges.union([*self.valid, *self.grown(size)])
        with self.counted(), self.store as store:
            store.save(self.inode, size=size)

    @rule(start=FAR, length=st.one_of(st.integers(1, 3 * BLOCK), FAR))
    def unmark(self, start: int, length: int) -> None:
        end = min(start + length + 1, self.inode.size)
        if start >= end:
            return
        with self.counted(), self.store:
            self.validity.unmark(self.inode, start, end)
        self.valid = ranges.subtract(self.valid, start, end)

    @rule(size=FAR)
    def shrink(self, size: int) -> None:
        if not 0 < size < self.inode.size:
            return
        with self.counted(), self.store as store:
            self.validity.shrink(self.inode, size)
            store.save(self.inode, size=size)
        self.valid = ranges.cut(self.valid, size)

    @rule(start=FAR, end=FAR)
    def asks(self, start: int, end: int) -> None:
        with self.counted():
            found = self.validity.valid(self.inode, start, end)
        assert found == ranges.within(self.valid, start, min(end, self.inode.size))
        if start // BLOCK < blocks.count(min(end, self.inode.size), BLOCK):
            among = range(start // BLOCK, blocks.count(end, BLOCK))
            with self.counted():
                counted = self.validity.cached_bytes(self.inode, among)
            assert counted == self.bytes_of(among)

    def bytes_of(self, among: range) -> int:
        """Bytes of the complete blocks that are `among`."""
        size, total = self.inode.size, 0
        for a, b in self.valid:
            full = blocks.covered(a, b, size, BLOCK)
            low, high = max(full.start, among.start), min(full.stop, among.stop)
            total += max(0, min(high * BLOCK, size) - low * BLOCK) if low < high else 0
        return total

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "inode"):
            return
        inode = self.inode
        with self.counted():
            assert self.validity.valid(inode, 0, inode.size) == self.valid
            cached = self.validity.cached_blocks(inode)
        full = [blocks.covered(a, b, inode.size, BLOCK) for a, b in self.valid]
        every = range(blocks.count(inode.size, BLOCK))
        assert cached == (sum(len(one) for one in full), self.bytes_of(every))
        rows = dict(self.store.execute("SELECT chunk, bits FROM blockmap").fetchall())
        assert len(rows) <= 4 * self.requests
        spans = self.store.execute("SELECT start, end FROM span").fetchall()
        assert map_faults(Map(rows, spans), inode.size, BLOCK) == []
        if not inode.whole:
            assert map_ranges(Map(rows, spans), inode.size, BLOCK) == self.valid

    def teardown(self) -> None:
        self.store.close()
        self.place.cleanup()


HugeMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)
test_huge_files = HugeMachine.TestCase
