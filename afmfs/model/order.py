"""What has to wait for what.

One relation for three uses: which actions of a batch may run side by side, which must not run once
one of them has failed, and which entries wait while others are requeued. Whatever is done, or is
still to be done, leaves *traces*; what comes after it waits if it *minds* one of them:

    name         of a name that is made, freed or passed: whoever makes or frees it again
    inode        of an inode whose names change: whoever changes them again
    made         of an inode that comes into being: whoever works in it, or on it
    inside       of the directories in which names change: whoever does away with such a directory
    tree         of a move of directories: whoever moves directories again (in another order one
                 might be moved into itself)
    content      of data on an inode: more data on it; whoever takes a name of it while others may
                 remain (the cache may not know the others, so the data goes first); and whoever
                 exchanges it (in doubt, that is settled by what the two objects are)

All else commutes: home's names are derived (names.py), so data reaches a file that is not renamed
yet, and a new file finds its directory at the old place.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from afmfs.model.action import Exchange, Make, NameAction, Place, Remove, Rename
from afmfs.model.entry import DATA_OPS, LAST, Entry, Op
from afmfs.model.names import source, target

Trace = tuple[str, Hashable]


def levels(names: Sequence[NameAction]) -> list[list[NameAction]]:
    """`names` in groups to be executed one after another, each group in any order or at once."""
    groups: list[list[NameAction]] = []
    reached: dict[Trace, int] = {}  # the last level that left this trace
    floor = 0
    for action in names:
        minds, leaves = _of_action(action)
        level = max((reached[t] + 1 for t in minds if t in reached), default=0)
        level = max(level, floor)
        if moves_trees(action):  # everything below is found elsewhere: nothing runs beside it
            level = len(groups)
            floor = level + 1
        if level == len(groups):
            groups.append([])
        groups[level].append(action)
        for t in leaves:
            reached[t] = max(level, reached.get(t, 0))
    return groups


def dependents(names: Sequence[NameAction], failed: Set[int]) -> list[NameAction]:
    """The actions that must not be executed because of others whose entries are `failed`.

    `failed`: ids; all or none of an action's. Pushes depend on no action of their batch.
    """
    broken = [action for action in names if action.ids[0] in failed]
    dependence = Dependence(names)
    waiting = set[int]().union(*map(dependence.fail, broken)) - failed
    return [action for action in names if action.ids[0] in waiting]


TRACES = 1_000_000
"""What is remembered of entries that wait for others, at most."""


class Dependence:
    """Of the actions of one batch: who waits once one of them has failed. All together it costs
    little more than one look at each, however many fail: a home that is full refuses them all."""

    def __init__(self, names: Sequence[NameAction]) -> None:
        self._names = names
        self._leaves: list[list[Trace]] = []
        self._minders: dict[Trace, list[int]] = {}  # places in `names`, ascending
        self._left: dict[Trace, int] = {}  # the first failed or waiting action that leaves it
        self._places: dict[int, int] = {}  # by first id
        self._stopped: set[int] = set()  # places of what has failed or waits
        for n, action in enumerate(names):
            minds, leaves = _of_action(action)
            self._leaves.append(leaves)
            self._places[action.ids[0]] = n
            for trace in minds:
                self._minders.setdefault(trace, []).append(n)

    def fail(self, action: NameAction) -> set[int]:
        """The first ids of the actions that wait because of this one, and did not wait before."""
        todo, waiting = [self._places[action.ids[0]]], set[int]()
        self._stopped.update(todo)
        while todo:
            at = todo.pop()
            for n in self._met(at):
                if n not in self._stopped:
                    self._stopped.add(n)
                    todo.append(n)
                    waiting.add(self._names[n].ids[0])
        return waiting

    def _met(self, at: int) -> Iterator[int]:
        """Later actions that mind what the one at a place leaves, but for those that have been
        stopped by the same trace of an earlier one."""
        for trace in self._leaves[at]:
            before = self._left.get(trace, len(self._names))
            if at < before:
                self._left[trace] = at
                minders = self._minders.get(trace, [])
                yield from minders[bisect_right(minders, at) : bisect_right(minders, before)]


class Owed(NamedTuple):
    """Objects that a job could not bring home yet. Those that are `unmade` may not be there at all:
    a name in such a directory can't be made either, nor found."""

    inos: Set[int] = frozenset()
    unmade: Set[int] = frozenset()


NOTHING_OWED = Owed()


class Held:
    """What has to wait while others do, of entries that are looked at in their order, a page at a
    time: the `requeued` ones, those about what is `owed`, and what depends on these or on others
    before that wait. Entries that were not looked at yet may be added to `requeued`.

    Its memory grows with what waits, by one trace or two for each object that is to be made.
    """

    def __init__(self, requeued: Set[int], owed: Owed = NOTHING_OWED) -> None:
        self.requeued, self.owed = requeued, owed
        self._traces: set[Trace] = set()
        self._before: Set[Trace] = frozenset()

    def __len__(self) -> int:
        """Traces that are remembered."""
        return len(self._traces) + len(self._before)

    @property
    def is_full(self) -> bool:
        """Whether too much is remembered: what comes next has to wait, too."""
        return len(self) >= TRACES

    def split(self, entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
        """The next entries as (ready, held)."""
        ready: list[Entry] = []
        held: list[Entry] = []
        for e in entries:
            minds, leaves = _of_entry(e)
            if self._waits(e) or any(map(self._left, minds)):
                held.append(e)
                self._traces.update(trace for trace in leaves if self._tells(trace))
            else:
                ready.append(e)
        return ready, held

    def ahead(self) -> Held:
        """One that goes on from here, while this one stays as it is. Not of such a one."""
        other = Held(self.requeued, self.owed)
        other._before = self._traces
        return other

    def follow(self, ahead: Held) -> None:
        """Come to where one has got that went on from here."""
        self._traces |= ahead._traces

    def _waits(self, e: Entry) -> bool:
        inos, unmade = self.owed
        return (
            e.id in self.requeued
            or e.ino in inos
            or e.ino2 in inos
            or e.parent in unmade
            or e.parent2 in unmade
        )

    def _left(self, trace: Trace) -> bool:
        return trace in self._traces or trace in self._before

    def _tells(self, trace: Trace) -> bool:
        """Whether a trace holds back what another does not. What is in a directory, or on a file,
        that is not made yet minds that already; so does whoever does away with either."""
        kind, what = trace
        if kind == "name":
            what = what[0]  # type: ignore[index]  # a place
        return kind not in ("name", "inside", "content") or not self._left(("made", what))


def split_held(entries: Sequence[Entry], requeued: Set[int]) -> tuple[list[Entry], list[Entry]]:
    """`entries` as (ready, held); see `Held`."""
    return Held(requeued).split(entries) if requeued else (list(entries), [])


Traces = tuple[list[Trace], list[Trace]]
"""The traces that something minds, and those that it leaves."""


def moves_tree(e: Entry) -> bool:
    """Whether an entry may change where other names are found."""
    # An exchange's other side may be a directory even where this one is a file.
    return e.op == Op.EXCHANGE or (e.op == Op.RENAME and e.is_dir)


def _of_action(a: NameAction) -> Traces:
    made = a.ino if isinstance(a, Make) else None
    if isinstance(a, Remove):
        gone: int | None = a.ino
    else:
        gone = a.replaces if isinstance(a, Make | Rename) else None
    minds, leaves = _of_names(a.inos, a.places, made=made, gone=gone, tree=moves_trees(a))
    for place in a.passed:  # if it fails, its entries will use that name when they are retried
        leaves += [("name", place), ("inside", place[0])]
    return minds, leaves


def moves_trees(a: NameAction) -> bool:
    """Whether an action may change where other names are found."""
    return isinstance(a, Exchange) or (isinstance(a, Rename) and stat.S_ISDIR(a.kind))


def _of_entry(e: Entry) -> Traces:
    if e.op in DATA_OPS:
        content = ("content", e.ino)
        return [content, ("made", e.ino)], [content]
    moves = e.op in (Op.RENAME, Op.EXCHANGE)
    gone = {Op.REMOVE: e.ino, Op.RENAME: e.ino2}.get(e.op)
    minds, leaves = _of_names(
        (e.ino,) if e.ino2 is None else (e.ino, e.ino2),
        (source(e), target(e)) if moves else (source(e),),
        made=e.ino if e.op == Op.MAKE else None,
        gone=gone,
        tree=moves_tree(e),
    )
    if gone is not None and not e.flags & LAST:
        minds.append(("content", gone))
    if e.op == Op.EXCHANGE:
        minds += [("content", e.ino), ("content", e.ino2)]
    return minds, leaves


def _of_names(
    inos: Sequence[int],
    places: Sequence[Place],
    *,
    made: int | None,
    gone: int | None,
    tree: bool,
) -> Traces:
    both: list[Trace] = [("inode", ino) for ino in inos]
    both += [("name", place) for place in places]
    if tree:
        both.append(("tree", None))
    minds, leaves = both, both.copy()
    for directory, _ in places:
        minds.append(("made", directory))
        leaves.append(("inside", directory))
    if gone is not None:
        minds.append(("inside", gone))
    if made is not None:
        leaves.append(("made", made))
    return minds, leaves
