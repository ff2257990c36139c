"""Reading directories from home: once each, in steps, when they are first looked into.

Until a directory is complete nobody sees into it, so what a crash left of a half-read one can be
thrown away and read again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import trio

from afmfs.cache.home.link import GatewayLink
from afmfs.cache.names.namespace import Namespace, failed
from afmfs.cache.store.inode import LISTED, READING, UNREAD, Inode
from afmfs.cache.store.store import Store
from afmfs.gateway.protocol import close_all
from afmfs.model.paths import is_name

ROW = 4096
"""What one entry adds to the log, about, at most."""

STEP = 256
"""Entries that enter in one transaction; other requests are answered between two."""

SLICE = 64 << 10
"""Bytes of a listing that are unpacked at once."""


class Lister:
    def __init__(self, store: Store, namespace: Namespace, link: GatewayLink) -> None:
        self._store, self._namespace, self._link = store, namespace, link
        self._under_way: dict[int, trio.Event] = {}
        self.asked: Callable[[], None] = lambda: None  # called when home is asked

    async def ensure(self, directory: Inode) -> None:
        """The directory's names are here when this returns. EIO if home can't be asked."""
        while directory.listed != LISTED:
            if self._store.lost_by(directory.ino) is not None:
                raise failed(errno.EIO)  # home has lost it before it was read
            event = self._under_way.get(directory.ino)
            if event is not None:
                await event.wait()
                continue
            event = self._under_way[directory.ino] = trio.Event()
            try:
                await self._read(directory)
            finally:
                del self._under_way[directory.ino]
                event.set()

    async def settled(self, directory: int) -> None:
        """Nobody is reading the directory when this returns."""
        while (event := self._under_way.get(directory)) is not None:
            await event.wait()

    async def _read(self, directory: Inode) -> None:
        self.asked()
        reply, fds = await self._link.request("list", ino=directory.ino)
        try:
            if reply["errno"]:
                raise failed(reply["errno"])
            await self._enter_all(directory, reply["count"], fds)
        except BaseException:
            self.discard(directory)
            raise
        finally:
            close_all(fds)

    async def _enter_all(self, directory: Inode, count: int, fds: list[int]) -> None:
        with self._store as store:
            store.save(directory, listed=READING)
        subdirectories = 0
        for step in steps(fds[0]) if count else ():
            self._store.disk.enter(size=ROW * len(step))
            with self._store:
                for row in step:
                    subdirectories += self.enter(directory, row)
            await trio.lowlevel.checkpoint()
        with self._store as store:
            store.save(directory, listed=LISTED, nlink=2 + subdirectories)

    def enter(self, directory: Inode, row: list[Any]) -> bool:
        """One entry of home, in the caller's transaction; whether it is a directory."""
        name, mode, uid, gid, size, atime, mtime, ctime, home_ino, nlink, rdev, target, xattrs = row
        if not is_name(name):
            raise failed(errno.EIO)  # no home has it
        is_dir, is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
        stamp = (size, mtime, home_ino)
        linked = self._linked(stamp) if home_ino and nlink > 1 and not is_dir else None
        made = linked is None
        if linked is None:
            linked = self._store.add(
                Inode(
                    self._store.inos.take(), mode, uid, gid, rdev, nlink if home_ino else 1, size,
                    atime, mtime, ctime,
                    whole=not (is_file and size), home_valid=size if is_file else 0,
                    listed=UNREAD if is_dir else LISTED,
                    home_size=size, home_mtime=mtime, home_ino=home_ino, target=target,
                )
            )  # fmt: skip
            if home_ino and nlink > 1 and not is_dir:
                self._store.execute(
                    "INSERT OR REPLACE INTO homelink VALUES (?,?)", (home_ino, linked.ino)
                )
            for key, value in xattrs or ():
                self._store.execute("INSERT INTO xattr VALUES (?,?,?)", (linked.ino, key, value))
        try:
            self._namespace.enter(directory.ino, name, linked.ino)
        except FileExistsError:
            # Home has told of it twice, as somebody moved it over the one that was read before.
            if made:
                self._store.delete(linked)
            return False
        return is_dir

    def _linked(self, stamp: tuple[int, int, int]) -> Inode | None:
        """The inode of another name of the same file at home. A number alone is no proof: home may
        have given it to another file since; but the version is another one while what was pushed is
        not taken in yet."""
        row = self._store.execute(
            "SELECT ino FROM homelink WHERE home_ino=?", (stamp[2],)
        ).fetchone()
        inode = self._store.inode(row[0]) if row else None
        if inode is None or inode.home_ino != stamp[2]:
            return None
        is_known = (inode.home_size, inode.home_mtime) == stamp[:2]
        return inode if is_known or self._store.pending([inode]) else None

    def discard(self, directory: Inode) -> None:
        """Throw away what was entered of a directory that is not complete."""
        discard(self._store, directory)


def discard(store: Store, directory: Inode) -> None:
    """Forget the names of a directory that was being read; nobody has seen them."""
    rows = store.execute("SELECT ino FROM dentry WHERE parent=?", (directory.ino,)).fetchall()
    with store:
        store.execute("DELETE FROM dentry WHERE parent=?", (directory.ino,))
        for (ino,) in rows:
            inode = store.inode(ino)
            if inode and not store.execute("SELECT 1 FROM dentry WHERE ino=?", (ino,)).fetchone():
                store.delete(inode)
        store.save(directory, listed=UNREAD)


def steps(fd: int) -> Iterator[list[Any]]:
    """The entries in a memory file that holds one msgpack list after the other."""
    step: list[Any] = []
    for row in _rows(fd):
        step.append(row)
        if len(step) == STEP:
            yield step
            step = []
    yield step


def _rows(fd: int) -> Iterator[list[Any]]:
    """One by one, and of the file no more at once than a slice: that of a directory of millions of
    entries has hundreds of megabytes."""
    unpacker, offset = msgpack.Unpacker(raw=False, max_buffer_size=0), 0
    while data := os.pread(fd, SLICE, offset):
        unpacker.feed(data)
        yield from unpacker  # what is cut off waits there for the next slice
        offset += len(data)
