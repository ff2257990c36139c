"""Where a batch has to end, so that doing it again does no harm.

After a crash of either side nobody knows which actions of the batch in flight home has kept: any of
them, as home was not synced. So all are executed again, in the same order, taking what is found for
our own work (crash-rules.md, *batch-cut*). That is right as long as no action of the batch can
meet the traces of a *later* one. Two rules make it so:

* No action makes a name that an earlier one used. Had the earlier one freed it, its repetition
  would remove or move away what was made there since; had it made it (and this one replaces it),
  its repetition would put the old object over the new one's only copy.
* An inode takes part a second time only where `_MAY_FOLLOW` says that this is harmless.

And three more: a directory's rename changes where everything below it is found, so nothing may come
before it that would be looked for at the old place when it is repeated. An exchange undoes itself
when repeated; it is settled by the identity of the two objects, alone. And an inode that loses a
name while others may remain is pushed first, for the cache may not know the others.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from enum import IntEnum, auto

from afmfs.model.action import Exchange, Link, Make, NameAction, Place, Remove, Rename


class _Role(IntEnum):
    """What an action does to an inode."""

    MADE = auto()
    MADE_OVER = auto()  # in place of another: made anew by every repetition
    LINKED = auto()
    REMOVED = auto()  # loses a name, by removal or by being replaced
    MOVED = auto()


_MAY_FOLLOW: Mapping[_Role, frozenset[_Role]] = {
    # Its first appearance.
    _Role.MADE: frozenset(),
    _Role.MADE_OVER: frozenset(),
    # Not after MADE_OVER: repeated, that makes another object, and the link is to the first.
    # Not after MOVED: rare, and the rule stays simple.
    _Role.LINKED: frozenset({_Role.MADE, _Role.LINKED, _Role.REMOVED}),
    # Not after MADE or LINKED: if home keeps the removal and loses the other, the last copy is
    # gone, or a name that was linked to a half-written object passes for the whole one.
    _Role.REMOVED: frozenset({_Role.REMOVED, _Role.MOVED}),
    # After MADE, the object would be made again and moved over itself; after LINKED, the link
    # would be looked for under a name that is gone.
    _Role.MOVED: frozenset(),
}


def before_cut(actions: Sequence[NameAction], pushed: Mapping[int, int]) -> Sequence[NameAction]:
    """The leading `actions` that may be executed, and executed again, as one batch.

    `pushed`: the inodes whose content goes to home with this batch, each with its oldest entry.
    """
    roles: dict[int, set[_Role]] = {}
    places: set[Place] = set()
    for n, action in enumerate(actions):
        if isinstance(action, Exchange):
            # Alone; after older data of the two, which would wait as long as they are swapped.
            late = any(pushed.get(ino, action.ids[0]) < action.ids[0] for ino in action.inos)
            return actions[:n] if n or late else actions[:1]
        if n and isinstance(action, Rename) and stat.S_ISDIR(action.kind):
            return actions[:n]
        if _made(action) in places:
            return actions[:n]
        for ino, role in _roles(action):
            if not roles.setdefault(ino, set()) <= _MAY_FOLLOW[role]:
                return actions[:n]
            # An older entry only: else a busy writer would keep the removal waiting for ever.
            if role is _Role.REMOVED and pushed.get(ino, action.ids[-1]) < action.ids[-1]:
                return actions[:n]
            roles[ino].add(role)
        places.update(action.places)
    return actions


def _made(action: NameAction) -> Place | None:
    if isinstance(action, Make | Link):
        return action.place
    return action.target if isinstance(action, Rename) else None


def _roles(action: NameAction) -> list[tuple[int, _Role]]:
    if isinstance(action, Remove):
        return [(action.ino, _Role.REMOVED)]
    if isinstance(action, Link):
        return [(action.ino, _Role.LINKED)]
    moved = isinstance(action, Rename)
    replaced = action.replaces if isinstance(action, Make | Rename) else None
    if replaced is None:
        return [(action.ino, _Role.MOVED if moved else _Role.MADE)]
    own = _Role.MOVED if moved else _Role.MADE_OVER
    return [(action.ino, own), (replaced, _Role.REMOVED)]
