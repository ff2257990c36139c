"""What all actions of a batch share while they are executed at an open home."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.home.trouble import (
    Inconsistent,
    MayEnd,
    Trouble,
    Unclear,
    Unrepresentable,
    Verb,
    classify,
    is_bad_name,
)
from afmfs.gateway.home.walk import Path
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import Row, View
from afmfs.model.action import Action, Link, NameAction, Place, Push, Rename
from afmfs.model.entry import ROOT, UNLINKED


class Done(NamedTuple):
    """An action that home has executed."""

    stamp: Stamp | None = None
    unrepresentable: int | None = None  # errno of what home can't hold; the rest is done


NOTHING = Done()


_LOOKS = frozenset({Verb.READ, Verb.REMOVE})
"""What is only done to a name that is there."""

FORGIVING = "forgiving"
"""Where the journal keeps the last entry that was queued while a job ran."""


class Failed(Exception):
    """An action that home refuses for now; `partial`: it may have been executed in part."""

    def __init__(self, trouble: MayEnd, partial: bool) -> None:
        super().__init__(str(trouble))
        self.trouble, self.partial = trouble, partial


class Contradicted(Exception):
    """Home is not as it was left; `partial`: this was seen after the action had begun."""

    def __init__(self, trouble: Inconsistent, partial: bool) -> None:
        super().__init__(str(trouble))
        self.trouble, self.partial = trouble, partial


def _as_it_is(trouble: Trouble) -> Trouble:
    return trouble


@dataclass(slots=True, kw_only=True)
class Work:
    home: Home
    view: View
    journal: Journal
    progress: Progress
    locator: Locator
    doubt: bool  # whether the batch may have been executed before, wholly or in part
    sync_files: bool  # each file is fsynced by itself
    xattrs: bool
    pulse: Callable[[], None]  # a call to home has returned
    judge: Callable[[Trouble], Trouble] = _as_it_is  # whether it is home or one object that fails
    forgiving: int = 0  # of entries up to here, what they take away may never have come to home
    rows: dict[int, Row] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)  # directories whose times are to be set
    changed: set[int] = field(default_factory=set)  # more names in these than the actions tell
    opened_up: set[int] = field(default_factory=set)  # directories that we may write only for now

    def directory(self, ino: int) -> int:
        """A descriptor of home's directory; see `Walker.directory`."""
        if ino == UNLINKED:
            return self.home.unlinked()
        path = self.locator.directory(ino)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, f"home has no name for directory {ino}")
        return self.home.directory(path)

    def look(self, dirfd: int, name: bytes) -> os.stat_result:
        """What is there; in doubt past all that home remembers: it may have done what it was told,
        and not know it, as the answer was lost."""
        look = self.home.lstat_anew if self.doubt else self.home.lstat
        return look(dirfd, name)

    def path(self, place: Place | None) -> bytes:
        """A name's path below home's root, for messages."""
        if place is None:
            return b""
        above = self.locator.directory(place[0])
        return b"/".join((*(above if above is not None else (b"?",)), place[1]))

    def trouble(self, exc: OSError, place: Place | None, verb: Verb, kind: int = 0) -> Trouble:
        """What an error of a call to home means; for the caller to raise."""
        path, properties = self.path(place), self.home.properties
        if verb in _LOOKS and is_bad_name(exc.errno, properties):
            return Inconsistent(path, os.strerror(exc.errno or 0), missing=True)
        return self.judge(classify(exc, path, verb, kind=kind, properties=properties))

    def is_absent(self, exc: OSError) -> bool:
        """Whether what was looked for is not there: also where home can't have such a name."""
        return isinstance(exc, FileNotFoundError) or is_bad_name(exc.errno, self.home.properties)

    def refused(self, action: Action, trouble: MayEnd) -> Failed:
        """Of what is one call: not executed, as a rule. What an error leaves open is in doubt; but
        a push tells by itself whether it has begun, and after a move it is looked for."""
        told = isinstance(action, Push | Rename) or not isinstance(trouble, Unclear)
        return Failed(trouble, self.doubt or not told)

    def trouble_of_directory(self, exc: OSError, path: Path) -> Trouble:
        return classify(exc, b"/".join(path), Verb.ATTR, properties=self.home.properties)

    def note(self, exc: OSError, place: Place | None, verb: Verb) -> int:
        """The errno of something that home can't hold and can do without; else raises."""
        trouble = self.trouble(exc, place, verb)
        if isinstance(trouble, Unrepresentable):
            return trouble.errno
        raise trouble from exc

    def may_be_gone(self, action: Action) -> bool:
        """Whether it is no contradiction that what the action takes away is not there."""
        return self.doubt or action.ids[-1] <= self.forgiving

    def finish(self, action: Action, done: Done) -> Done:
        self.progress.finish(action.ids, action.ino, done.stamp)
        return done

    def never_held(self, action: NameAction | Push) -> int | None:
        """The errno with which home once refused for good to hold the action's object, one of its
        names, or a directory above; None if home ought to have all of them."""
        if isinstance(action, Push):
            return self._never_held(action.ino)
        for ino in (*action.inos, *(parent for parent, _ in action.places)):
            found = self._never_held(ino)
            if found is not None:
                return found
        return None

    def lacks(self, ino: int, place: Place) -> bool:
        """Whether home could never hold the inode, and has nothing in its place."""
        if self._never_held(ino) is None:
            return False
        try:
            self.look(self.directory(place[0]), place[1])
        except OSError as exc:
            return self.is_absent(exc)
        return False

    def want_made(self, action: Rename | Link, target: Place) -> None:
        """Inconsistent where what gets a name is not at home because of names that home can't hold,
        and home may hold it under this one: a resync makes it there, or finds that it can't."""
        properties, code = self.home.properties, self._never_held(action.ino)
        if code is None or not is_bad_name(code, properties) or not properties.holds(action.kind):
            return
        if self._never_held(target[0]) is not None:
            return
        try:
            self.look(self.directory(target[0]), target[1])
        except OSError as exc:
            if is_bad_name(exc.errno, properties):
                return
        raise Inconsistent(self.path(target), "home may hold it under this name, and has not yet")

    def _never_held(self, ino: int) -> int | None:
        seen: set[int] = set()
        while ino not in (ROOT, UNLINKED) and ino not in seen:
            seen.add(ino)
            found = self.journal.unheld(ino) or self.view.unheld(ino)
            if found:
                return found
            places = self.locator.places(ino)
            if not places:
                return None
            ino = places[0][0]
        return None


def want_kind(st: os.stat_result, kind: int, path: bytes) -> None:
    """Inconsistent unless what was found is of the type that home is known to hold."""
    if stat.S_IFMT(st.st_mode) != kind:
        raise Inconsistent(path, f"is {_type(st.st_mode)}, not {_type(kind)}")


def _type(mode: int) -> str:
    return {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }.get(stat.S_IFMT(mode), "a device")
