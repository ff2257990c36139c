"""A home in memory: nodes by handle, names by directory, and a log of what was done.

The unit of data is a byte with a small integer in it, new for every write, so a stale or foreign
byte is recognised at sight. A crash keeps any part of the log, each primitive operation whole; one
whose precondition is missing is void.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from afmfs.model.entry import ROOT, UNLINKED

FILE, DIR, SYMLINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
HIDDEN, BESIDE = 3, 4  # home's directories that the cache has never read; where replacements grow


@dataclass
class Inode:
    kind: int
    hidden: int = 0  # names at home that the cache does not know
    data: list[int] = field(default_factory=list)
    attr: int = 0
    xattrs: dict[bytes, int] = field(default_factory=dict)


@dataclass
class Node(Inode):
    tag: int = 0  # the cache's number of what this is
    names: dict[bytes, int] = field(default_factory=dict)  # of a directory: handles


class Void(Exception):
    """A primitive operation of home whose precondition does not hold."""


class Home:
    """Nodes by handle. The handles of the first four are their numbers."""

    def __init__(self) -> None:
        self.nodes = {h: Node(DIR, tag=h) for h in (ROOT, UNLINKED, HIDDEN, BESIDE)}
        self.next = 100
        self.log: list[tuple[str, tuple[object, ...]]] = []

    def snapshot(self) -> dict[int, Node]:
        fresh: dict[int, Node] = {}
        for h, n in self.nodes.items():
            data, xattrs, names = list(n.data), dict(n.xattrs), dict(n.names)
            fresh[h] = Node(n.kind, 0, data, n.attr, xattrs, n.tag, names)
        return fresh

    def do(self, op: str, *args: object) -> None:
        self.log.append((op, args))
        getattr(self, "_" + op)(*args)

    def replay(self, log: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        for op, args in log:
            try:
                getattr(self, "_" + op)(*args)
            except Void:
                pass

    def names(self, h: int) -> dict[bytes, int]:
        if h not in self.nodes or self.nodes[h].kind != DIR:
            raise Void
        return self.nodes[h].names

    def new(self) -> int:
        self.next += 1
        return self.next

    def _create(self, h: int, kind: int, tag: int, d: int, name: bytes) -> None:
        self._put(d, name, h, new=True)
        self.nodes[h] = Node(kind, tag=tag)

    def _link(self, h: int, d: int, name: bytes) -> None:
        self._put(d, name, h)

    def _put(self, d: int, name: bytes, h: int, *, new: bool = False) -> None:
        if name in self.names(d) or (h not in self.nodes and not new):
            raise Void
        self.names(d)[name] = h

    def _unlink(self, d: int, name: bytes) -> None:
        if name not in self.names(d) or self.nodes[self.names(d)[name]].names:
            raise Void
        del self.names(d)[name]

    def _rename(self, d: int, name: bytes, d2: int, name2: bytes) -> None:
        if name not in self.names(d):
            raise Void
        h, over = self.names(d)[name], self.names(d2).get(name2)
        if h == over:
            return  # two names of one inode: rename(2) does nothing
        if self._below(h, d2) or (over is not None and self.nodes[over].names):
            raise Void
        del self.names(d)[name]
        self.names(d2)[name2] = h

    def _exchange(self, d: int, name: bytes, d2: int, name2: bytes) -> None:
        if name not in self.names(d) or name2 not in self.names(d2):
            raise Void
        one, two = self.names(d)[name], self.names(d2)[name2]
        if self._below(one, d2) or self._below(two, d):
            raise Void
        self.names(d)[name], self.names(d2)[name2] = two, one

    def _below(self, top: int, h: int) -> bool:
        return top == h or any(self._below(x, h) for x in self.nodes[top].names.values())

    def _size(self, h: int, size: int) -> None:
        node = self._node(h)
        node.data = (node.data + [0] * size)[:size]

    def _bytes(self, h: int, start: int, data: list[int]) -> None:
        node = self._node(h)
        size = max(len(node.data), start + len(data))
        node.data = (node.data + [0] * size)[:size]
        node.data[start : start + len(data)] = data

    def _attr(self, h: int, attr: int) -> None:
        self._node(h).attr = attr

    def _xattr(self, h: int, name: bytes, value: int) -> None:
        self._node(h).xattrs[name] = value

    def _node(self, h: int) -> Node:
        if h not in self.nodes:
            raise Void
        return self.nodes[h]
