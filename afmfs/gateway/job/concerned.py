"""What a recovery needs to know of the queue and of the tree: one look at each, not one an object.

Everything is read at once, with no home in between; numbers are kept in arrays, eight bytes each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.replay.work import Work
from afmfs.gateway.state.view import View
from afmfs.model.action import Place
from afmfs.model.entry import DATA_OPS, Entry


def concerned(view: View, bound: int) -> Sequence[int]:
    """The inodes that entries up to `bound` are about, ascending."""
    rows = view.each("SELECT ino, ino2 FROM queue WHERE id<=?", bound)
    found = {ino for row in rows for ino in row}
    return array("q", sorted(ino for ino in found if ino is not None))


def data_entries(view: View, inos: Collection[int], through: int) -> dict[int, list[Entry]]:
    """The changes of content and attributes of some inodes, up to an entry, oldest first."""
    found: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in view.entries_of(inos, through):
        if entry.op in DATA_OPS:
            found[entry.ino].append(entry)
    return found


def taken(view: View, places: Iterable[Place]) -> set[Place]:
    """Which of these names the cache's tree has now."""
    wanted: defaultdict[int, set[bytes]] = defaultdict(set)
    for parent, name in places:
        wanted[parent].add(name)
    return {
        (parent, name)
        for parent, names in wanted.items()
        for (name,) in view.each("SELECT name FROM dentry WHERE parent=?", parent)
        if name in names
    }


class Claims:
    """Home's objects that inodes of the cache are known to be: by number, where home keeps numbers,
    else by size and time, which many may share."""

    def __init__(self, work: Work) -> None:
        properties = work.home.properties
        self._stable, self._grain = properties.stable_inodes, properties.mtime_ns
        rows = work.view.each(
            "SELECT home_size, home_mtime, home_ino FROM inode WHERE home_mtime IS NOT NULL"
        )
        self._keys = array("q", sorted(self._key(Stamp(*row)) for row in rows))

    def _key(self, stamp: Stamp) -> int:
        if self._stable and stamp.ino is not None:
            return stamp.ino - (1 << 64) if stamp.ino >= 1 << 63 else stamp.ino
        return hash((stamp.size, stamp.mtime // self._grain))

    def __contains__(self, stamp: Stamp) -> bool:
        key = self._key(stamp)
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key
