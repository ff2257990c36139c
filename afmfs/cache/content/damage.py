"""Bytes of files that were only here, and are gone: known to be lost, and never read as zeros.

A check of the cache records them. A read that meets one fails; to write over them, or to cut them
off, ends it, and so does taking home's version of the file.
"""

from __future__ import annotations

from collections.abc import Iterable

from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.errors import Damaged
from afmfs.model import ranges
from afmfs.model.ranges import Ranges


class Damage:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.inos = {ino for (ino,) in store.execute("SELECT DISTINCT ino FROM damaged")}
        """Files that may have lost something; usually none."""

    def of(self, ino: int) -> Ranges:
        """What a file has lost."""
        rows = self._store.execute("SELECT start, end FROM damaged WHERE ino=?", (ino,))
        return ranges.union(rows)

    def check(self, ino: int, start: int, end: int) -> None:
        """Damaged if a byte of [start, end) is lost."""
        lost = ranges.within(self.of(ino), start, end)
        if lost:
            raise Damaged(f"bytes {lost[0][0]}-{lost[0][1]} of inode {ino} are lost")

    # -- in the caller's transaction -------------------------------------------------------------

    def add(self, inode: Inode, lost: Iterable[tuple[int, int]]) -> None:
        self._put(inode.ino, ranges.union([*self.of(inode.ino), *lost]))
        self.inos.add(inode.ino)

    def written(self, ino: int, start: int, end: int) -> None:
        """[start, end) has bytes of its own again, or is not part of the file any more."""
        before = self.of(ino)
        after = ranges.subtract(before, start, end)
        if after != before:
            self._put(ino, after)

    def forget(self, ino: int) -> None:
        """The file is another now."""
        if ino in self.inos:
            self._put(ino, ())

    def _put(self, ino: int, lost: Ranges) -> None:
        self._store.execute("DELETE FROM damaged WHERE ino=?", (ino,))
        self._store.db.executemany(
            "INSERT INTO damaged VALUES (?,?,?)", [(ino, a, b) for a, b in lost]
        )
