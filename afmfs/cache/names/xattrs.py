"""Extended attributes and ACLs, where the fileset has them enabled."""

from __future__ import annotations

import errno
import os
import time

from afmfs.cache.names.namespace import failed
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.model import acl
from afmfs.model.entry import Op

MAX_VALUE = 65536
MAX_NAME = 255


class Xattrs:
    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, inode: Inode, name: bytes) -> bytes:
        """The value; ENODATA if there is none."""
        value = self._value(inode, name)
        if value is None:
            raise failed(errno.ENODATA)
        return value

    def _value(self, inode: Inode, name: bytes) -> bytes | None:
        row = self._store.execute(
            "SELECT value FROM xattr WHERE ino=? AND name=?", (inode.ino, name)
        ).fetchone()
        return bytes(row[0]) if row else None

    def names(self, inode: Inode) -> list[bytes]:
        rows = self._store.rows("SELECT name FROM xattr WHERE ino=? ORDER BY name", (inode.ino,))
        return [bytes(name) for (name,) in rows]

    def set(self, inode: Inode, name: bytes, value: bytes, flags: int) -> None:
        """Set it, by the flags XATTR_CREATE and XATTR_REPLACE of setxattr(2)."""
        if len(name) > MAX_NAME:
            raise failed(errno.ERANGE)
        if len(value) > MAX_VALUE:
            raise failed(errno.E2BIG)
        there = self._value(inode, name) is not None
        if flags & os.XATTR_CREATE and there:
            raise failed(errno.EEXIST)
        if flags & os.XATTR_REPLACE and not there:
            raise failed(errno.ENODATA)
        with self._store:
            if name in (acl.ACCESS, acl.DEFAULT):
                self._set_acl(inode, name, value)
            else:
                self._put(inode, name, value)

    def remove(self, inode: Inode, name: bytes) -> None:
        self.get(inode, name)
        with self._store:
            self._put(inode, name, None)

    # -- access control lists, in the caller's transaction ---------------------------------------

    def _set_acl(self, inode: Inode, name: bytes, value: bytes) -> None:
        """The access list sets the mode; one that says no more than the mode is not kept."""
        try:
            entries = acl.load(value)
        except ValueError:
            raise failed(errno.EINVAL) from None
        if name == acl.DEFAULT:
            if not inode.is_dir:
                raise failed(errno.EACCES)
            self._put(inode, name, value)
            return
        mode = acl.mode_of(entries, inode.mode)
        if mode != inode.mode:
            number = self._store.append(Op.ATTR, inode) if inode.nlink else inode.changed
            self._store.save(inode, mode=mode, changed=number)
        if not acl.is_minimal(entries):
            self._put(inode, name, value)
        elif self._value(inode, name) is not None:
            self._put(inode, name, None)

    def mode_changed(self, inode: Inode) -> None:
        """After chmod: the list follows."""
        value = self._value(inode, acl.ACCESS)
        if value is not None:
            with self._store:
                entries = acl.with_mode(acl.load(value), inode.mode)
                self._put(inode, acl.ACCESS, acl.dump(entries))

    def inherit(self, directory: Inode, inode: Inode) -> None:
        """A new object takes what its directory's default list gives. In the transaction that makes
        it."""
        value = self._value(directory, acl.DEFAULT)
        if value is None or inode.target is not None:
            return
        entries, mode = acl.inherited(acl.load(value), inode.mode)
        store = self._store
        if mode != inode.mode:
            store.save(inode, mode=mode, changed=store.append(Op.ATTR, inode))
        if not acl.is_minimal(entries):
            self._put(inode, acl.ACCESS, acl.dump(entries))
        if inode.is_dir:
            self._put(inode, acl.DEFAULT, value)

    def _put(self, inode: Inode, name: bytes, value: bytes | None) -> None:
        store, number = self._store, inode.changed
        if value is None:
            store.execute("DELETE FROM xattr WHERE ino=? AND name=?", (inode.ino, name))
        else:
            store.execute("INSERT OR REPLACE INTO xattr VALUES (?,?,?)", (inode.ino, name, value))
        if inode.nlink:
            number = store.append(Op.XATTR, inode, name=name)
        store.save(inode, ctime=time.time_ns(), changed=number)
