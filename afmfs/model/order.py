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
    content      of data on an inode: more data on it, and whoever takes a name of it while others
                 may remain (the cache may not know the others, so the data goes first)

All else commutes: home's names are derived (names.py), so data reaches a file that is not renamed
yet, and a new file finds its directory at the old place.
"""

from __future__ import annotations

import stat
from collections.abc import Hashable, Sequence, Set

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
        if _moves_tree(action):  # everything below is found elsewhere: nothing runs beside it
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
    waiting: list[NameAction] = []
    traces: set[Trace] = set()
    for action in names:
        minds, leaves = _of_action(action)
        is_failed = action.ids[0] in failed
        if is_failed or not traces.isdisjoint(minds):
            traces.update(leaves)
            if not is_failed:
                waiting.append(action)
    return waiting


def split_held(entries: Sequence[Entry], requeued: Set[int]) -> tuple[list[Entry], list[Entry]]:
    """`entries` as (ready, held): held are the requeued ones and what depends on them."""
    if not requeued:
        return list(entries), []
    ready: list[Entry] = []
    held: list[Entry] = []
    traces: set[Trace] = set()
    for e in entries:
        minds, leaves = _of_entry(e)
        if e.id in requeued or not traces.isdisjoint(minds):
            held.append(e)
            traces.update(leaves)
        else:
            ready.append(e)
    return ready, held


Traces = tuple[list[Trace], list[Trace]]
"""The traces that something minds, and those that it leaves."""


def _of_action(a: NameAction) -> Traces:
    made = a.ino if isinstance(a, Make) else None
    if isinstance(a, Remove):
        gone: int | None = a.ino
    else:
        gone = a.replaces if isinstance(a, Make | Rename) else None
    minds, leaves = _of_names(a.inos, a.places, made=made, gone=gone, tree=_moves_tree(a))
    for place in a.passed:  # if it fails, its entries will use that name when they are retried
        leaves += [("name", place), ("inside", place[0])]
    return minds, leaves


def _moves_tree(a: NameAction) -> bool:
    # An exchange's other side may be a directory even where this one is a file.
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
        tree=e.op == Op.EXCHANGE or (e.op == Op.RENAME and e.is_dir),
    )
    if gone is not None and not e.flags & LAST:
        minds.append(("content", gone))
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
