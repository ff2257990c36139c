"""Between the engine's rows and pyfuse3's structures. On the path of nearly every request."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import pyfuse3
from pyfuse3 import EntryAttributes, InodeT, ModeT, SetattrFields, StatvfsData

from afmfs.cache.store.inode import Inode
from afmfs.model import times

if TYPE_CHECKING:
    from afmfs.cache.fileset import Statfs

FOREVER = 1e6
"""s that the kernel may answer from its own cache. Nobody else writes; what changes behind the
kernel's back (a version adopted from home) is invalidated one by one."""

PREFERRED_IO = 128 << 10
"""st_blksize, bytes: what buffered programs gather before they write. Python's do so three times as
fast as with 4 KiB; the C library's stdio does not care."""


class Changes(TypedDict, total=False):
    """Keyword arguments of the engine's setattr. Times in ns."""

    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int


def entry_of(row: Inode) -> EntryAttributes:
    """What the kernel keeps of an inode and of the name under which it was found."""
    entry = EntryAttributes()
    size = row.size
    entry.st_ino = InodeT(row.ino)
    entry.st_mode = ModeT(row.mode)
    entry.st_nlink = row.nlink
    entry.st_uid = row.uid
    entry.st_gid = row.gid
    entry.st_rdev = row.rdev
    entry.st_size = size
    entry.st_blocks = (size + 511) >> 9
    entry.st_blksize = PREFERRED_IO
    entry.st_atime_ns = row.atime
    entry.st_mtime_ns = row.mtime
    entry.st_ctime_ns = row.ctime
    entry.entry_timeout = FOREVER
    entry.attr_timeout = FOREVER
    return entry


def _no_entry() -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = FOREVER
    return entry


NO_ENTRY = _no_entry()
"""A name that does not exist, which the kernel may remember: inode number 0."""


def changes_of(attr: EntryAttributes, fields: SetattrFields) -> Changes:
    """What a SETATTR request asks for. Permission bits only: the type never changes."""
    changes: Changes = {}
    if fields.update_mode:
        changes["mode"] = attr.st_mode & 0o7777
    if fields.update_uid:
        changes["uid"] = attr.st_uid
    if fields.update_gid:
        changes["gid"] = attr.st_gid
    if fields.update_size:
        changes["size"] = attr.st_size
    if fields.update_atime:
        changes["atime"] = times.held(attr.st_atime_ns)
    if fields.update_mtime:
        changes["mtime"] = times.held(attr.st_mtime_ns)
    if fields.update_ctime:
        changes["ctime"] = times.held(attr.st_ctime_ns)
    return changes


def space_of(figures: Statfs) -> StatvfsData:
    space = pyfuse3.StatvfsData()
    space.f_bsize = space.f_frsize = figures.bsize  # df misreads what differs
    space.f_blocks = figures.blocks
    space.f_bfree = figures.bfree
    space.f_bavail = figures.bavail
    space.f_files = figures.files
    space.f_ffree = figures.ffree
    space.f_favail = figures.favail
    space.f_namemax = figures.namemax
    return space
