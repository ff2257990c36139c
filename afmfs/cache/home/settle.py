"""What an outcome says of home's version of an inode, written into the cache's rows.

All of it in the caller's transaction. Whatever is unmarked here is fetched again when it is read: a
read that ran beside a job may have brought bytes that home has no longer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from afmfs.cache.content.content import Content
from afmfs.cache.evict.usage import may_be_evicted
from afmfs.cache.store.inode import LISTED, Inode
from afmfs.cache.store.store import Store
from afmfs.model import ranges
from afmfs.model.entry import UNTOLD, Op
from afmfs.model.outcome import ADOPTED, LOST, NULLED, UNLINKED, UNREPRESENTABLE
from afmfs.model.ranges import Ranges

Version = tuple[int | None, int | None, int | None]
"""Home's size, mtime (ns) and inode number; the mtime is None where nothing is said of it."""

_REFUSED = {UNREPRESENTABLE: Op.MAKE, UNLINKED: Op.LINK}
"""What home can't hold, where an outcome says nothing else; else it is attributes."""

Found = tuple[int, str, Version, int | None]
"""An inode, what became of it, and the errno of what home can't hold of it."""


class Settlement:
    def __init__(self, store: Store, content: Content) -> None:
        self._store, self._content = store, content

    def stamp(self, inode: Inode, version: Version) -> None:
        """Home holds this version of ours."""
        size, mtime, home_ino = version
        self._store.save(
            inode, home_size=size, home_mtime=mtime, home_ino=home_ino,
            home_valid=self._home_valid(inode, size or 0) if inode.is_file else 0,
        )  # fmt: skip

    def _home_valid(self, inode: Inode, size: int) -> int:
        """The smaller of the size at home and every size in an unretired entry (home-valid): also
        when others of its entries are retired (home-valid-by-retired)."""
        row = self._store.execute(
            'SELECT min("end") FROM queue WHERE ino=? AND op<>6 AND op=?', (inode.ino, Op.SIZE)
        ).fetchone()
        smallest = row[0]
        if not inode.nlink:  # sizes of what has no name are not queued
            smallest = inode.home_valid
        return min(size, inode.size) if smallest is None else min(size, smallest, inode.size)

    def take_over(self, found: Iterable[Found], nulled: Mapping[int, Ranges]) -> set[int]:
        """What a job says of inodes, in its order, and which bytes of them read as zeros at home.
        The inodes whose content is another now."""
        changed: set[int] = set()
        for ino, result, version, refused in found:
            inode = self._store.inode(ino)
            if inode is None:
                continue
            if refused is not None:
                self._refuse(inode, _REFUSED.get(result, Op.ATTR), refused)
            if result == LOST:
                self._lose(inode)
            if result in (LOST, *_REFUSED):
                continue
            self._store.execute("DELETE FROM lost WHERE ino=?", (ino,))
            if refused is None:  # what was refused once was done now
                self._store.execute("DELETE FROM unrepresentable WHERE ino=?", (ino,))
            may_be_evicted(self._store, [inode])
            if version[1] is None:
                continue
            if result == ADOPTED:
                other = self._adopt(inode, version)
            else:
                self.stamp(inode, version)
                other = result == NULLED and self.unmark_clean(inode, nulled.get(ino, ()))
            if other:
                changed.add(ino)
        return changed

    def unmark_clean(self, inode: Inode, pieces: Ranges) -> bool:
        """Bytes of `pieces` that nothing pending covers are only believed once they are fetched
        again; whether there are any. What is beyond `home_valid` is ours, and stays."""
        if not inode.is_file:
            return False
        validity = self._content.validity
        reach = ranges.cut(ranges.union(pieces), inode.home_valid)
        valid = ranges.union(part for a, b in reach for part in validity.valid(inode, a, b))
        if valid and self._store.pending([inode]):
            for start, end in self._store.execute(
                'SELECT start, "end" FROM queue WHERE ino=? AND op=?', (inode.ino, Op.WRITE)
            ):
                valid = ranges.subtract(valid, start, end)
        if valid:
            self._content.unmark(inode, valid)
        return bool(valid)

    def _adopt(self, inode: Inode, version: Version) -> bool:
        """Nothing was cached of the file when the gateway looked, so home's version is ours. What
        was written since stays as it is; what was fetched since, of another version, goes: two
        versions are never mixed. Whether the content is another one now."""
        size, mtime, _ = version
        known = (inode.home_size, inode.home_mtime, inode.home_ino)
        other = known != version and self.unmark_clean(inode, ((0, inode.size),))
        self.stamp(inode, version)
        if not inode.is_file or size is None or self._is_queued(inode, Op.SIZE):
            return other
        if self._content.validity.valid(inode, 0, inode.size):
            return other
        if (inode.size, inode.mtime) == (size, mtime):
            return other
        if self._is_queued(inode, Op.ATTR):
            mtime = inode.mtime  # it may have been set here meanwhile, and then goes to home
        self._content.uncache(inode)
        self._content.damage.forget(inode.ino)
        self._store.save(
            inode, size=size, mtime=mtime, ctime=time.time_ns(), home_valid=size, whole=size == 0
        )
        return True

    def _is_queued(self, inode: Inode, op: Op) -> bool:
        """Whether a change of that kind, but of bytes, is pending. One of its names says nothing of
        its size and times."""
        row = self._store.execute(
            "SELECT 1 FROM queue WHERE ino=? AND op<>6 AND op=? LIMIT 1", (inode.ino, op)
        ).fetchone()
        return row is not None

    def _refuse(self, inode: Inode, op: Op, code: int) -> None:
        """Home can never hold the object, or never all of its names, or of its attributes."""
        self._store.execute(
            "INSERT OR REPLACE INTO unrepresentable VALUES (?,?,?)", (inode.ino, int(op), code)
        )

    def _lose(self, inode: Inode) -> None:
        """Home has no such file, and nothing of it is cached; or no such directory, and it was
        never read; or no such link, and where it led was never known."""
        unread = inode.is_dir and inode.listed != LISTED
        if inode.is_file or unread or inode.target == UNTOLD:
            job = self._store.get("job_number", 0)
            self._store.execute("INSERT OR REPLACE INTO lost VALUES (?,?)", (inode.ino, job))
