"""Swapping two names at home, so that the state after any interruption can be told.

A swap undoes itself when it is repeated, so in doubt it must be known whether it was done. Where
home can swap in one step and keeps inode numbers, the two numbers are recorded, durably, before it:
afterwards it is seen which of them stands where. Elsewhere three renames through a directory of
home's own, `.afm/exchange/<entry>`, each durable at home before the next:

    step                                exists afterwards
    1  make <entry>/whole               a, b,            <entry>/whole
    2  rename a to <entry>/a               b, <entry>/a, <entry>/whole
    3  rename b to a                    a,    <entry>/a, <entry>/whole
    4  rename <entry>/whole to half     a,    <entry>/a, <entry>/half
    5  rename <entry>/a to b            a, b,            <entry>/half

All that needs room at home is made by step 1: where home is full nothing has moved yet.

`<entry>` is removed only after the outcome is recorded (`clean`), so that in doubt: neither
`<entry>/a` nor `<entry>/half`, nothing has moved; `<entry>/a` without a, go on at 3; with a, at 4;
with `half`, at 5; `half` alone, all is done.

From 2 to 5 it is *half done*: one of the two has no name that the cache could tell. A home that
refuses to go on leaves it so, and the journal remembers it (`half_done`). Nothing may be looked for
under the two names, nor be concluded from what is not there, until it is finished.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace

from afmfs.gateway.home.home import MARKER, Home
from afmfs.gateway.home.trouble import (
    HomeAway,
    Inconsistent,
    MayEnd,
    Unclear,
    Unrepresentable,
    Verb,
    gone,
)
from afmfs.gateway.home.walk import Path
from afmfs.gateway.replay.work import NOTHING, Contradicted, Done, Failed, Work, want_kind
from afmfs.gateway.state.journal import Journal
from afmfs.model.action import Exchange

log = logging.getLogger(__name__)

EXCHANGE: Path = (MARKER, b"exchange")
_A, _WHOLE, _HALF = b"a", b"whole", b"half"

_KEY, _STEPS = "exchange ", "steps"
"""What is recorded of a swap by steps that has begun to move something, or may have."""


def record_key(entry: int) -> str:
    """Where the journal keeps the inode numbers of a swap, or that it is done by steps."""
    return f"{_KEY}{entry}"


def half_done(journal: Journal) -> list[int]:
    """Entries whose swaps stand half done at home, or may; ascending."""
    keys = journal.query("SELECT key FROM state WHERE value=?", (_STEPS,))
    found = sorted(int(key.removeprefix(_KEY)) for (key,) in keys)
    return [entry for entry in found if journal.in_flight(entry)]


def where(entry: int) -> str:
    """Below home's root, the first of the two as long as it is half done."""
    return os.fsdecode(b"/".join((*_inside(entry), _A)))


class Exchanger:
    def __init__(self, work: Work) -> None:
        self.work = work

    def execute(self, action: Exchange) -> Done:
        """Contradicted where home is found changed when it is half done."""
        work, properties = self.work, self.work.home.properties
        at_once = properties.exchange and properties.stable_inodes
        try:
            with work.progress.names.moving():
                at_once = at_once and not (work.doubt and self._began(action))
                if at_once:
                    self._at_once(action)
                else:
                    self._by_steps(action)
                work.home.forget_directories()
                work.locator.forget()
                return work.finish(action, NOTHING)
        except OSError as exc:
            trouble = work.trouble(exc, action.place, Verb.MOVE, action.kind)
            if not at_once:
                raise self._broken_off(action, trouble) from exc
            if isinstance(trouble, MayEnd):
                raise Failed(trouble, partial=True) from exc
            raise trouble from exc

    def go_on(self, action: Exchange) -> bool:
        """Finish what home tells to be half done by steps, whoever has begun it; whether there was
        any such thing. (Before step 2 it looks like a swap that is cleaned away.)"""
        work, key = self.work, record_key(action.ids[0])
        try:
            began = self._began(action)
        except OSError as exc:
            if work.journal.get(key) is None:
                work.journal.put(key, _STEPS)  # for all that is known
            raise work.trouble(exc, action.place, Verb.MOVE, action.kind) from exc
        if began:
            Exchanger(replace(work, doubt=True)).execute(action)
        return began

    def aside(self, action: Exchange) -> tuple[int, bytes]:
        """Where the first of the two lies while it is half done."""
        return self.work.home.directory(_inside(action.ids[0])), _A

    def has_moved_both(self, action: Exchange) -> bool:
        """Whether the second has certainly come to its new place, of one that is half done."""
        return _exists(self.work.home, _inside(action.ids[0]), _HALF)

    def _began(self, action: Exchange) -> bool:
        """Whether it has begun to move something by steps."""
        inside = _inside(action.ids[0])
        return any(_exists(self.work.home, inside, name) for name in (_A, _HALF))

    def _broken_off(self, action: Exchange, trouble: Exception) -> Exception:
        """What trouble with a step means. What is not half done was not begun: home tells."""
        work, entry = self.work, action.ids[0]
        if isinstance(trouble, Unclear):
            # Half-way, and what is below would be looked for in the wrong place.
            return gone(os.fsdecode(work.path(action.place)), trouble.errno)
        if isinstance(trouble, HomeAway):
            return trouble
        try:
            half = self._began(action)
        except OSError:
            half = True
        if not half:
            work.journal.put(record_key(entry), None)
            return Failed(trouble, partial=False) if isinstance(trouble, MayEnd) else trouble
        if work.journal.get(record_key(entry)) != _STEPS:  # another journal knew of it
            work.journal.put(record_key(entry), _STEPS)
        log.warning("half done, with one of the two in home's %s: %s", where(entry), trouble)
        if isinstance(trouble, Inconsistent):
            return Contradicted(trouble, partial=True)
        if isinstance(trouble, Unrepresentable):  # home had held both before
            trouble = MayEnd(trouble.errno, str(trouble))
        return Failed(trouble, partial=True) if isinstance(trouble, MayEnd) else trouble

    def _at_once(self, action: Exchange) -> None:
        work, home, key = self.work, self.work.home, record_key(action.ids[0])
        a = work.directory(action.place[0]), action.place[1]
        b = work.directory(action.target[0]), action.target[1]
        st, other = home.lstat(*a), home.lstat(*b)
        now = f"{st.st_ino} {other.st_ino}"
        before = work.journal.get(key) if work.doubt else None
        before = None if before == _STEPS else before  # none of them was done
        if before is not None and before == f"{other.st_ino} {st.st_ino}" != now:
            return  # done before the interruption
        if before not in (None, now):
            raise Inconsistent(work.path(action.place), "is neither of what was to be swapped")
        want_kind(st, action.kind, work.path(action.place))
        if before is None:
            work.journal.put(key, now)  # durable before home is touched
        try:
            home.exchange(*a, *b)
        except OSError as exc:
            if not self._swapped(action, a, other.st_ino):
                raise
            log.info("%s: swapped in spite of: %s", action, exc)

    def _swapped(self, action: Exchange, at: tuple[int, bytes], home_ino: int) -> bool:
        """Whether home's object of this number is there. HomeAway where that stays open."""
        try:
            return self.work.home.lstat_anew(*at).st_ino == home_ino
        except OSError as exc:
            raise gone(os.fsdecode(self.work.path(action.place)), exc.errno) from exc

    def _by_steps(self, action: Exchange) -> None:
        work, home, inside = self.work, self.work.home, _inside(action.ids[0])
        a = work.directory(action.place[0]), action.place[1]
        b = work.directory(action.target[0]), action.target[1]
        if not _exists(home, inside, _A):
            if _exists(home, inside, _HALF):
                return
            self._begin(action, a, b)
        if not _exists(home, inside, _HALF):
            if not _there(home, *a):
                home.rename_new(*b, *a)
                home.sync()
            elif _there(home, *b):  # home was changed, and `half` must not say that b has moved
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            _turn(home, inside)
            home.sync()
        home.rename_new(*self.aside(action), *b)

    def _begin(self, action: Exchange, a: tuple[int, bytes], b: tuple[int, bytes]) -> None:
        """What can fail for want of room, and then the step after which it is half done."""
        work, home, entry = self.work, self.work.home, action.ids[0]
        want_kind(home.lstat(*a), action.kind, work.path(action.place))
        home.lstat(*b)
        _make(home, (MARKER,), EXCHANGE[-1])
        _make(home, EXCHANGE, _name(entry))
        _make(home, _inside(entry), _WHOLE)
        work.journal.put(record_key(entry), _STEPS)  # durable before anything moves
        home.sync()
        home.rename(*a, *self.aside(action))
        home.sync()


def clean(home: Home, journal: Journal) -> None:
    """Remove what swaps left behind whose outcomes are recorded. What can't be removed stays."""
    try:
        fd = home.open_directory(EXCHANGE)
        try:
            names = [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)
        waiting = journal.requeued()
        for name in names:
            entry = int(name, 16)
            if not journal.in_flight(entry) and entry not in waiting:
                _remove(home, entry)
                if journal.get(record_key(entry)) is not None:  # a job has finished it
                    journal.put(record_key(entry), None)
    except (OSError, ValueError):
        pass  # nothing depends on it


def _remove(home: Home, entry: int) -> None:
    inside = _inside(entry)
    if _exists(home, inside, _A):
        log.warning("home's %s is left of a change that the queue does not hold", where(entry))
        return
    for name in (_WHOLE, _HALF):
        if _exists(home, inside, name):
            home.rmdir(home.directory(inside), name)
    home.rmdir(home.directory(EXCHANGE), _name(entry))
    home.forget_directory(inside)


def _name(entry: int) -> bytes:
    return b"%x" % entry


def _inside(entry: int) -> Path:
    return (*EXCHANGE, _name(entry))


def _exists(home: Home, path: Path, name: bytes) -> bool:
    try:
        return _there(home, home.directory(path), name)
    except FileNotFoundError:
        return False


def _there(home: Home, dirfd: int, name: bytes) -> bool:
    try:
        home.lstat_anew(dirfd, name)  # what an earlier attempt has moved may be remembered there
    except FileNotFoundError:
        return False
    return True


def _turn(home: Home, inside: Path) -> None:
    """Step 4. One that an earlier version has begun has nothing to rename."""
    dirfd = home.directory(inside)
    try:
        home.rename(dirfd, _WHOLE, dirfd, _HALF)
    except FileNotFoundError:
        _make(home, inside, _HALF)


def _make(home: Home, path: Path, name: bytes) -> None:
    try:
        home.make_dir(home.directory(path), name)
    except FileExistsError:
        pass
