"""From queue entries to a batch of actions: filtered, merged, and cut.

The law: executing batch after batch leaves home as executing the entries one by one would. A batch
takes the namespace entries of its window up to some point, all of them, so that what is left is
still a queue; and the data entries of the whole window.

Changes of content and attributes merge per inode. They commute with everything but the making of
their inode, where they are fused in, and its end, with which they are dropped. What happens to
names is folded while it is taken in:

    make X, remove X                   nothing
    make X at t, rename t to f         make X at f, in place of what was there (an editor's save)
    make X at t, link f, remove t      make X at f (git's new objects)
    link f, remove f                   nothing (a lock file)
    remove f, make or rename X to f    X at f, in place of what was there
    make Y at f, rename X over Y       X at f, in place of what Y replaced

A folded action comes where the last of its entries stood. That is right as nothing in between has
to do with them: a name is its inode's from making to freeing, and all that an inode takes part in
is known here. Directories are only cancelled: what is made in them could not wait for them.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

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
    yields a batch that is not empty.
    """
    fold = _Fold(entries)
    while (end := fold.cut()) is not None:
        # Without what comes after the cut, so that planning the batch's own entries again, when it
        # is in doubt and they are all that is known of it, yields the same batch.
        fold = _Fold(entries, end)
    names, data = fold.actions, fold.data
    # An exchange in doubt is settled by what the two objects are: neither may be changing as well.
    apart = {ino for a in names if isinstance(a, Exchange) for ino in a.inos}
    pushes = tuple(_push(es) for ino, es in data.items() if ino not in apart)
    return Batch(tuple(names), pushes, tuple(sorted(fold.settled)))


def _push(entries: Sequence[Entry]) -> Push:
    ids = tuple(e.id for e in entries)
    return Push(ids=ids, ino=entries[0].ino, kind=entries[0].kind, content=merge(entries))


class _Fold:
    """The entries of a window, those of names only before `end`, as actions and data."""

    def __init__(self, entries: Sequence[Entry], end: int | None = None) -> None:
        self.data: dict[int, list[Entry]] = {}  # by inode, oldest first; without what Makes take
        self.settled: set[int] = set()  # ids of entries that cancelled each other out
        self._steps: dict[int, NameAction] = {}  # by their last id; earlier ids in any order
        self._of: defaultdict[int, set[int]] = defaultdict(set)  # inode: steps it takes part in
        self._at: dict[Place, int] = {}  # name: the latest step that uses it
        self._inside: defaultdict[int, set[int]] = defaultdict(set)  # directory: ids that name it
        later: set[int] = set()  # inodes that are made after the end
        for e in entries:
            if e.op in DATA_OPS:
                if e.ino not in later:
                    self.data.setdefault(e.ino, []).append(e)
            elif end is None or e.id < end:
                self._take(e)
            elif e.op == Op.MAKE:
                later.add(e.ino)
            else:
                self._dropped_with(e)
        self.actions = [self._finished(step) for step in self._steps.values()]

    def cut(self) -> int | None:
        """The entry before which the batch has to end; None: nowhere."""
        names = before_cut(self.actions, {ino: es[0].id for ino, es in self.data.items()})
        return next(islice(self._steps, len(names), None), None)

    def _take(self, e: Entry) -> None:
        for parent in (e.parent, e.parent2):
            if parent is not None:
                self._inside[parent].add(e.id)
        _RULES[e.op](self, e)

    def _finished(self, a: NameAction) -> NameAction:
        """The action, with its ids in order, and a Make with the data of its inode."""
        if not isinstance(a, Make):
            return a if len(a.ids) == 1 else replace(a, ids=tuple(sorted(a.ids)))
        entries = self.data.pop(a.ino, [])
        return Make(
            ids=tuple(sorted((*a.ids, *(e.id for e in entries)))),
            ino=a.ino,
            kind=a.kind,
            place=a.place,
            content=new_content(a.kind, entries),
            replaces=a.replaces,
        )

    # --- the rules, by operation ------------------------------------------------------------------

    def make(self, e: Entry) -> None:
        self._bring(Make(ids=(e.id,), ino=e.ino, kind=e.kind, place=source(e)), source(e))

    def link(self, e: Entry) -> None:
        self._add(Link(ids=(e.id,), ino=e.ino, kind=e.kind, place=source(e)))

    def remove(self, e: Entry) -> None:
        ids = (*self._dropped_with(e), e.id)
        gone = Remove(ids=ids, ino=e.ino, kind=e.kind, place=source(e))
        cancelled = self._cancel_make(gone) if e.flags & LAST else self._cancel_link(gone)
        if not cancelled:
            self._add(gone)

    def rename(self, e: Entry) -> None:
        ids = (*self._dropped_with(e), e.id)
        made = self._only_make(e.ino)
        new: Make | Rename
        # One that replaces something stays where it is: the removal there is not the one here.
        if made and made.replaces is None and not e.is_dir:
            self._drop(made)
            new = replace(made, ids=made.ids + ids, place=target(e), replaces=e.ino2)
        else:
            new = Rename(
                ids=ids,
                ino=e.ino,
                kind=e.kind,
                place=source(e),
                target=target(e),
                replaces=e.ino2,
            )
        self._bring(new, target(e))

    def exchange(self, e: Entry) -> None:
        assert e.ino2 is not None
        self._add(
            Exchange(
                ids=(e.id,),
                ino=e.ino,
                kind=e.kind,
                place=source(e),
                target=target(e),
                other=e.ino2,
            )
        )

    # --- how they fold ----------------------------------------------------------------------------

    def _bring(self, new: Make | Rename, place: Place) -> None:
        """An inode comes to a name, and takes over what makes room there, if that folds."""
        old = self._latest(place)
        if old and stat.S_IFDIR not in (old.kind, new.kind) and old.ino != new.ino:
            if isinstance(old, Remove):
                self._drop(old)
                new = replace(new, ids=old.ids + new.ids, replaces=old.ino)
            elif isinstance(old, Make) and old is self._only_make(old.ino):
                self._drop(old)
                new = replace(new, ids=old.ids + new.ids, replaces=old.replaces)
        self._add(new)

    def _cancel_make(self, gone: Remove) -> bool:
        """The last name of an inode goes: was it made in this window, and no more than that?"""
        made = self._only_make(gone.ino)
        if made is None or not self._inside[gone.ino] <= self.settled:
            return False
        self._drop(made)
        ids = made.ids + gone.ids
        if made.replaces is None:
            self.settled.update(ids)
        else:  # that still has to go; it is no directory either
            self._add(replace(gone, ids=ids, ino=made.replaces))
        return True

    def _cancel_link(self, gone: Remove) -> bool:
        """One of several names goes: was it but linked in this window, or made and linked on?"""
        there, steps = self._latest(gone.place), self._of[gone.ino]
        if isinstance(there, Link) and len(steps) == 1:
            self._drop(there)
            self.settled.update(there.ids + gone.ids)
            return True
        if isinstance(there, Make) and len(steps) == 2 and there.replaces is None:
            link = self._steps[max(steps)]
            if isinstance(link, Link):
                self._drop(there)
                self._drop(link)
                self._add(replace(there, ids=there.ids + link.ids + gone.ids, place=link.place))
                return True
        return False

    def _dropped_with(self, e: Entry) -> list[int]:
        """The ids of data that home need not see: that of an inode whose last name `e` takes."""
        dying = e.ino if e.op == Op.REMOVE else e.ino2
        if dying is None or not e.flags & LAST:
            return []
        return [d.id for d in self.data.pop(dying, ())]

    # --- steps and their indexes ------------------------------------------------------------------

    def _only_make(self, ino: int) -> Make | None:
        """The step that makes `ino`, if that is the only step with it."""
        steps = self._of[ino]
        if len(steps) != 1:
            return None
        step = self._steps[next(iter(steps))]
        return step if isinstance(step, Make) and step.ino == ino else None

    def _latest(self, place: Place) -> NameAction | None:
        return self._steps.get(self._at.get(place, 0))

    def _add(self, step: NameAction) -> None:
        key = step.ids[-1]
        self._steps[key] = step
        for ino in step.inos:
            self._of[ino].add(key)
        for place in step.places:
            self._at[place] = key

    def _drop(self, step: NameAction) -> None:
        key = step.ids[-1]
        del self._steps[key]
        for ino in step.inos:
            self._of[ino].discard(key)
        for place in step.places:
            if self._at.get(place) == key:
                del self._at[place]


_RULES = {
    Op.MAKE: _Fold.make,
    Op.LINK: _Fold.link,
    Op.REMOVE: _Fold.remove,
    Op.RENAME: _Fold.rename,
    Op.EXCHANGE: _Fold.exchange,
}
