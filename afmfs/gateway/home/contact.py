"""Whether home can be reached: connecting, probing at most ten seconds apart, and saying so.

One thread connects and probes. The others open home for a batch or a fetch; what they meet ends the
connection for all. A probe that hangs is a probe that failed: home is away until it comes back.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, perf_counter
from typing import Any

from afmfs.gateway.home.connection import Connection, Era, PutBack, Remounted, connect
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Claim, Forbidden, Marker
from afmfs.gateway.home.trouble import HomeAway, gone
from afmfs.gateway.protocol import Message
from afmfs.model import remedies
from afmfs.model.properties import Properties
from afmfs.model.target import parse_target
from afmfs.model.times import held

log = logging.getLogger(__name__)

RETRIES_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses between attempts to connect; the last one repeats."""

STALLS_S = 10.0
"""A call to home that has not returned for so long, while probes do, is told of."""

PROBE_S = 10.0
"""Between two probes of a home that is up."""

SILENCE_S = 2.0
"""A call to home that has not returned for so long has home probed."""

HANGS_S = 5.0
"""A probe has failed when no call to home has returned for so long. A call is up to four requests
to a home that the kernel remembers nothing of: one that needs a second for each is slow, not away.
"""

_CALLS = 15
"""Calls to home that one probe takes, about."""

_OPENING = 8
"""Calls that it takes to open home, about."""

_SLOW_S = 1.0
"""Where they take so long, it says how slow home is before anything is done there."""

Send = Callable[[Message], None]


class Contact:
    def __init__(
        self,
        hello: Message,
        send: Send,
        observe: Callable[[float], None],
        era: Era | None = None,
    ) -> None:
        self.era = era or Era()
        self.put_back: Callable[[], None] = lambda: None
        """Called before anything else is done at a home that is older than it was."""
        self._path = parse_target(hello["target"])
        self._claim = _claim(hello)
        self._send, self._observe = send, observe
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._properties: Properties | None = None  # of the last connection
        self._mount = ""  # its mount's number
        self._away: HomeAway | None = HomeAway("Disconnected", "home was not reached yet")
        self._told: Message | None = None  # the last that was said of home's being away
        self._busy = 0  # threads at work at home
        self._prober = 0  # the thread that probes
        self._life = 0.0  # when a call to home last returned
        self._at_work: dict[int, float] = {}  # threads that have home open: when theirs did
        self._probing: float | None = None  # since when
        self._probed = 0.0  # when the last probe ended
        self._pulsed = 0.0
        self._probe_now = self._stopping = False
        self.statvfs: dict[str, int] = {}
        self.up_again: Callable[[], None] = lambda: None

    # -- for those who need home -----------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self._away is None

    @contextmanager
    def opened(self) -> Iterator[tuple[Connection, Home]]:
        """Home, open for one batch or one fetch; HomeAway if it isn't there.

        A HomeAway that is raised inside ends the connection.
        """
        connection, away = self._connection, self._away
        if connection is None or away is not None:
            away = away or HomeAway("Disconnected", "home was not reached yet")
            raise HomeAway(away.state, away.reason)
        me = threading.get_ident()
        with self._changed:
            self._busy += 1
            self._life = self._at_work[me] = monotonic()
        start = perf_counter()
        try:
            with connection.opened() as home:
                if (took := perf_counter() - start) > _SLOW_S:
                    self._observe(took / _OPENING)
                yield connection, home
        except HomeAway as trouble:
            self.lost(trouble, connection)
            raise
        finally:
            with self._changed:
                self._busy -= 1
                self._at_work.pop(me, None)

    def pulse(self) -> None:
        """A call to home has returned: a sign of life, told a few times a second at most."""
        self._life = now = monotonic()
        me = threading.get_ident()
        if me in self._at_work:
            self._at_work[me] = now
        elif me != self._prober:  # of the threads that work for one of those
            with self._changed:
                self._at_work.update(dict.fromkeys(self._at_work, now))
        if now - self._pulsed >= 0.25:
            self._pulsed = now
            self._send({"type": "alive"})

    @property
    def stalled_s(self) -> float:
        """For how long a call to home has not returned while home answers others; 0.0: none. Such
        is a frozen file system, which can be read."""
        with self._changed:
            longest = monotonic() - min(self._at_work.values(), default=math.inf)
        return longest if longest > STALLS_S and self._away is None else 0.0

    def lost(self, trouble: HomeAway, connection: Connection | None = None) -> None:
        """Home went away, as far as `connection` goes (None: whichever)."""
        with self._changed:
            if connection is not None and connection is not self._connection:
                return  # of an earlier connection
            self._connection = None
            self._away = trouble
            if not isinstance(trouble, (Remounted, PutBack)):
                self._tell_away(trouble)
            self._probe_now = True
            self._changed.notify_all()

    def _tell_away(self, trouble: HomeAway) -> None:
        message: Message = {"type": "away", "state": trouble.state, "reason": trouble.reason}
        self._tell(message)

    def _tell(self, message: Message) -> None:
        """Sent under the lock: what is said last must be what came last, as it is not repeated."""
        with self._changed:
            if message != self._told:
                self._told = message
                self._send(message)

    # -- the prober ------------------------------------------------------------------------------

    def run(self) -> None:
        """Connect and probe until stopped."""
        failures, self._prober = 0, threading.get_ident()
        while not self._stopping:
            if self._connection is None:
                failures = 0 if self._connect() else failures + 1
                pause = PROBE_S if not failures else RETRIES_S[min(failures, len(RETRIES_S)) - 1]
            else:
                self._probe()
                pause = PROBE_S if self._connection is not None else 0.0
            with self._changed:
                if pause and not (self._probe_now or self._stopping):
                    self._changed.wait(pause)
                self._probe_now = False

    def _connect(self) -> bool:
        self._probing = start = monotonic()
        try:
            connection = connect(
                self._path, self._claim, self._properties, self._mount, self.pulse, self.era
            )
            if connection.older:
                self.put_back()
            with connection.opened() as home:
                self._look(home)
                st = os.fstat(home.readable)
        except Forbidden as exc:
            self._away = HomeAway("Unmounted", exc.reason)
            self._tell({"type": "refused", "reason": exc.reason, "hint": exc.hint})
            return False
        except HomeAway as trouble:
            self._away = trouble
            self._tell_away(trouble)
            return False
        except OSError as exc:
            self._away = gone(os.fsdecode(self._path), exc.errno)
            self._tell_away(self._away)
            return False
        finally:
            self._probing, self._probed = None, monotonic()
        self._observe((monotonic() - start) / _CALLS)
        # Said once: said again later, they would seize what was taken or wiped since.
        self._claim = replace(self._claim, first=False, takeover=False)
        with self._changed:
            self._connection, self._properties = connection, connection.properties
            self._mount = connection.mount
            self._tell_connected(connection, st)
        self.up_again()
        return True

    def _tell_connected(self, connection: Connection, st: os.stat_result) -> None:
        """With the lock held."""
        self._away = self._told = None
        self._send(
            {
                "type": "connected",
                "properties": connection.properties.to_dict(),
                "statvfs": self.statvfs,
                "home_st": _map(st),
                "token": connection.marker.token,
            }
        )

    def _probe(self) -> None:
        connection = self._connection
        assert connection is not None
        self._probing, start = monotonic(), perf_counter()
        try:
            with connection.opened() as home:
                connection.check(home)
                self._look(home)
                st = os.fstat(home.readable)
        except HomeAway as trouble:
            self.lost(trouble, connection)
            return
        except OSError as exc:
            self.lost(gone(os.fsdecode(self._path), exc.errno), connection)
            return
        finally:
            self._probing, self._probed = None, monotonic()
        self._observe((perf_counter() - start) / _CALLS)
        with self._changed:
            hung = self._away is not None and self._connection is connection
            if hung:
                self._tell_connected(connection, st)  # and has come back
        if hung:
            self.up_again()

    def _look(self, home: Home) -> None:
        found = home.statvfs()
        self.statvfs = {
            "bsize": found.f_frsize,
            "blocks": found.f_blocks,
            "bfree": found.f_bfree,
            "bavail": found.f_bavail,
            "files": found.f_files,
            "ffree": found.f_ffree,
            "favail": found.f_favail,
            "namemax": found.f_namemax,
        }

    def tick(self) -> None:
        """Called every half second by a thread that never touches home: notices what hangs."""
        now = monotonic()
        probing = self._probing
        hangs = probing is not None and now - max(probing, self._life) > HANGS_S
        if hangs and self._told is None:
            where = os.fsdecode(self._path)
            trouble = HomeAway("Disconnected", f"{where} does not answer; {remedies.SERVER}")
            with self._changed:
                if self._probing == probing:  # it has not returned meanwhile
                    self._away = trouble
                    self._tell_away(trouble)
            return
        silent = now - max(self._life, self._probed) > SILENCE_S
        if silent and self._busy and probing is None and self._away is None:
            self.probe_now()

    def probe_now(self) -> None:
        with self._changed:
            self._probe_now = True
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()


def _claim(hello: Message) -> Claim:
    """What the cache may do with home's marker."""
    identity, owner = hello["identity"], hello["owner"]
    fileset = str(hello.get("fileset") or owner.get("fileset") or "")
    token = str(hello.get("token") or uuid.uuid4().hex)
    ours = Marker(identity, fileset, hello["counter"], token, owner)
    return Claim(
        ours,
        first=bool(hello.get("first")),
        takeover=bool(hello.get("takeover")),
        tokens=tuple(hello.get("tokens") or ()),
        past=tuple(hello.get("past") or ()),
        ours_alone=tuple(hello[key] for key in ("cache", "mount_point") if hello.get(key)),
    )


def _map(st: os.stat_result) -> dict[str, Any]:
    return {
        "mode": stat.S_IFDIR | stat.S_IMODE(st.st_mode),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "nlink": st.st_nlink,
        "size": st.st_size,
        "atime": held(st.st_atime_ns),
        "mtime": held(st.st_mtime_ns),
        "ctime": held(st.st_ctime_ns),
        "ino": st.st_ino,
    }
