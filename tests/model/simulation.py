"""A gateway between a simulated cache and a simulated home, to try plans on.

It finds things at home by derived names, as the real one does, and checks by the `tag` of what it
finds that it is what it meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from simulated_cache import Cache
from simulated_home import BESIDE, DIR, FILE, HIDDEN, Home, Inode

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
from afmfs.model.entry import ROOT, UNLINKED, Entry, Op
from afmfs.model.names import home_places
from afmfs.model.order import dependents, levels, split_held


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
