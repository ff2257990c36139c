"""Taking a name of an object that has others here, at a home without hard links.

Such a home has one of the names, however many there are here. Were that one removed, or given to
another object, what only home has of a file would be gone, and its other names would lead nowhere:
so home's object moves to one of them. Whoever calls this keeps fetches out (`names.moving()`).
"""

from __future__ import annotations

import errno
import os
import stat

from afmfs.gateway.home.trouble import Inconsistent, MayEnd, Verb
from afmfs.gateway.replay.work import Work
from afmfs.gateway.state.versions import is_known
from afmfs.model.action import Place


def hand_over(work: Work, place: Place, ino: int) -> bool:
    """Move what is at a name that goes to another name of its inode; whether it was moved. It is
    not where there is no need, or it was done before."""
    others = _others(work, place, ino)
    if not others:
        return False
    dirfd = work.directory(place[0])
    try:
        found = work.look(dirfd, place[1])
    except FileNotFoundError:
        return False
    free, taken = _sort(work, others)
    if stat.S_ISDIR(found.st_mode) or any(_is_it(work, ino, found, st) for st in taken):
        return False
    if free:
        target = free[0]
        work.home.rename_new(dirfd, place[1], work.directory(target[0]), target[1])
        work.touched.add(target[0])
        work.changed.add(target[0])
        return True
    if taken:  # home's own, or somebody's new one: a resync sees to it
        raise Inconsistent(work.path(others[0]), "is another file")
    _want_whole(work, place, ino)
    return False


def is_elsewhere(work: Work, place: Place, ino: int) -> bool:
    """Whether home has the inode under another of its names, so that it can't have it here."""
    _, taken = _sort(work, _others(work, place, ino))
    return any(_is_it(work, ino, st, st) for st in taken)


def _others(work: Work, place: Place, ino: int) -> list[Place]:
    if work.home.properties.hard_links:
        return []
    return [other for other in work.locator.places(ino) if other != place]


def _sort(work: Work, others: list[Place]) -> tuple[list[Place], list[os.stat_result]]:
    """Of some names, those that are free at home, and what is at the rest. Those that home can't
    have, or in directories that it has not, are neither."""
    free: list[Place] = []
    taken: list[os.stat_result] = []
    for other in others:
        try:
            dirfd = work.directory(other[0])
        except OSError as exc:
            _want_missing(work, exc, other)
            continue
        try:
            taken.append(work.look(dirfd, other[1]))
        except FileNotFoundError:
            free.append(other)
        except OSError as exc:
            _want_missing(work, exc, other)
    return free, taken


def _want_missing(work: Work, exc: OSError, place: Place) -> None:
    """Raises unless the error says that the name, or its directory, is not at home."""
    trouble = work.trouble(exc, place, Verb.READ)
    if not isinstance(trouble, Inconsistent):
        raise trouble from exc


def _is_it(work: Work, ino: int, found: os.stat_result, st: os.stat_result) -> bool:
    """Whether what is at another name is the inode's object already. In doubt, what is found of the
    same type is ours."""
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(st.st_mode):
        return False
    if found is not st and os.path.samestat(found, st):
        return True
    if work.doubt or not stat.S_ISREG(st.st_mode):
        return True
    return is_known(work.view, work.progress, work.home.properties, ino, st)


def _want_whole(work: Work, place: Place, ino: int) -> None:
    """MayEnd where home has the only copy, and can have it under no other name."""
    row = work.view.row(ino)
    if row is not None and not row.whole:
        path = os.fsdecode(work.path(place))
        raise MayEnd(errno.EMLINK, f"{path}: home can't hold the file under its other names")
