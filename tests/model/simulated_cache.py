"""What applications see of a small tree, and the queue entries of what they do to it."""

from __future__ import annotations

from simulated_home import DIR, FILE, SYMLINK, Inode

from afmfs.model.action import Place
from afmfs.model.entry import LAST, ROOT, UNLINKED, Entry, Op

NAMES = (b"a", b"b", b"c")
MAX_SIZE = 6


class Cache:
    """What applications see, and the queue of what they did. Operations pick what they can do by
    three small numbers; one that is not possible does nothing."""

    def __init__(self) -> None:
        self.inodes = {ROOT: Inode(DIR), UNLINKED: Inode(DIR)}
        self.names: dict[Place, int] = {}
        self.queue: list[Entry] = []
        self.clock = 0

    def places(self, ino: int) -> list[Place]:
        return [p for p, i in self.names.items() if i == ino]

    def alive(self, ino: int) -> bool:
        return ino in self.inodes and (bool(self.inodes[ino].hidden) or bool(self.places(ino)))

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def _queue(self, op: Op, ino: int, **fields: object) -> None:
        kind = self.inodes[ino].kind
        self.queue.append(Entry(self.tick(), op, ino, kind, **fields))  # type: ignore[arg-type]

    def _taken(self) -> list[Place]:
        return sorted(p for p in self.names if p[0] != UNLINKED)

    def _free(self) -> list[Place]:
        dirs = sorted(i for i, x in self.inodes.items() if x.kind == DIR and i != UNLINKED)
        return [(d, n) for d in dirs for n in NAMES if (d, n) not in self.names]

    def _flags(self, ino: int) -> int:
        """Of an entry that takes a name: is it the last?"""
        return 0 if self.alive(ino) else LAST

    def _below(self, top: int, d: int) -> bool:
        while d not in (top, ROOT):
            ((d, _),) = self.places(d)
        return d == top

    # --- operations -------------------------------------------------------------------------------

    def make(self, x: int, y: int, z: int) -> None:
        if not (free := self._free()):
            return
        parent, name = free[x % len(free)]
        ino = 16 + self.tick()
        self.inodes[ino] = Inode((FILE, FILE, FILE, DIR, SYMLINK)[y % 5])
        self.names[parent, name] = ino
        self._queue(Op.MAKE, ino, parent=parent, name=name)

    def link(self, x: int, y: int, z: int) -> None:
        files = [p for p in self._taken() if self.inodes[self.names[p]].kind != DIR]
        if not files or not (free := self._free()):
            return
        ino, (parent, name) = self.names[files[x % len(files)]], free[y % len(free)]
        self.names[parent, name] = ino
        self._queue(Op.LINK, ino, parent=parent, name=name)

    def remove(self, x: int, y: int, z: int) -> None:
        parents = {p for p, _ in self.names}
        gone = [p for p in sorted(self.names) if self.names[p] not in parents]
        if not gone:
            return
        parent, name = place = gone[x % len(gone)]
        ino = self.names.pop(place)
        self._queue(Op.REMOVE, ino, parent=parent, name=name, flags=self._flags(ino))
        if self.inodes[ino].kind == DIR:
            del self.inodes[ino]

    def remove_open(self, x: int, y: int, z: int) -> None:
        files = [p for p in self._taken() if self.inodes[self.names[p]].kind == FILE]
        files = [p for p in files if len(self.places(self.names[p])) == 1]
        if files:
            place = files[x % len(files)]
            self._move(place, (UNLINKED, b"%x" % self.names[place]))

    def rename(self, x: int, y: int, z: int) -> None:
        if not (taken := self._taken()):
            return
        place = taken[x % len(taken)]
        ino = self.names[place]
        targets = sorted(p for p in self._free() + taken if self._may_move(ino, p))
        if targets:
            self._move(place, targets[y % len(targets)])

    def _may_move(self, ino: int, target: Place) -> bool:
        over, is_dir = self.names.get(target), self.inodes[ino].kind == DIR
        if over == ino or (is_dir and self._below(ino, target[0])):
            return False
        if over is None:
            return True
        return is_dir == (self.inodes[over].kind == DIR) and over not in {p for p, _ in self.names}

    def _move(self, place: Place, target: Place) -> None:
        over = self.names.pop(target, None)
        ino = self.names.pop(place)
        self.names[target] = ino
        flags = 0 if over is None else self._flags(over)
        (parent, name), (parent2, name2) = place, target
        moved = {"parent": parent, "name": name, "parent2": parent2, "name2": name2}
        self._queue(Op.RENAME, ino, **moved, ino2=over, flags=flags)
        if over is not None and self.inodes[over].kind == DIR:
            del self.inodes[over]

    def exchange(self, x: int, y: int, z: int) -> None:
        if not (taken := self._taken()):
            return
        one, two = taken[x % len(taken)], taken[y % len(taken)]
        ino, ino2 = self.names[one], self.names[two]
        for i, p in ((ino, two), (ino2, one)):
            if ino == ino2 or (self.inodes[i].kind == DIR and self._below(i, p[0])):
                return
        self.names[one], self.names[two] = ino2, ino
        (parent, name), (parent2, name2) = one, two
        moved = {"parent": parent, "name": name, "parent2": parent2, "name2": name2}
        self._queue(Op.EXCHANGE, ino, **moved, ino2=ino2)

    def write(self, x: int, y: int, z: int) -> None:
        if ino := self._pick(x, FILE):
            start, end = sorted((y % (MAX_SIZE + 1), z % (MAX_SIZE + 1)))
            inode = self.inodes[ino]
            size = max(len(inode.data), end)
            if start < end:
                inode.data = (inode.data + [0] * size)[:size]
                inode.data[start:end] = [self.tick() for _ in range(start, end)]
                self._queue(Op.WRITE, ino, start=start, end=end)

    def truncate(self, x: int, y: int, z: int) -> None:
        if ino := self._pick(x, FILE):
            size = y % (MAX_SIZE + 1)
            self.inodes[ino].data = (self.inodes[ino].data + [0] * size)[:size]
            self._queue(Op.SIZE, ino, end=size)

    def chmod(self, x: int, y: int, z: int) -> None:
        if ino := self._pick(x):
            self.inodes[ino].attr = self.tick()
            self._queue(Op.ATTR, ino)

    def setxattr(self, x: int, y: int, z: int) -> None:
        if ino := self._pick(x):
            self.inodes[ino].xattrs[NAMES[y % 3]] = self.tick()
            self._queue(Op.XATTR, ino, name=NAMES[y % 3])

    def _pick(self, x: int, kind: int | None = None) -> int:
        known = sorted({i for i in self.names.values() if kind in (None, self.inodes[i].kind)})
        return known[x % len(known)] if known else 0
