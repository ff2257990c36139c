"""What to do with an inode that no name leads to."""

from __future__ import annotations

import stat
import time

from afmfs.cache.check.owed import home_is_unsure
from afmfs.cache.names.namespace import Namespace
from afmfs.cache.store.inode import LISTED, Inode
from afmfs.cache.store.store import Store
from afmfs.errors import Damaged
from afmfs.model.entry import ROOT, Op

NAME = b"lost+found"
"""In the fileset's root."""


class Adoption:
    """In the caller's transaction."""

    def __init__(self, store: Store, namespace: Namespace) -> None:
        self._store, self._namespace = store, namespace

    def number(self) -> int:
        """One of an entry that there never was: what has it counts as changed."""
        return self._store.entries.take()

    def drop_if_clean(self, inode: Inode) -> bool:
        """Forget an inode, and what is below it, if home has all of it."""
        tree = self._tree(inode)
        if tree is None or any(self._is_only_here(one) for one in tree):
            return False
        for one in tree:
            self._store.execute("DELETE FROM dentry WHERE parent=?", (one.ino,))
            self._store.delete(one)
        return True

    def _tree(self, top: Inode) -> list[Inode] | None:
        """The inode and all below it; None if some of that has names elsewhere."""
        found, todo, seen = [top], [top], {top.ino}
        while todo:
            directory = todo.pop()
            if not directory.is_dir:
                continue
            for (ino,) in self._store.execute(
                "SELECT ino FROM dentry WHERE parent=?", (directory.ino,)
            ).fetchall():
                inode = self._store.inode(ino)
                if inode is None or ino in seen:
                    continue
                seen.add(ino)
                (names,) = self._store.execute(
                    "SELECT count(*) FROM dentry WHERE ino=?", (ino,)
                ).fetchone()
                if names > 1:
                    return None
                found.append(inode)
                todo.append(inode)
        return found

    def _is_only_here(self, inode: Inode) -> bool:
        row = self._store.execute(
            "SELECT 1 FROM unrepresentable WHERE ino=?", (inode.ino,)
        ).fetchone()
        queued = self._store.execute(
            "SELECT 1 FROM queue WHERE ino=?1 OR ino2=?1", (inode.ino,)
        ).fetchone()
        unknown = inode.is_file and not inode.home_mtime  # 0 stands for one that nobody knows
        pending = queued is not None or bool(self._store.pending([inode]))
        return unknown or row is not None or pending or self._is_unsure(inode)

    def _is_unsure(self, inode: Inode) -> bool:
        """Whether home is yet to be given what there is of it here."""
        if not home_is_unsure(self._store.get):
            return False
        if not inode.is_file or inode.whole:
            return True
        return any(
            self._store.execute(f"SELECT 1 FROM {table} WHERE ino=?", (inode.ino,)).fetchone()
            for table in ("blockmap", "span")
        )

    def is_possible(self) -> bool:
        """Whether a directory can be made in the root: not if that was never read."""
        root = self._store.inode(ROOT)
        return root is not None and root.listed == LISTED

    def adopt(self, inode: Inode) -> None:
        """A name for it in lost+found; it counts as changed, so that home hears of it."""
        directory = self._directory()
        name = b"#%d" % inode.ino
        if self._row(directory.ino, name) is None:
            self._namespace.enter(directory.ino, name, inode.ino)
        links = inode.nlink if inode.is_dir else max(1, inode.nlink)
        self._store.save(inode, changed=self.number(), nlink=links)
        if inode.is_dir:
            self._store.save(directory, nlink=directory.nlink + 1)

    def _row(self, parent: int, name: bytes) -> int | None:
        row = self._store.execute(
            "SELECT ino FROM dentry WHERE parent=? AND name=?", (parent, name)
        ).fetchone()
        return None if row is None else int(row[0])

    def _directory(self) -> Inode:
        root = self._store.inode(ROOT)
        if root is None or root.listed != LISTED:
            raise Damaged("the root was never read, so that nothing can be put into it")
        ino = self._row(ROOT, NAME)
        found = None if ino is None else self._store.inode(ino)
        if found is not None and found.is_dir and found.listed == LISTED:
            return found
        name, number = NAME, 1
        while self._row(ROOT, name) is not None:
            number += 1
            name = NAME + b".%d" % number
        return self._make(root, name)

    def _make(self, root: Inode, name: bytes) -> Inode:
        store, now = self._store, time.time_ns()
        inode = Inode(
            store.inos.take(), stat.S_IFDIR | 0o700, root.uid, root.gid, 0, 2, 4096, now, now, now,
            listed=LISTED,
        )  # fmt: skip
        inode.changed = store.append(Op.MAKE, inode, ROOT, name)
        store.add(inode)
        self._namespace.enter(ROOT, name, inode.ino)
        store.save(root, mtime=now, ctime=now, nlink=root.nlink + 1)
        return inode
