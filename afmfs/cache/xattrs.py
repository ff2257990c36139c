"""Extended attributes and ACLs, where the fileset has them enabled."""

from __future__ import annotations

import errno
import os
import time

from afmfs.cache.inode import Inode
from afmfs.cache.namespace import failed
from afmfs.cache.store import Store
from afmfs.model.entry import Op

MAX_VALUE = 65536
MAX_NAME = 255


class Xattrs:
    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, inode: Inode, name: bytes) -> bytes:
        """The value; ENODATA if there is none."""
        row = self._store.execute(
            "SELECT value FROM xattr WHERE ino=? AND name=?", (inode.ino, name)
        ).fetchone()
        if row is None:
            raise failed(errno.ENODATA)
        return bytes(row[0])

    def names(self, inode: Inode) -> list[bytes]:
        rows = self._store.execute("SELECT name FROM xattr WHERE ino=? ORDER BY name", (inode.ino,))
        return [bytes(name) for (name,) in rows]

    def set(self, inode: Inode, name: bytes, value: bytes, flags: int) -> None:
        """Set it, by the flags XATTR_CREATE and XATTR_REPLACE of setxattr(2)."""
        if len(name) > MAX_NAME:
            raise failed(errno.ERANGE)
        if len(value) > MAX_VALUE:
            raise failed(errno.E2BIG)
        there = name in self.names(inode)
        if flags & os.XATTR_CREATE and there:
            raise failed(errno.EEXIST)
        if flags & os.XATTR_REPLACE and not there:
            raise failed(errno.ENODATA)
        with self._store as store:
            store.execute("INSERT OR REPLACE INTO xattr VALUES (?,?,?)", (inode.ino, name, value))
            self._queue(inode, name)

    def remove(self, inode: Inode, name: bytes) -> None:
        self.get(inode, name)
        with self._store as store:
            store.execute("DELETE FROM xattr WHERE ino=? AND name=?", (inode.ino, name))
            self._queue(inode, name)

    def _queue(self, inode: Inode, name: bytes) -> None:
        number = inode.changed
        if inode.nlink:
            number = self._store.append(Op.XATTR, inode, name=name)
        self._store.save(inode, ctime=time.time_ns(), changed=number)
