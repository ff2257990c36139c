"""The inodes that are in memory: one object for each, and the row behind it.

The object is the truth as long as it agrees with the last committed transaction. What an open one
has changed of it is remembered until the end, and undone if that is a bad one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from afmfs.cache.store.counters import Counters
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.schema import INODE_COLUMNS

IN_MEMORY = 100_000

_INSERT = f"INSERT INTO inode ({INODE_COLUMNS}) VALUES ({','.join('?' * 21)})"
_SELECT = f"SELECT {INODE_COLUMNS} FROM inode WHERE ino = ?"


class Inodes:
    """The half of the store that holds inodes. Changes are made in the caller's transaction."""

    counters: Counters

    def __init__(self) -> None:
        self._strong: dict[int, Inode] = {}
        self._inodes: WeakValueDictionary[int, Inode] = WeakValueDictionary()
        self._undo: list[tuple[Inode, dict[str, Any]]] = []
        self._updates: dict[tuple[str, ...], str] = {}

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement (the store's own)."""
        raise NotImplementedError

    def undo(self) -> None:
        """The transaction has failed: memory goes back to what is committed."""
        for inode, before in reversed(self._undo):
            for key, value in before.items():
                setattr(inode, key, value)
            if not before:  # it was new, or removed: only the table knows
                self.drop(inode.ino)
        self._undo.clear()

    def inode(self, ino: int) -> Inode | None:
        """The inode, or None. The same object for as long as anybody holds it."""
        found = self._inodes.get(ino)
        if found is None:
            row = self.execute(_SELECT, (ino,)).fetchone()
            if row is None:
                return None
            found = self.remember(Inode(*row))
        return found

    def in_memory(self, ino: int) -> Inode | None:
        """The inode if it is in memory."""
        return self._inodes.get(ino)

    def remember(self, inode: Inode) -> Inode:
        if len(self._strong) >= IN_MEMORY:
            for ino in list(self._strong)[: IN_MEMORY // 2]:
                del self._strong[ino]
        self._strong[inode.ino] = self._inodes[inode.ino] = inode
        return inode

    def row_to_inode(self, row: tuple[Any, ...]) -> Inode:
        """The inode of a row that begins with INODE_COLUMNS; memory wins over the row."""
        found = self._inodes.get(row[0])
        return found if found is not None else self.remember(Inode(*row[:21]))

    def drop(self, ino: int) -> None:
        """Forget the object in memory."""
        self._strong.pop(ino, None)
        self._inodes.pop(ino, None)

    def add(self, inode: Inode) -> Inode:
        i = inode
        self.execute(
            _INSERT,
            (
                i.ino, i.mode, i.uid, i.gid, i.rdev, i.nlink, i.size, i.atime, i.mtime, i.ctime,
                i.gen, i.whole, i.home_valid, i.listed, i.home_size, i.home_mtime, i.home_ino,
                i.changed, i.retired, i.synced, i.target,
            ),
        )  # fmt: skip
        self.counters.inodes += 1
        self._undo.append((inode, {}))
        return self.remember(inode)

    def save(self, inode: Inode, **changes: Any) -> None:
        """Change fields of the inode, in the table and in memory."""
        keys = tuple(changes)
        sql = self._updates.get(keys)
        if sql is None:
            columns = ",".join(f"{key}=?" for key in keys)
            sql = self._updates[keys] = f"UPDATE inode SET {columns} WHERE ino=?"
        self._undo.append((inode, {key: getattr(inode, key) for key in keys}))
        self.execute(sql, (*changes.values(), inode.ino))
        for key, value in changes.items():
            setattr(inode, key, value)

    def delete(self, inode: Inode) -> None:
        """Remove the inode and all that hangs on it; its blob goes to reclaim."""
        self._undo.append((inode, {}))
        self.execute("DELETE FROM inode WHERE ino=?", (inode.ino,))
        if inode.gen:
            self.reclaim(inode, 0)
        if inode.home_valid or not inode.whole:
            for table in ("blockmap", "span", "fresh"):
                self.execute(f"DELETE FROM {table} WHERE ino=?", (inode.ino,))
        if inode.is_file:
            self.execute("DELETE FROM used WHERE ino=?", (inode.ino,))
        self.execute("DELETE FROM xattr WHERE ino=?", (inode.ino,))
        if inode.home_ino is not None:
            self.execute("DELETE FROM homelink WHERE home_ino=?", (inode.home_ino,))
        self.counters.inodes -= 1
        self.drop(inode.ino)

    def reclaim(self, inode: Inode, start: int) -> None:
        """Queue the blob's bytes at and beyond `start` for destruction (destroy-waits)."""
        self.execute(
            "INSERT INTO reclaim VALUES (?,?,?)"
            " ON CONFLICT DO UPDATE SET start=min(start, excluded.start)",
            (inode.ino, inode.gen, start),
        )
