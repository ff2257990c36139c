"""Where home has an inode now, derived from where the cache has it.

Nothing stores home's names: they are the present ones with what home has not seen yet undone. Only
what is *executed* counts. An outcome that is not retired yet has happened at home all the same, and
to leave it out would find another file's bytes under the name.
"""

from __future__ import annotations

from collections.abc import Iterable

from afmfs.model.action import Place
from afmfs.model.entry import Entry, Op


def source(e: Entry) -> Place:
    """The name that a namespace entry makes, frees, or moves from."""
    assert e.parent is not None and e.name is not None
    return e.parent, e.name


def target(e: Entry) -> Place:
    """The name that a RENAME or EXCHANGE moves to."""
    assert e.parent2 is not None and e.name2 is not None
    return e.parent2, e.name2


def home_places(ino: int, present: Iterable[Place], unexecuted: Iterable[Entry]) -> set[Place]:
    """The names that `ino` has at home, given its present ones.

    `unexecuted` are the entries with it as `ino` or `ino2` that home has not seen, newest first.
    Empty: home does not hold it (not made there yet, or removed there already).
    """
    places = set(present)
    for e in unexecuted:
        if e.op in (Op.MAKE, Op.LINK):
            places.discard(source(e))
        elif e.op == Op.REMOVE:
            places.add(source(e))
        elif e.op in (Op.RENAME, Op.EXCHANGE) and e.ino == ino:
            places.discard(target(e))
            places.add(source(e))
        elif e.op == Op.RENAME:  # it was replaced
            places.add(target(e))
        elif e.op == Op.EXCHANGE:
            places.discard(source(e))
            places.add(target(e))
    return places
