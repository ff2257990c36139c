"""Swapping two names at home, so that the state after any interruption can be told.

A swap undoes itself when it is repeated, so in doubt it must be known whether it was done. Where
home can swap in one step and keeps inode numbers, the two numbers are recorded, durably, before it:
afterwards it is seen which of them stands where. Elsewhere three renames through a directory of
home's own, `.afm/exchange/<entry>`, each durable at home before the next:

    step                                exists afterwards
    1  make <entry>                     a, b, <entry>
    2  rename a to <entry>/a               b, <entry>/a
    3  rename b to a                    a,    <entry>/a
    4  make <entry>/half                a,    <entry>/a, <entry>/half
    5  rename <entry>/a to b            a, b,            <entry>/half

`<entry>` is removed only after the outcome is recorded (`clean`), so that in doubt: no `<entry>`,
nothing was done; `<entry>/a` without a, go on at 3; with a, at 4; neither `<entry>/a` nor
`<entry>/half`, at 2; `half` alone, all is done.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from afmfs.gateway.home.home import MARKER, Home
from afmfs.gateway.home.trouble import Inconsistent, MayEnd, Unclear, Verb, gone
from afmfs.gateway.home.walk import Path
from afmfs.gateway.replay.work import NOTHING, Done, Failed, Work, want_kind
from afmfs.gateway.state.journal import Journal
from afmfs.model.action import Exchange

log = logging.getLogger(__name__)

EXCHANGE: Path = (MARKER, b"exchange")
_A, _HALF = b"a", b"half"


def record_key(entry: int) -> str:
    """Where the journal keeps the inode numbers of a swap."""
    return f"exchange {entry}"


class Exchanger:
    def __init__(self, work: Work) -> None:
        self.work = work

    def execute(self, action: Exchange) -> Done:
        work, properties = self.work, self.work.home.properties
        at_once = properties.exchange and properties.stable_inodes
        try:
            with work.progress.names.moving():
                at_once = at_once and not self._began(action)
                if at_once:
                    self._at_once(action)
                else:
                    self._by_steps(action)
                work.home.forget_directories()
                work.locator.forget()
                return work.finish(action, NOTHING)
        except OSError as exc:
            trouble = work.trouble(exc, action.place, Verb.MOVE, action.kind)
            if isinstance(trouble, Unclear) and not at_once:
                # Half-way, and what is below would be looked for in the wrong place.
                trouble = gone(os.fsdecode(work.path(action.place)), exc.errno)
            if isinstance(trouble, MayEnd):
                # Where it is done by steps, some of them may be done.
                raise Failed(trouble, partial=True) from exc
            raise trouble from exc

    def go_on(self, action: Exchange) -> bool:
        """Finish what home tells to be half done by steps, whoever has begun it; whether there was
        any such thing. (Before step 2 it looks like a swap that is cleaned away.)"""
        inside: Path = (*EXCHANGE, _name(action.ids[0]))
        found = [_exists(self.work.home, inside, name) for name in (_A, _HALF)]
        if any(found):
            Exchanger(replace(self.work, doubt=True)).execute(action)
        return any(found)

    def _at_once(self, action: Exchange) -> None:
        work, home, key = self.work, self.work.home, record_key(action.ids[0])
        a = work.directory(action.place[0]), action.place[1]
        b = work.directory(action.target[0]), action.target[1]
        st, other = home.lstat(*a), home.lstat(*b)
        now = f"{st.st_ino} {other.st_ino}"
        before = work.journal.get(key) if work.doubt else None
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

    def _began(self, action: Exchange) -> bool:
        """Whether an earlier attempt has begun to do it by steps."""
        return self.work.doubt and _exists(self.work.home, EXCHANGE, _name(action.ids[0]))

    def _by_steps(self, action: Exchange) -> None:
        work, home = self.work, self.work.home
        a = work.directory(action.place[0]), action.place[1]
        b = work.directory(action.target[0]), action.target[1]
        name = _name(action.ids[0])
        if not _exists(home, EXCHANGE, name):
            want_kind(home.lstat(*a), action.kind, work.path(action.place))
            home.lstat(*b)
            _make(home, (MARKER,), EXCHANGE[-1])
            _make(home, EXCHANGE, name)
            home.sync()
        inside: Path = (*EXCHANGE, name)
        aside = home.directory(inside), _A
        if not _exists(home, inside, _A):
            if _exists(home, inside, _HALF):
                return
            home.rename(*a, *aside)
            home.sync()
        if not _there(home, *a):
            home.rename_new(*b, *a)
            home.sync()
        _make(home, inside, _HALF)
        home.sync()
        home.rename_new(*aside, *b)


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
                _remove(home, name)
    except (OSError, ValueError):
        pass  # nothing depends on it


def _remove(home: Home, name: bytes) -> None:
    inside: Path = (*EXCHANGE, name)
    if _exists(home, inside, _HALF):
        home.rmdir(home.directory(inside), _HALF)
    home.rmdir(home.directory(EXCHANGE), name)
    home.forget_directory(inside)


def _name(entry: int) -> bytes:
    return b"%x" % entry


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


def _make(home: Home, path: Path, name: bytes) -> None:
    try:
        home.make_dir(home.directory(path), name)
    except FileExistsError:
        pass
