"""Names: every operation on the tree, as one transaction with its queue entries.

All directories that an operation looks into have been read from home before it is called; nothing
here waits. Errors are the errno that a local file system gives. The kernel has checked permissions,
and that no directory moves below itself.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from hashlib import blake2b

from afmfs.cache.content.validity import Validity
from afmfs.cache.store.inode import LISTED, Inode
from afmfs.cache.store.schema import INODE_COLUMNS
from afmfs.cache.store.store import Store, must
from afmfs.model.entry import LAST, UNLINKED, Op

NOREPLACE, EXCHANGE = 1, 2
"""Flags of rename, as renameat2(2) has them."""

NAMES_LOST = "names_lost"
"""Set by a repair that may have lost names: directories are read once more (`lost_names`)."""

DIRECTORY_SIZE = 4096
SLOTS = 8
_ENTER = "INSERT OR IGNORE INTO dentry VALUES (?,?,?,?)"
_AT = "SELECT name FROM dentry WHERE parent=? AND cookie=?"
_PAGE = (
    f"SELECT {', '.join('i.' + column for column in INODE_COLUMNS.split(', '))}, d.cookie, d.name"
    " FROM dentry d JOIN inode i ON i.ino = d.ino"
    " WHERE d.parent=? AND d.cookie>? ORDER BY d.cookie LIMIT ?"
)


def cookie(name: bytes) -> int:
    """The first of the eight places that a name may have in its directory's listing; > 0."""
    return (int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 2) + 16


def failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Unread(Exception):
    """Whether a directory is empty can only be said once its names have been read from home."""

    def __init__(self, directory: Inode) -> None:
        super().__init__(directory.ino)
        self.directory = directory


class Namespace:
    def __init__(self, store: Store, is_open: Callable[[int], bool], validity: Validity) -> None:
        self._store, self._is_open, self._validity = store, is_open, validity
        self.ghosts: dict[int, Inode] = {}  # removed, while the kernel may still ask for them
        self._asked: tuple[int, bytes, int] | None = None
        self._answer: tuple[int, int] | None = None
        self.kept: set[int] = set()  # in `.afm/unlinked` until their last close

    # -- questions -------------------------------------------------------------------------------

    def find(self, parent: int, name: bytes) -> Inode | None:
        """The inode at a name of a directory that has been read."""
        row = self._row(parent, name)
        return must(self._store.inode(row[1]), row[1]) if row else None

    def _row(self, parent: int, name: bytes) -> tuple[int, int] | None:
        """Cookie and inode of a name. Not inside a transaction.

        The kernel looks a name up just before it has it made: the answer still holds if no
        transaction came in between.
        """
        asked = (parent, name, self._store.commits)
        if asked == self._asked:
            return self._answer
        first = cookie(name)
        row: tuple[int, int] | None = self._store.execute(
            "SELECT cookie, ino FROM dentry WHERE parent=? AND cookie>=? AND cookie<? AND name=?",
            (parent, first, first + SLOTS, name),
        ).fetchone()
        self._asked, self._answer = asked, row
        return row

    def _is_empty(self, directory: Inode) -> bool:
        if directory.listed != LISTED:
            raise Unread(directory)
        return not self._store.execute(
            "SELECT 1 FROM dentry WHERE parent=? LIMIT 1", (directory.ino,)
        ).fetchone()

    def page(self, parent: int, after: int, limit: int) -> list[tuple[bytes, Inode, int]]:
        """Up to `limit` entries of a directory that follow the cookie `after`."""
        rows = self._store.rows(_PAGE, (parent, after, limit))
        return [(row[22], self._store.row_to_inode(row), row[21]) for row in rows]

    def places(self, ino: int) -> list[tuple[int, bytes]]:
        """All known names of an inode."""
        return self._store.rows("SELECT parent, name FROM dentry WHERE ino=?", (ino,))

    # -- rows of the directory tree, in the caller's transaction ---------------------------------

    def enter(self, parent: int, name: bytes, ino: int) -> None:
        """Put a name into a directory where it is not. EEXIST if it is there all the same."""
        first = cookie(name)
        for place in range(first, first + SLOTS):
            if self._store.execute(_ENTER, (parent, place, name, ino)).rowcount == 1:
                return
            there = self._store.execute(_AT, (parent, place)).fetchone()
            if there[0] == name:
                raise failed(errno.EEXIST)
        raise failed(errno.ENOSPC)  # nine names of one 62-bit hash in one directory

    def _leave(self, parent: int, row: tuple[int, int]) -> None:
        self._store.execute("DELETE FROM dentry WHERE parent=? AND cookie=?", (parent, row[0]))

    def _touch(self, directory: Inode, now: int, links: int = 0) -> None:
        if links:
            self._store.save(directory, mtime=now, ctime=now, nlink=directory.nlink + links)
        else:
            self._store.save(directory, mtime=now, ctime=now)

    # -- making ----------------------------------------------------------------------------------

    def make(
        self,
        parent: Inode,
        name: bytes,
        *,
        mode: int,
        uid: int,
        gid: int,
        rdev: int,
        target: bytes | None,
        inherit: Callable[[Inode, Inode], None] | None = None,
    ) -> Inode:
        """A new object. Group and, for a directory, setgid bit come from a setgid parent. With
        `inherit` it takes more from its directory, in the same transaction: it never is there
        without what narrows it."""
        if self._row(parent.ino, name):
            raise failed(errno.EEXIST)
        if not parent.nlink:
            raise failed(errno.ENOENT)
        is_dir, now = stat.S_ISDIR(mode), time.time_ns()
        if parent.mode & stat.S_ISGID:
            gid, mode = parent.gid, mode | (stat.S_ISGID if is_dir else 0)
        size = DIRECTORY_SIZE if is_dir else len(target or b"")
        with self._store as store:
            inode = Inode(
                store.inos.take(), mode, uid, gid, rdev, 2 if is_dir else 1, size, now, now, now,
                target=target, listed=LISTED,
            )  # fmt: skip
            inode.changed = store.append(Op.MAKE, inode, parent.ino, name)
            store.add(inode)
            self.enter(parent.ino, name, inode.ino)
            self._touch(parent, now, 1 if is_dir else 0)
            if inherit is not None:
                inherit(parent, inode)
        return inode

    def link(self, inode: Inode, parent: Inode, name: bytes) -> None:
        if inode.is_dir:
            raise failed(errno.EPERM)
        if self._row(parent.ino, name):
            raise failed(errno.EEXIST)
        if not inode.nlink or not parent.nlink:
            raise failed(errno.ENOENT)
        now = time.time_ns()
        with self._store as store:
            number = store.append(Op.LINK, inode, parent.ino, name)
            self.enter(parent.ino, name, inode.ino)
            store.save(inode, nlink=inode.nlink + 1, ctime=now, changed=number)
            self._touch(parent, now)

    # -- removing --------------------------------------------------------------------------------

    def remove(self, parent: Inode, name: bytes, *, directory: bool) -> None:
        """unlink(2) or rmdir(2). Unread if it is about a directory that was never looked into."""
        row = self._row(parent.ino, name)
        if row is None:
            raise failed(errno.ENOENT)
        inode = must(self._store.inode(row[1]), row[1])
        if directory and not inode.is_dir:
            raise failed(errno.ENOTDIR)
        if not directory and inode.is_dir:
            raise failed(errno.EISDIR)
        if directory and not self._is_empty(inode):
            raise failed(errno.ENOTEMPTY)
        now = time.time_ns()
        with self._store:
            self._leave(parent.ino, row)
            self._touch(parent, now, -1 if directory else 0)
            if not self._keep_unlinked(inode, parent.ino, name):
                last = inode.is_dir or inode.nlink == 1
                number = self._store.append(
                    Op.REMOVE, inode, parent.ino, name, flags=LAST if last else 0
                )
                self._lose_name(inode, now, number)

    def _keep_unlinked(self, inode: Inode, parent: int, name: bytes) -> bool:
        """A file that loses its last known name while open moves to home's `.afm/unlinked` until
        its last close if it is not whole, so that what is not cached stays within reach, or has
        more names at home than were read so far, so that what is written still gets there."""
        if not inode.is_file or not self._is_open(inode.ino):
            return False
        if inode.whole if inode.nlink == 1 else self.places(inode.ino):
            return False
        kept = b"%x" % inode.ino
        number = self._store.append(Op.RENAME, inode, parent, name, UNLINKED, kept)
        self.enter(UNLINKED, kept, inode.ino)
        self.kept.add(inode.ino)
        self._store.save(inode, nlink=inode.nlink - 1, ctime=time.time_ns(), changed=number)
        return True

    def _lose_name(self, inode: Inode, now: int, number: int) -> None:
        left = 0 if inode.is_dir else inode.nlink - 1
        if left or self._is_open(inode.ino):
            self._store.save(inode, nlink=left, ctime=now, changed=number)
        else:
            self._bury(inode, now)

    def _bury(self, inode: Inode, now: int) -> None:
        """The inode goes. A copy is kept a while: a removed directory may be somebody's own."""
        if inode.is_file:
            self._store.counters.cached_bytes -= self._validity.cached_blocks(inode)[1]
        self._store.delete(inode)
        inode.nlink, inode.ctime = 0, now
        self.ghosts[inode.ino] = inode
        if len(self.ghosts) > 4096:
            del self.ghosts[next(iter(self.ghosts))]

    def reap(self, inode: Inode) -> None:
        """The last close of an inode without a known name. Its name in `.afm/unlinked` goes."""
        name = b"%x" % inode.ino
        row = self._row(UNLINKED, name)
        self.kept.discard(inode.ino)
        with self._store as store:
            if row:
                self._leave(UNLINKED, row)
                last = 0 if inode.nlink else LAST
                number = store.append(Op.REMOVE, inode, UNLINKED, name, flags=last)
                store.save(inode, changed=number)
            if not inode.nlink:
                self._bury(inode, inode.ctime)

    # -- moving ----------------------------------------------------------------------------------

    def rename(self, parent: Inode, name: bytes, parent2: Inode, name2: bytes, flags: int) -> None:
        """renameat2(2). Unread if it would replace a directory that was never looked into."""
        row, row2 = self._row(parent.ino, name), self._row(parent2.ino, name2)
        if row is None or (flags == EXCHANGE and row2 is None):
            raise failed(errno.ENOENT)
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise failed(errno.EINVAL)
        if flags == NOREPLACE and row2:
            raise failed(errno.EEXIST)
        inode = must(self._store.inode(row[1]), row[1])
        other = must(self._store.inode(row2[1]), row2[1]) if row2 else None
        if other is inode:
            return  # two names of one file: POSIX leaves both
        if not parent2.nlink:
            raise failed(errno.ENOENT)
        if flags == EXCHANGE:
            assert row2 and other
            self._exchange((parent, name, row, inode), (parent2, name2, row2, other))
        else:
            if other is not None:
                self._check_replaceable(inode, other)
            self._move((parent, name, row, inode), (parent2, name2, row2, other))

    def _check_replaceable(self, inode: Inode, other: Inode) -> None:
        if other.is_dir and not inode.is_dir:
            raise failed(errno.EISDIR)
        if inode.is_dir and not other.is_dir:
            raise failed(errno.ENOTDIR)
        if other.is_dir and not self._is_empty(other):
            raise failed(errno.ENOTEMPTY)

    def _move(
        self,
        source: tuple[Inode, bytes, tuple[int, int], Inode],
        target: tuple[Inode, bytes, tuple[int, int] | None, Inode | None],
    ) -> None:
        (parent, name, row, inode), (parent2, name2, row2, other) = source, target
        now, step = time.time_ns(), 1 if inode.is_dir else 0
        with self._store as store:
            self._leave(parent.ino, row)
            kept = False
            if row2 and other:
                self._leave(parent2.ino, row2)
                kept = self._keep_unlinked(other, parent2.ino, name2)
            last = other is not None and not kept and (other.is_dir or other.nlink == 1)
            number = store.append(
                Op.RENAME, inode, parent.ino, name, parent2.ino, name2,
                ino2=other.ino if other and not kept else None, flags=LAST if last else 0,
            )  # fmt: skip
            self.enter(parent2.ino, name2, inode.ino)
            store.save(inode, ctime=now, changed=number)
            if other and not kept:
                self._lose_name(other, now, number)
            if parent is parent2:
                self._touch(parent, now, -step if other else 0)
            else:
                self._touch(parent, now, -step)
                self._touch(parent2, now, 0 if other else step)

    def _exchange(
        self,
        source: tuple[Inode, bytes, tuple[int, int], Inode],
        target: tuple[Inode, bytes, tuple[int, int], Inode],
    ) -> None:
        (parent, name, row, inode), (parent2, name2, row2, other) = source, target
        now, step = time.time_ns(), int(other.is_dir) - int(inode.is_dir)
        swap = "UPDATE dentry SET ino=? WHERE parent=? AND cookie=?"
        with self._store as store:
            number = store.append(
                Op.EXCHANGE, inode, parent.ino, name, parent2.ino, name2, ino2=other.ino
            )
            store.execute(swap, (other.ino, parent.ino, row[0]))
            store.execute(swap, (inode.ino, parent2.ino, row2[0]))
            store.save(inode, ctime=now, changed=number)
            store.save(other, ctime=now, changed=number)
            if parent is parent2:
                self._touch(parent, now)
            else:
                self._touch(parent, now, step)
                self._touch(parent2, now, -step)

    # -- attributes ------------------------------------------------------------------------------

    def set_attributes(self, inode: Inode, changes: dict[str, int]) -> None:
        """Mode, owner and times; queued unless no name is left. What was removed, and is held, has
        no row any more: it changes in memory."""
        if self.ghosts.get(inode.ino) is inode:
            for key, value in changes.items():
                setattr(inode, key, value)
            return
        with self._store as store:
            if inode.nlink:
                changes["changed"] = store.append(Op.ATTR, inode)
            store.save(inode, **changes)
