"""From queue entries to a batch of actions: filtered, merged, and cut.

The law: executing batch after batch leaves home as executing the entries one by one would. It holds
after every single batch: what is left of the queue may be executed in any way that keeps its order,
planned in any other window, or never. So an entry belongs to exactly one action, and an action has
either all of its entries done or none.

Changes of content and attributes merge per inode. They commute with everything but the making of
their inode, where they are fused in, and its end, with which they are dropped. What happens to
names is folded while it is taken in:

    make X, remove X                   nothing
    make X at t, rename t to f         make X at f, in place of what was there (an editor's save)
    make X at t, link f, remove t      make X at f (git's new objects)
    link f, remove f                   nothing (a lock file)
    remove f, make or rename X to f    X at f, in place of what was there
    make Y at f, rename X over Y       X at f, in place of what Y replaced

The folded action comes where the last of its entries stood. That is right because nothing between
them touched the inode or the name: a name is occupied between its making and its freeing, and
every action that an inode takes part in is known.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from afmfs.model.action import (
    Batch,
    Exchange,
    Link,
    Make,
    NameAction,
    Place,
    Push,
    Remove,
    Rename,
)
from afmfs.model.cut import before_cut
from afmfs.model.entry import DATA_OPS, LAST, Entry, Op
from afmfs.model.merge import merge, new_content
from afmfs.model.names import source, target


def plan(entries: Sequence[Entry]) -> Batch:
    """The first batch of a window of the queue: ascending ids, holes where others wait.

    Entries that are not in the batch's `ids` are for the next call. A window that is not empty
    yields a batch that is not empty; planning a batch's own entries again yields the same batch.
    """
    fold = _Fold()
    for e in entries:
        fold.take(e)
    actions = [fold.with_content(a) for a in fold.steps.values()]
    data = fold.data  # of inodes that home has: with_content took the others
    names = before_cut(actions, {ino: es[0].id for ino, es in data.items()})
    # An exchange in doubt is settled by what the two objects are: neither may be changing as well.
    apart = {i for a in names if isinstance(a, Exchange) for i in (a.ino, a.other)}
    pushes = tuple(_push(es) for ino, es in data.items() if ino not in apart)
    return Batch(tuple(names), pushes, tuple(sorted(fold.settled)))


def _push(entries: Sequence[Entry]) -> Push:
    first = entries[0]
    ids = tuple(e.id for e in entries)
    return Push(ids=ids, ino=first.ino, kind=first.kind, content=merge(entries))


class _Fold:
    """A window's entries, folded as they are taken in, oldest first."""

    def __init__(self) -> None:
        self.steps: dict[int, NameAction] = {}  # by their last id, in the order of execution
        self.data: dict[int, list[Entry]] = {}  # by inode, oldest first
        self.settled: set[int] = set()  # ids of entries that cancelled each other out
        self._of: defaultdict[int, set[int]] = defaultdict(set)  # inode: steps it takes part in
        self._at: dict[Place, int] = {}  # name: the latest step that uses it
        self._inside: defaultdict[int, set[int]] = defaultdict(set)  # directory: ids that name it

    def take(self, e: Entry) -> None:
        if e.op in DATA_OPS:
            self.data.setdefault(e.ino, []).append(e)
            return
        for parent in (e.parent, e.parent2):
            if parent is not None:
                self._inside[parent].add(e.id)
        _FOLDS[e.op](self, e)

    def with_content(self, action: NameAction) -> NameAction:
        """A Make together with its inode's data, which is taken out; another action as it is."""
        if not isinstance(action, Make):
            return action
        entries = self.data.pop(action.ino, [])
        content = new_content(action.kind, entries)
        return replace(action, ids=_join(action.ids, (e.id for e in entries)), content=content)

    # --- one entry of each kind ---------------------------------------------------------------

    def make(self, e: Entry) -> None:
        ids, replaced = self._over(e, source(e))
        self._add(Make(ids=ids, ino=e.ino, kind=e.kind, place=source(e), replaces=replaced))

    def link(self, e: Entry) -> None:
        self._add(Link(ids=(e.id,), ino=e.ino, kind=e.kind, place=source(e)))

    def remove(self, e: Entry) -> None:
        if not e.flags & LAST:
            self._remove_one_of_several(e)
            return
        ids = self._with_dropped(e, e.ino)
        made = self._made_only(e.ino)
        if made is None or not self._inside[e.ino] <= self.settled:
            self._add(Remove(ids=ids, ino=e.ino, kind=e.kind, place=source(e)))
            return
        self._drop(made)
        if made.replaces is None:
            self.settled.update(made.ids, ids)
        else:  # that has to go still; like what had replaced it, it is no directory
            ids = _join(made.ids, ids)
            self._add(Remove(ids=ids, ino=made.replaces, kind=e.kind, place=source(e)))

    def rename(self, e: Entry) -> None:
        ids, replaced = self._over(e, target(e))
        made = self._made_only(e.ino)
        # A Make that replaces something stays: that went at the old name, this goes at the new.
        if made and made.replaces is None and not e.is_dir:
            self._drop(made)
            self._add(replace(made, ids=_join(made.ids, ids), place=target(e), replaces=replaced))
            return
        places = {"place": source(e), "target": target(e)}
        self._add(Rename(ids=ids, ino=e.ino, kind=e.kind, **places, replaces=replaced))

    def exchange(self, e: Entry) -> None:
        assert e.ino2 is not None
        places = {"place": source(e), "target": target(e)}
        self._add(Exchange(ids=(e.id,), ino=e.ino, kind=e.kind, **places, other=e.ino2))

    # --- how they fold ------------------------------------------------------------------------

    def _remove_one_of_several(self, e: Entry) -> None:
        there = self._latest(source(e))
        if isinstance(there, Link):
            self._drop(there)
            self.settled.update(there.ids, (e.id,))
            return
        steps = self._of[e.ino]
        if len(steps) == 2:
            made, link = (self.steps[key] for key in sorted(steps))
            if isinstance(made, Make) and isinstance(link, Link) and made.replaces is None:
                self._drop(made)
                self._drop(link)
                ids = _join(made.ids, link.ids, (e.id,))
                self._add(replace(made, ids=ids, place=link.place))
                return
        self._add(Remove(ids=(e.id,), ino=e.ino, kind=e.kind, place=source(e)))

    def _over(self, e: Entry, place: Place) -> tuple[tuple[int, ...], int | None]:
        """What `e` does away with by putting its inode at `place`: the ids that go with it, and
        the inode which that replaces at home."""
        ids: tuple[int, ...] = (e.id,)
        dies = e.flags & LAST
        if e.ino2 is not None and dies:
            ids = self._with_dropped(e, e.ino2)
        there = self._latest(place)
        if there is None or e.is_dir or stat.S_ISDIR(there.kind):
            return ids, e.ino2
        if isinstance(there, Remove) and there.ino != e.ino:
            self._drop(there)
            return _join(there.ids, ids), there.ino
        if dies and isinstance(there, Make) and there is self._made_only(there.ino):
            self._drop(there)
            return _join(there.ids, ids), there.replaces
        return ids, e.ino2

    def _with_dropped(self, e: Entry, dying: int) -> tuple[int, ...]:
        """The ids of `e` and of the data of an inode whose last name it takes: dropped with it."""
        return _join((d.id for d in self.data.pop(dying, ())), (e.id,))

    def _made_only(self, ino: int) -> Make | None:
        """The Make of `ino`, if no other step of the window has to do with it."""
        steps = self._of[ino]
        if len(steps) != 1:
            return None
        step = self.steps[next(iter(steps))]
        return step if isinstance(step, Make) and step.ino == ino else None

    # --- the steps and their indexes ----------------------------------------------------------

    def _latest(self, place: Place) -> NameAction | None:
        return self.steps.get(self._at.get(place, 0))

    def _add(self, step: NameAction) -> None:
        key = step.ids[-1]
        self.steps[key] = step
        for ino in step.inos:
            self._of[ino].add(key)
        for place in step.places:
            self._at[place] = key

    def _drop(self, step: NameAction) -> None:
        key = step.ids[-1]
        del self.steps[key]
        for ino in step.inos:
            self._of[ino].discard(key)
        for place in step.places:
            if self._at.get(place) == key:
                del self._at[place]


_FOLDS = {
    Op.MAKE: _Fold.make,
    Op.LINK: _Fold.link,
    Op.REMOVE: _Fold.remove,
    Op.RENAME: _Fold.rename,
    Op.EXCHANGE: _Fold.exchange,
}


def _join(*ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(chain(*ids)))
