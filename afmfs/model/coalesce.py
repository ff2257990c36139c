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

A folded action stands where its name in the end was first free for it. That is right as nothing in
between has to do with it: a name is its inode's from making to freeing, and all that an inode takes
part in is known here. The names that it has *passed* through, as t, may be used again after it; so
it is never moved to a later place. Directories are only cancelled, not moved: what is made in them
could not wait for them.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    return Batch(tuple(names), pushes, tuple(sorted(fold.settled)), frozenset(fold.inside))


def apart(entries: Sequence[Entry]) -> Batch:
    """Changes of names, each as an action of its own, in their order: nothing is merged.

    Home may have seen any of them, merged in any way. Whatever it has, one after the other passes
    by every name that it may have given an object.
    """
    actions = [_Fold([e]).actions[0] for e in entries]
    inside = {parent for e in entries for parent in (e.parent, e.parent2) if parent is not None}
    return Batch(tuple(actions), (), (), frozenset(inside))


def _push(entries: Sequence[Entry]) -> Push:
    ids = tuple(e.id for e in entries)
    return Push(ids=ids, ino=entries[0].ino, kind=entries[0].kind, content=merge(entries))


@dataclass(slots=True, eq=False)
class _Step:
    """An action where it stands in the order of execution: where entry `since` was."""

    since: int
    action: NameAction  # its ids are in any order


class _Fold:
    """The entries of a window, those of names only before `end`, as actions and data."""

    def __init__(self, entries: Sequence[Entry], end: int | None = None) -> None:
        self.data: dict[int, list[Entry]] = {}  # by inode, oldest first; without what Makes take
        self.settled: set[int] = set()  # ids of entries that cancelled each other out
        self.inside: dict[int, set[int]] = {}  # directory: ids of entries with names in it
        self._steps: dict[_Step, None] = {}  # in order
        self._of: defaultdict[int, set[_Step]] = defaultdict(set)  # inode: where it takes part
        self._at: dict[Place, _Step] = {}  # name: the latest step that uses it
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
        self.actions = [self._finished(step.action) for step in self._steps]

    def cut(self) -> int | None:
        """The entry before which the batch has to end; None: nowhere."""
        names = before_cut(self.actions, {ino: es[0].id for ino, es in self.data.items()})
        return next((step.since for step in islice(self._steps, len(names), None)), None)

    def _take(self, e: Entry) -> None:
        for parent in (e.parent, e.parent2):
            if parent is not None:
                self.inside.setdefault(parent, set()).add(e.id)
        _RULES[e.op](self, e)

    def _finished(self, a: NameAction) -> NameAction:
        """The action, with its ids in order, and a Make with the data of its inode."""
        entries = self.data.pop(a.ino, []) if isinstance(a, Make) else []
        ids = tuple(sorted((*a.ids, *(e.id for e in entries))))
        if entries and isinstance(a, Make):
            return replace(a, ids=ids, content=new_content(a.kind, entries))
        return a if ids == a.ids else replace(a, ids=ids)

    # --- the rules, by operation ------------------------------------------------------------------

    def make(self, e: Entry) -> None:
        content, place = new_content(e.kind, []), source(e)
        new = Make(ids=(e.id,), ino=e.ino, kind=e.kind, place=place, content=content)
        self._bring(e, new, place)

    def link(self, e: Entry) -> None:
        self._append(e, Link(ids=(e.id,), ino=e.ino, kind=e.kind, place=source(e)))

    def remove(self, e: Entry) -> None:
        ids = (*self._dropped_with(e), e.id)
        gone = Remove(ids=ids, ino=e.ino, kind=e.kind, place=source(e))
        cancelled = self._cancel_make(gone) if e.flags & LAST else self._cancel_link(gone)
        if not cancelled:
            self._append(e, gone)

    def rename(self, e: Entry) -> None:
        ids = (*self._dropped_with(e), e.id)
        alone = self._only_make(e.ino)
        if alone and isinstance(made := alone.action, Make) and len(made.ids) == 1 and not e.is_dir:
            self._drop(alone)
            ids, passed = made.ids + ids, made.places
            new = replace(made, ids=ids, place=target(e), passed=passed, replaces=e.ino2)
            self._bring(e, new, new.place)
            return
        moved = Rename(
            ids=ids,
            ino=e.ino,
            kind=e.kind,
            place=source(e),
            target=target(e),
            replaces=e.ino2,
        )
        self._bring(e, moved, moved.target)

    def exchange(self, e: Entry) -> None:
        assert e.ino2 is not None
        step = Exchange(
            ids=(e.id,),
            ino=e.ino,
            kind=e.kind,
            place=source(e),
            target=target(e),
            other=e.ino2,
        )
        self._append(e, step)

    # --- how they fold ----------------------------------------------------------------------------

    def _bring(self, e: Entry, new: Make | Rename, place: Place) -> None:
        """An inode comes to a name: in the step of what makes room there, if the two fold."""
        step = self._at.get(place)
        # Not if the inode has steps already: it would come there before them.
        if step and stat.S_IFDIR not in (new.kind, step.action.kind) and not self._of[new.ino]:
            old = step.action
            ids, passed = old.ids + new.ids, old.passed + new.passed
            if isinstance(old, Remove):
                self._become(step, replace(new, ids=ids, passed=passed, replaces=old.ino))
                return
            if isinstance(old, Make) and step is self._only_make(old.ino):
                self._become(step, replace(new, ids=ids, passed=passed, replaces=old.replaces))
                return
        self._append(e, new)

    def _cancel_make(self, gone: Remove) -> bool:
        """The last name of an inode goes: was it made in this window, and no more than that?"""
        made = self._only_make(gone.ino)
        if made is None or not self.settled.issuperset(self.inside.get(gone.ino, ())):
            return False
        old = made.action
        ids = old.ids + gone.ids
        if replaced := old.inos[1:]:  # that has to go still; it is no directory either
            self._become(made, replace(gone, ids=ids, ino=replaced[0], passed=old.passed))
        else:
            self._drop(made)
            self.settled.update(ids)
        return True

    def _cancel_link(self, gone: Remove) -> bool:
        """One of several names goes: was it but linked in this window, or made and linked on?"""
        there, steps = self._at.get(gone.place), self._of[gone.ino]
        if there is None or there not in steps or len(steps) > 2:
            return False
        old, others = there.action, [step for step in steps if step is not there]
        if isinstance(old, Link) and not others:
            self._drop(there)
            self.settled.update(old.ids + gone.ids)
            return True
        if isinstance(old, Make) and len(old.ids) == 1 and isinstance(others[0].action, Link):
            self._drop(there)
            link = others[0].action
            ids = old.ids + link.ids + gone.ids
            new = replace(old, ids=ids, place=link.place, passed=old.places)
            self._become(others[0], new)
            return True
        return False

    def _only_make(self, ino: int) -> _Step | None:
        """The step that makes `ino`, if that is the only one it takes part in."""
        steps = self._of[ino]
        if len(steps) != 1:
            return None
        (step,) = steps
        return step if isinstance(step.action, Make) and step.action.ino == ino else None

    def _dropped_with(self, e: Entry) -> list[int]:
        """The ids of data that home need not see: that of an inode whose last name `e` takes."""
        dying = e.ino if e.op == Op.REMOVE else e.ino2
        if dying is None or not e.flags & LAST:
            return []
        return [d.id for d in self.data.pop(dying, ())]

    # --- steps and their indexes ------------------------------------------------------------------

    def _append(self, e: Entry, action: NameAction) -> None:
        step = _Step(e.id, action)
        self._steps[step] = None
        self._index(step)

    def _become(self, step: _Step, action: NameAction) -> None:
        self._unindex(step)
        step.action = action
        self._index(step)

    def _drop(self, step: _Step) -> NameAction:
        self._unindex(step)
        del self._steps[step]
        return step.action

    def _index(self, step: _Step) -> None:
        for ino in step.action.inos:
            self._of[ino].add(step)
        for place in step.action.places:
            self._at[place] = step

    def _unindex(self, step: _Step) -> None:
        for ino in step.action.inos:
            self._of[ino].discard(step)
        for place in step.action.places:
            if self._at.get(place) is step:
                del self._at[place]


_RULES = {
    Op.MAKE: _Fold.make,
    Op.LINK: _Fold.link,
    Op.REMOVE: _Fold.remove,
    Op.RENAME: _Fold.rename,
    Op.EXCHANGE: _Fold.exchange,
}
