"""A home that was found, claimed and probed; and its opening, again and again, by path.

Between batches nothing below home is open. Each batch or fetch opens home anew, by its path, and
sees by the marker that it is still ours and by the mount's number that it is still the one that
was probed. At its end `check` tells whether all of it lay within one connection.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from afmfs.gateway.home import marker, syscalls
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Claim, Forbidden, Marker
from afmfs.gateway.home.memory import fstat_own
from afmfs.gateway.home.probe import probe
from afmfs.gateway.home.trouble import HomeAway, Trouble, Unclear, gone
from afmfs.model.properties import Properties

_UNMOUNTED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


SLACK_NS = 4 * 10**9
"""A marker's modification time may seem so much earlier than it was set: homes keep whole seconds,
or two, and round as they like."""


ANSWERED_S = 0.5
"""For so long after a judgement home is taken to answer still."""


class Era:
    """How far home has come, as its marker's modification time tells: moved on with every batch.

    What the queue has forgotten because home had it is lost there if home is put back from a
    snapshot or a backup, or did not keep what it confirmed. Nothing else may ever tell of it: the
    files concerned may never be looked at again, and their only copy be evicted here.
    """

    def __init__(self, reached: int = 0) -> None:
        """`reached`: the latest time that home is known to have kept, ns; 0 if none is known."""
        self.reached = reached


def is_older(time_ns: int, reached: int) -> bool:
    """Whether a marker's time is before one that was reached when it was not looked at yet: a batch
    may end, and move it on, meanwhile."""
    return time_ns + SLACK_NS < reached


class PutBack(HomeAway):
    """Home is ours, but older than it was: connect again, at once, which reports it."""

    def __init__(self, path: bytes) -> None:
        super().__init__("Disconnected", f"{os.fsdecode(path)} is an older state of home")


class Remounted(HomeAway):
    """Home is there and ours, but was mounted anew: connect again, at once."""

    def __init__(self, path: bytes) -> None:
        super().__init__("Disconnected", f"{os.fsdecode(path)} was mounted anew")


def away(path: bytes, exc: OSError) -> HomeAway:
    """What an error of opening home (not of something in it) means."""
    missing = exc.errno in _UNMOUNTED
    return gone(os.fsdecode(path), exc.errno, "Unmounted" if missing else "Disconnected")


def unclear(trouble: HomeAway) -> Unclear:
    """What seems to speak of home as a whole, at a home that answers."""
    return Unclear(errno.EIO, trouble.reason.partition(";")[0])


def _nothing() -> None:
    pass


def connect(
    path: bytes,
    wish: Claim,
    previous: Properties | None = None,
    mount: str = "",
    pulse: Callable[[], None] = _nothing,
    era: Era | None = None,
) -> Connection:
    """Find home at `path`, claim its marker, try out what it can hold.

    `previous` is what the last connection to this home saw. If `mount`, the number of its mount,
    is given and still the same, it holds: a probe is over a hundred round trips.
    HomeAway if home can't be reached or isn't there, Forbidden if it is another cache's. Blocks
    as long as home does; `pulse` is called whenever it has answered, as also by what is opened.
    """
    try:
        home, era = Home(path, pulse=pulse), era or Era()
        try:
            older = _is_older(home, wish, era)
            # An older one stays so till this is durable here, and something is done at home again.
            time_ns = era.reached if older else max(time.time_ns(), era.reached)
            found = marker.claim(home, replace(wish, time_ns=time_ns))
            number = home.mount_id()
            known = previous is not None and previous.tried
            if previous is None or not (known and number == mount and syscalls.is_unique(number)):
                previous = probe(home, previous)
            return Connection(path, found, previous, number, pulse, era, older)
        finally:
            home.close()
    except OSError as exc:
        raise away(path, exc) from exc


def _is_older(home: Home, wish: Claim, era: Era) -> bool:
    """Whether this is an older state of our own home. Then it is taken for what home is now."""
    reached = era.reached
    try:
        found, time_ns = marker.look(home)
        if is_older(time_ns, reached):
            found, time_ns = marker.look(home, anew=True)
    except Forbidden:
        return False
    if found is None or found.identity != wish.ours.identity:
        return False
    if not (is_older(time_ns, reached) or found.token in wish.past):
        return False
    era.reached = time_ns
    return True


class Connection:
    """A claimed home. Immutable, holds nothing open, used by any number of threads."""

    def __init__(
        self,
        path: bytes,
        found: Marker,
        properties: Properties,
        mount: str,
        pulse: Callable[[], None] = _nothing,
        era: Era | None = None,
        older: bool = False,
    ) -> None:
        self.path = path
        self.older = older  # than home was when it was last heard of
        self._era = era or Era()
        self._pulse = pulse
        self.marker = found
        self.properties = properties
        self.mount = mount

    @contextmanager
    def opened(self) -> Iterator[Home]:
        """Home, open for one batch or some fetches. HomeAway if it isn't there any more."""
        home = self._open()
        try:
            yield home
        finally:
            home.close()

    def _open(self) -> Home:
        try:
            home = Home(self.path, self.properties, self._pulse)
            try:
                home.handle = self._open_marker(home)
                if home.mount_id() != self.mount:
                    raise Remounted(self.path)
            except BaseException:
                home.close()
                raise
        except OSError as exc:
            raise away(self.path, exc) from exc
        return home

    def _open_marker(self, home: Home) -> int:
        """A descriptor of the marker, which says that home is ours."""
        reached = self._era.reached
        try:
            fd, raw, st = marker.open_marker(home)
        except FileNotFoundError:
            raise marker.missing(home) from None
        except Forbidden as exc:
            raise HomeAway("Unmounted", exc.reason) from None
        try:
            self._compare(raw)
            if is_older(st.st_mtime_ns, reached):
                st = fstat_own(fd)
            if is_older(st.st_mtime_ns, reached):
                raise PutBack(self.path)
        except BaseException:
            os.close(fd)
            raise
        home.reached = max(st.st_mtime_ns, self._era.reached)
        return fd

    def _compare(self, raw: bytes) -> None:
        try:
            found = marker.parse(raw)
        except Forbidden as exc:
            raise HomeAway("Unmounted", exc.reason) from None
        if (found.identity, found.token) != (self.marker.identity, self.marker.token):
            raise HomeAway("Unmounted", f"home now belongs to {found.who}")

    def check(self, home: Home) -> None:
        """Whether all since `opened` lay within one connection to home; HomeAway if not.

        The marker's handle answers only while the server that gave it out is there; the path
        still leads through the same mount to our marker.
        """
        try:
            syscalls.revalidate(home.handle)
            if self.properties.is_fuse:
                # a FUSE daemon that reconnects by itself knows its old handles only by fsync
                os.fsync(home.handle)
            self._pulse()
            again = Home(self.path, pulse=self._pulse)
            try:
                os.close(self._open_marker(again))
                if again.mount_id() != home.mount_id():
                    raise Remounted(self.path)
            finally:
                again.close()
        except OSError as exc:
            raise away(self.path, exc) from exc

    def judge(self, home: Home, trouble: Trouble) -> Trouble:
        """An input/output error of one object, seen in the light of the whole home.

        A bad sector must not look like a home that is away, for ever: where all else answers,
        only what met the error is put off.
        """
        if not isinstance(trouble, HomeAway):
            return trouble
        try:
            self.check(home)
        except HomeAway as exc:
            return exc
        return unclear(trouble)


class Judge:
    """As `Connection.judge`, of all that one batch meets at an open home. A whole directory of bad
    objects does not have home asked for each: where it went away in between, the check at the end
    of the batch tells, and none of these judgements is recorded."""

    def __init__(self, connection: Connection, home: Home) -> None:
        self._connection, self._home = connection, home
        self._answered = -math.inf

    def __call__(self, trouble: Trouble) -> Trouble:
        if not isinstance(trouble, HomeAway):
            return trouble
        if time.monotonic() - self._answered < ANSWERED_S:
            return unclear(trouble)
        judged = self._connection.judge(self._home, trouble)
        if isinstance(judged, Unclear):
            self._answered = time.monotonic()
        return judged
