"""An executable model of a cache, a gateway and a home, to try plans on.

The unit of data is a byte with a small integer in it, new for every write, so a stale or foreign
byte is recognised at sight. The gateway finds things at home by derived names, as the real one
does, and checks by the `tag` of what it finds that it is what it meant. Home logs its primitive
operations: a crash keeps any subset of them, each whole; one whose precondition is missing is void.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from afmfs.model.action import (
    Batch,
    Content,
    Exchange,
    Link,
    Make,
    NameAction,
    Place,
    Push,
    Remove,
    Rename,
)
from afmfs.model.coalesce import plan
from afmfs.model.entry import LAST, ROOT, UNLINKED, Entry, Op
from afmfs.model.names import home_places
from afmfs.model.order import dependents, levels, split_held

FILE, DIR, SYMLINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
HIDDEN, BESIDE = 3, 4  # home's directories that the cache has never read; where replacements grow
NAMES = (b"a", b"b", b"c")
MAX_SIZE = 6


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

    def _lose(self, place: Place) -> int:
        ino = self.names.pop(place)
        if not self.alive(ino) and self.inodes[ino].kind == DIR:
            del self.inodes[ino]
        return ino

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


def step_of(e: Entry) -> NameAction | Push:
    """One entry as one action: what plain replay does, with nothing merged."""
    content = Content()
    if e.op == Op.MAKE and e.kind == FILE:
        content = Content(smallest=0, size=0)
    elif e.op == Op.WRITE:
        content = Content(ranges=((e.start, e.end),))
    elif e.op == Op.SIZE:
        content = Content(smallest=e.end, size=e.end)
    elif e.op == Op.ATTR:
        content = Content(attr=True)
    elif e.op == Op.XATTR:
        assert e.name is not None
        content = Content(xattrs=frozenset({e.name}))
    ids, ino, kind, place, target = (e.id,), e.ino, e.kind, (e.parent, e.name), (e.parent2, e.name2)
    if e.op == Op.MAKE:
        return Make(ids=ids, ino=ino, kind=kind, place=place, content=content)
    if e.op == Op.LINK:
        return Link(ids=ids, ino=ino, kind=kind, place=place)
    if e.op == Op.REMOVE:
        return Remove(ids=ids, ino=ino, kind=kind, place=place)
    if e.op == Op.RENAME:
        return Rename(ids=ids, ino=ino, kind=kind, place=place, target=target, replaces=e.ino2)
    if e.op == Op.EXCHANGE:
        assert e.ino2 is not None
        return Exchange(ids=ids, ino=ino, kind=kind, place=place, target=target, other=e.ino2)
    return Push(ids=ids, ino=ino, kind=kind, content=content)


class Gateway:
    """Executes at home what `plan` says."""

    def __init__(self, cache: Cache, home: Home) -> None:
        self.cache, self.home = cache, home
        self.executed: set[int] = set()
        self.requeued: set[int] = set()
        self.flight: list[int] = []  # in doubt

    def unexecuted(self) -> list[Entry]:
        return [e for e in self.cache.queue if e.id not in self.executed]

    # --- finding ----------------------------------------------------------------------------------

    def places(self, ino: int) -> set[Place]:
        pending = [e for e in reversed(self.unexecuted()) if ino in (e.ino, e.ino2)]
        return home_places(ino, self.cache.places(ino), pending)

    def locate(self, ino: int) -> int | None:
        if ino in (ROOT, UNLINKED):
            return ino
        for parent, name in self.places(ino):
            d = self.locate(parent)
            if d is not None and name in self.home.nodes[d].names:
                return self.home.nodes[d].names[name]
        return None

    def found(self, place: Place, doubt: bool) -> tuple[int | None, int | None]:
        d = self.locate(place[0])
        assert d is not None or doubt, f"no directory for {place}"
        return d, None if d is None else self.home.nodes[d].names.get(place[1])

    def tag(self, h: int | None) -> int | None:
        return None if h is None else self.home.nodes[h].tag

    # --- executing --------------------------------------------------------------------------------

    def execute(self, a: NameAction | Push, *, doubt: bool = False) -> None:
        getattr(self, "_" + type(a).__name__.lower())(a, doubt)
        self.executed.update(a.ids)

    def _make(self, a: Make, doubt: bool) -> None:
        d, there = self.found(a.place, doubt)
        assert d is not None, f"no directory for {a}"
        if a.replaces is not None:
            assert doubt or self.tag(there) == a.replaces, f"{a} finds {self.tag(there)}"
            h, beside = self.home.new(), b"%d" % self.home.new()
            self.home.do("create", h, a.kind, a.ino, BESIDE, beside)
            self._write(h, a.ino, a.content)
            self.home.do("rename", BESIDE, beside, d, a.place[1])
            return
        if there is None or not doubt:
            assert there is None, f"{a} finds {self.tag(there)}"
            there = self.home.new()
            self.home.do("create", there, a.kind, a.ino, d, a.place[1])
        assert self.tag(there) == a.ino, f"{a} adopts {self.tag(there)}"
        self._write(there, a.ino, a.content)

    def _link(self, a: Link, doubt: bool) -> None:
        d, there = self.found(a.place, doubt)
        assert d is not None
        if there is not None and doubt:
            assert self.tag(there) == a.ino, f"{a} adopts {self.tag(there)}"
            return
        h = self.locate(a.ino)
        assert there is None and h is not None and self.tag(h) == a.ino, f"{a} can't be done"
        self.home.do("link", h, d, a.place[1])

    def _remove(self, a: Remove, doubt: bool) -> None:
        d, there = self.found(a.place, doubt)
        if there is not None or not doubt:
            assert self.tag(there) == a.ino, f"{a} finds {self.tag(there)}"
            self.home.do("unlink", d, a.place[1])

    def _rename(self, a: Rename, doubt: bool) -> None:
        d, there = self.found(a.place, doubt)
        if there is None and doubt:
            return
        d2, over = self.found(a.target, doubt=False)
        assert self.tag(there) == a.ino, f"{a} finds {self.tag(there)}"
        # In doubt, it may be gone: home kept a later removal of the name, and not this.
        gone = doubt and over is None
        assert gone or self.tag(over) == a.replaces, f"{a} replaces {self.tag(over)}"
        self.home.do("rename", d, a.place[1], d2, a.target[1])

    def _exchange(self, a: Exchange, doubt: bool) -> None:
        d, there = self.found(a.place, doubt)
        d2, other = self.found(a.target, doubt)
        if doubt and (self.tag(there), self.tag(other)) == (a.other, a.ino):
            return
        assert (self.tag(there), self.tag(other)) == (a.ino, a.other), f"{a} finds others"
        self.home.do("exchange", d, a.place[1], d2, a.target[1])

    def _push(self, a: Push, doubt: bool) -> None:
        h = self.locate(a.ino)
        if h is None and (doubt or not self.cache.alive(a.ino)):
            return
        assert self.tag(h) == a.ino, f"{a} finds {self.tag(h)}"
        self._write(h, a.ino, a.content)

    def _write(self, h: int, ino: int, content: Content) -> None:
        """Sizes from the entries, bytes and attributes as they are in the cache now."""
        if not self.cache.alive(ino):
            return
        inode = self.cache.inodes[ino]
        if content.smallest is not None and len(self.home.nodes[h].data) > content.smallest:
            self.home.do("size", h, content.smallest)
        if content.size is not None:
            self.home.do("size", h, content.size)
        for start, end in content.ranges:
            self.home.do("bytes", h, start, (inode.data + [0] * end)[start:end])
        if content.attr:
            self.home.do("attr", h, inode.attr)
        for name in content.xattrs:
            self.home.do("xattr", h, name, inode.xattrs[name])

    # --- batches ----------------------------------------------------------------------------------

    def next_batch(self, window: int) -> Batch:
        if self.flight:
            flying = [e for e in self.cache.queue if e.id in self.flight]
            batch = plan(flying)
            assert list(batch.ids) == self.flight, "another batch on second thoughts"
            return batch
        ready, _ = split_held(self.unexecuted(), self.requeued)
        return plan(ready[:window])

    def run(self, rnd: Random, window: int, fails: Callable[[], bool] = lambda: False) -> None:
        """One batch. What `fails`, and what depends on it, is left undone."""
        batch, doubt = self.next_batch(window), bool(self.flight)
        before = len(self.unexecuted())
        failed: set[int] = set()
        self.executed.update(batch.settled)
        for level in levels(batch.names):
            waiting = dependents(batch.names, failed)
            for a in rnd.sample(level, len(level)):
                if a in waiting:
                    continue
                if fails() and not doubt:
                    failed.update(a.ids)
                else:
                    self.execute(a, doubt=doubt)
        for p in rnd.sample(batch.pushes, len(batch.pushes)):
            if fails() and not doubt:
                failed.update(p.ids)
            else:
                self.execute(p, doubt=doubt)
        self.requeued |= failed
        self.flight = []
        assert failed or len(self.unexecuted()) < before or not before or self.requeued

    def interrupted(self, rnd: Random, window: int) -> None:
        """One batch, of which home keeps a prefix, or any part: nobody knows which."""
        batch, executed = self.next_batch(window), set(self.executed)
        base, self.home.log = self.home.snapshot(), []
        self.run(rnd, window)
        self.executed, self.flight = executed, list(batch.ids)
        log, self.home.nodes = self.home.log, base
        keep = rnd.random()
        kept = [x for x in log if rnd.random() < keep]
        self.home.replay(log[: rnd.randrange(len(log) + 1)] if rnd.random() < 0.5 else kept)

    def check_rest(self) -> None:
        """Whatever the batches did: plain replay of the rest of the queue makes home the cache."""
        home = Home()
        home.nodes, home.next = self.home.snapshot(), self.home.next
        rest = Gateway(self.cache, home)
        rest.executed = set(self.executed)
        for e in self.unexecuted():
            rest.execute(step_of(e))
        rest.check_same()

    # --- judging ----------------------------------------------------------------------------------

    def check_places(self) -> None:
        """Derived names are home's names."""
        at: dict[int, set[Place]] = {}
        for place, h in self._walk(ROOT, UNLINKED):
            at.setdefault(self.home.nodes[h].tag, set()).add(place)
        known = {i for e in self.cache.queue for i in (e.ino, e.ino2) if i is not None}
        for ino in known | set(self.cache.inodes) - {ROOT, UNLINKED}:
            assert self.places(ino) == at.get(ino, set()), f"names of {ino}"

    def check_same(self) -> None:
        """Home is what the cache is."""
        tree = {place: self.home.nodes[h].tag for place, h in self._walk(ROOT, UNLINKED)}
        assert tree == self.cache.names
        handles: dict[int, int] = {}
        for _, h in self._walk(ROOT, UNLINKED, HIDDEN):
            node = self.home.nodes[h]
            assert handles.setdefault(node.tag, h) == h, f"two copies of {node.tag}"
            inode = self.cache.inodes[node.tag]
            assert (node.kind, node.data, node.attr) == (inode.kind, inode.data, inode.attr), node
            assert node.xattrs == inode.xattrs

    def _walk(self, *tops: int) -> Iterator[tuple[Place, int]]:
        for d in tops:
            for name, h in self.home.nodes[d].names.items():
                yield (self.home.nodes[d].tag, name), h
                if self.home.nodes[h].kind == DIR:
                    yield from self._walk(h)


def world() -> tuple[Cache, Gateway]:
    """A home with a few things in it, all in the cache but the second names of two files."""
    cache, home = Cache(), Home()
    start = [(ROOT, b"a", FILE, 1), (ROOT, b"b", FILE, 0), (ROOT, b"c", DIR, 0)]
    start += [(12, b"a", FILE, 1), (12, b"b", DIR, 0)]
    for ino, (parent, name, kind, hidden) in enumerate(start, 10):
        cache.inodes[ino] = Inode(kind, hidden, [cache.tick() for _ in range(4) if kind == FILE])
        cache.names[parent, name] = ino
        home.do("create", ino, kind, ino, parent, name)
        home.do("bytes", ino, 0, list(cache.inodes[ino].data))
        if hidden:
            home.do("link", ino, HIDDEN, b"%d" % ino)
    return cache, Gateway(cache, home)
