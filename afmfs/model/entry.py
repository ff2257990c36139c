"""Queue entries: one immutable row for each change that home has yet to see.

An entry speaks of inode numbers and names, never of paths: the rename of a directory is one row,
and what is pending below it needs no rewriting. Data entries name byte ranges, not bytes: a push
reads what the cache holds when it runs, and a later entry always follows a later change.
"""

from __future__ import annotations

import stat
from enum import IntEnum
from typing import NamedTuple

ROOT = 1
"""Inode number of the fileset's root."""

UNLINKED = 2
"""Pseudo directory, home's ``.afm/unlinked``: what was removed here while open and not whole."""

FIRST_INO = 16
"""Inode numbers below are reserved."""


UNTOLD = b""
"""Target of a symbolic link of which home does not tell where it leads. No link has it."""


class Op(IntEnum):
    MAKE = 1  # ino is a new object of `kind` at (parent, name); its content follows as WRITEs
    LINK = 2  # (parent, name) is one more name of ino
    REMOVE = 3  # (parent, name), a name of ino, is gone (rmdir where kind is a directory)
    RENAME = 4  # ino moves from (parent, name) to (parent2, name2), replacing ino2 if that is set
    EXCHANGE = 5  # ino at (parent, name) and ino2 at (parent2, name2) swap places
    WRITE = 6  # bytes [start, end) of ino changed
    SIZE = 7  # the size of ino was set to `end`
    ATTR = 8  # mode, owner or times of ino changed
    XATTR = 9  # extended attribute `name` of ino was set or removed


DATA_OPS = frozenset({Op.WRITE, Op.SIZE, Op.ATTR, Op.XATTR})
"""Entries that change an inode and no name."""

CONTENT_OPS = frozenset({Op.MAKE, Op.WRITE, Op.SIZE})
"""Entries that may change a file's bytes at home, and so its version stamp."""

IN_PLACE = 1
"""Flag of WRITE: overwrites bytes that were valid in the blob."""

LAST = 2
"""Flag of REMOVE and RENAME: the name that goes was the last one of the inode that loses it
(`ino` of a REMOVE, `ino2` of a RENAME)."""


class Entry(NamedTuple):
    """One row of the queue. Offsets and sizes are bytes, `queued_ns` is wall clock."""

    id: int
    op: Op
    ino: int
    kind: int = stat.S_IFREG  # S_IFMT bits of ino
    parent: int | None = None
    name: bytes | None = None
    parent2: int | None = None
    name2: bytes | None = None
    ino2: int | None = None
    start: int = 0
    end: int = 0
    flags: int = 0
    queued_ns: int = 0

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR


_NAMES = {
    Op.LINK: "Link",
    Op.RENAME: "Rename",
    Op.EXCHANGE: "Exchange",
    Op.WRITE: "Write",
    Op.SIZE: "Truncate",
    Op.ATTR: "Setattr",
    Op.XATTR: "Setxattr",
}
_MAKES = {stat.S_IFREG: "Create", stat.S_IFDIR: "Mkdir", stat.S_IFLNK: "Symlink"}


def describe(op: Op, kind: int) -> str:
    """AFM's name of an operation, as listings print it."""
    if op is Op.MAKE:
        return _MAKES.get(kind, "Mknod")
    if op is Op.REMOVE:
        return "Rmdir" if kind == stat.S_IFDIR else "Remove"
    return _NAMES[op]
