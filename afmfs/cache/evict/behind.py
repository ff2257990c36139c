"""Entries that were left behind: still pending, though a later one of their inode is retired.

Home refused them for now, and what followed did not depend on them. Whether an inode has such a one
is asked for each file that may be evicted, and the bytes written, which most of them are, have no
index by inode. So they are counted here, by inode: each is looked at once. Where they are too many
for the memory the queue is searched each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from afmfs.cache.store.inode import Inode

if TYPE_CHECKING:
    from afmfs.cache.store.store import Store

MOST = 200_000
"""Inodes that are counted, at most."""

Row = tuple[int, int, int | None]
"""Of the queue: number, inode, second inode."""


class Behind:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._forget()

    def _forget(self) -> None:
        self._through = 0  # entries up to here are counted
        self._counts: dict[int, int] = {}
        self._too_many = self._less = False

    def rolled_back(self) -> None:
        """What was said in the transaction does not hold: count anew when next asked."""
        if self._less:
            self._forget()

    def retired(self, rows: Iterable[Row]) -> None:
        """These are not pending any more, in the caller's transaction."""
        for number, *inos in rows:
            if number <= self._through:
                self._less = True
                self._add(inos, -1)

    def pending(self, inodes: Sequence[Inode]) -> set[int]:
        """As `Store.pending`."""
        if not self._count(max((inode.retired for inode in inodes), default=0)):
            return self._store.pending(inodes)
        return {
            inode.ino
            for inode in inodes
            if inode.changed > inode.retired or inode.ino in self._counts
        }

    def _count(self, through: int) -> bool:
        """Count the entries up to that number; False if they are too many."""
        if self._too_many and self._store.counters.queue_length > MOST:
            return False
        if through > self._through:
            rows = self._store.execute(
                "SELECT ino, ino2 FROM queue WHERE id>? AND id<=?", (self._through, through)
            )
            for inos in rows:
                self._add(inos, 1)
                if len(self._counts) > MOST:
                    self._forget()
                    self._too_many = True
                    return False
            self._through = through
        return True

    def _add(self, inos: Iterable[int | None], count: int) -> None:
        for ino in set(inos):
            if ino is not None:
                self._counts[ino] = self._counts.get(ino, 0) + count
                if not self._counts[ino]:
                    del self._counts[ino]
