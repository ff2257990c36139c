"""The row of an inode as the mount process holds it in memory.

The mount process is the only writer, so an object in memory is the truth as long as it agrees with
the last committed transaction; a transaction that fails drops its objects (see `Store`).
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import NamedTuple

UNREAD, READING, LISTED = 0, 1, 2
"""Whether a directory's names have been read from home (`Inode.listed`)."""


class Stamp(NamedTuple):
    """A version of a file as home returned it after our last own operation on it."""

    size: int  # bytes
    mtime: int  # ns, as precise as home keeps it
    ino: int | None  # home's inode number, None where home does not keep them stable


@dataclass(slots=True, weakref_slot=True, eq=False)
class Inode:
    """One object of the fileset. Times are ns since the epoch, sizes bytes."""

    ino: int
    mode: int  # type and permission bits
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    atime: int
    mtime: int
    ctime: int
    gen: int = 0  # generation of its blob, 0: none yet
    whole: bool = True  # every byte below size is valid here
    home_valid: int = 0  # nothing at or beyond is ever fetched
    listed: int = LISTED
    home_size: int | None = None
    home_mtime: int | None = None
    home_ino: int | None = None
    changed: int = 0  # its last queue entry
    retired: int = 0  # its last retired queue entry
    synced: int = 0  # last entry that an fsync of this file made durable
    target: bytes | None = None  # of a symbolic link; UNTOLD where home does not say

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)
