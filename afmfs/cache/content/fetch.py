"""Bringing uncached blocks: each is fetched once, however many wait for it.

A fetch that is under way is void once anything was unmarked below it (a truncation, an eviction):
its bytes may be older than what was pushed since (fetch-unchanged). A write does not void it: what
was written is valid, and the answer only goes where nothing is (fetch-not-valid). Where the cache
has no room for it, and none can be made, it goes to those who read it, and is not kept.
"""

from __future__ import annotations

import errno
import logging
import math
import mmap
import os
import sqlite3
from collections.abc import Awaitable, Callable

import trio

from afmfs.cache.content.content import Content
from afmfs.cache.content.spare import Pieces, Spares
from afmfs.cache.content.validity import Validity
from afmfs.cache.home.link import GatewayLink
from afmfs.cache.names.namespace import failed
from afmfs.cache.store.inode import Inode, Stamp
from afmfs.cache.store.store import Store
from afmfs.errors import is_full
from afmfs.gateway.protocol import MAX_FETCH, Message, close_all

log = logging.getLogger(__name__)

READ_AHEAD = 8
"""Most blocks that a run of sequential reads brings ahead of itself."""

SAME_READ_S = 0.3
"""The kernel asks for a page again that it could not read ahead: so soon after a file was found
changed it is no new request."""


Version = tuple[int | None, int | None, int | None]
"""Of a file at home, as the cache knows it: size, mtime (ns) and inode number."""


class _Flight:
    """One request: blocks [first, last] of an inode, asked for when `known` was home's version."""

    __slots__ = ("done", "error", "first", "known", "last", "readers", "void")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.void = first, last, False
        self.known: Version | None = None
        self.readers = 0  # that wait for it
        self.error: OSError | None = None
        self.done = trio.Event()


class Fetcher:
    def __init__(
        self,
        store: Store,
        content: Content,
        validity: Validity,
        link: GatewayLink,
        point: Callable[[], int],
        timeout_s: float,
    ) -> None:
        self._store, self._content, self._validity = store, content, validity
        self._link, self._point, self._timeout_s = link, point, timeout_s
        self._flights: dict[int, list[_Flight]] = {}
        self._runs: dict[int, tuple[int, int]] = {}  # inode -> next block of a run, blocks ahead
        self._met: dict[int, float] = {}  # inode -> when it was found changed at home
        self._spares = Spares()
        self.nursery: trio.Nursery | None = None
        self.asked: Callable[[], None] = lambda: None  # called when home is asked
        self.used: Callable[[int], None] = lambda ino: None  # called when something has come
        self.make_room: Callable[[int], Awaitable[bool]] = _none  # for so many bytes, if it can be

    def void(self, ino: int) -> None:
        """What is under way for the inode is worthless."""
        for flight in self._flights.get(ino, ()):
            flight.void = True
        self._runs.pop(ino, None)
        if self._spares:
            self._spares.void(ino)

    def void_all(self) -> None:
        """Everything under way is worthless: home is another."""
        for ino in list(self._flights):
            self.void(ino)
        self._runs.clear()
        self._spares.void()

    async def ensure(self, inode: Inode, start: int, end: int) -> Pieces:
        """Bring what is missing of [start, end). What the cache has no room for is returned: it
        has to be read at once. EIO if home can't be asked or does not answer, or its version is
        not the known one."""
        waits_for: set[_Flight] = set()
        try:
            return await self._ensure(inode, start, end, waits_for)
        finally:
            for flight in waits_for:
                flight.readers -= 1

    async def _ensure(self, inode: Inode, start: int, end: int, waits_for: set[_Flight]) -> Pieces:
        deadline = trio.current_time() + self._timeout_s
        while trio.current_time() < deadline:
            numbers = self._validity.uncached_blocks(inode, start, end)
            if not numbers:
                return ()
            if self._spares:
                missing = self._validity.missing(inode, start, end)
                if (found := self._spares.of(inode.ino, missing)) is not None:
                    return found
            if self._store.execute("SELECT 1 FROM lost WHERE ino=?", (inode.ino,)).fetchone():
                raise failed(errno.EIO)  # a resync has found that home has no such file
            waits = [self._flight_of(inode, number) for number in numbers]
            flights = {flight for flight in waits if flight is not None}
            flights |= set(
                self._launch(inode, [n for n, f in zip(numbers, waits, strict=True) if not f])
            )
            self._read_ahead(inode, numbers)
            for flight in flights - waits_for:
                flight.readers += 1
            waits_for |= flights
            for flight in flights:
                await flight.done.wait()
                if flight.error is not None:
                    raise OSError(*flight.error.args)
        raise failed(errno.EIO)

    def _flight_of(self, inode: Inode, number: int) -> _Flight | None:
        for flight in self._flights.get(inode.ino, ()):
            if flight.first <= number <= flight.last and not flight.void:
                return flight
        return None

    def _launch(self, inode: Inode, numbers: list[int]) -> list[_Flight]:
        """One request for each run of neighbouring blocks."""
        assert self.nursery is not None
        most = max(1, MAX_FETCH // self._validity.block)
        launched: list[_Flight] = []
        for number in numbers:
            flight = launched[-1] if launched else None
            if flight and number == flight.last + 1 and number - flight.first < most:
                flight.last = number
            else:
                launched.append(_Flight(number, number))
        for flight in launched:
            self._flights.setdefault(inode.ino, []).append(flight)
            self.nursery.start_soon(self._fly, inode, flight)
        return launched

    def _read_ahead(self, inode: Inode, numbers: list[int]) -> None:
        """A run of sequential reads brings 1, 2, 4, 8 blocks more than it asked for."""
        following, ahead = self._runs.get(inode.ino, (-1, 0))
        ahead = min(max(1, ahead * 2), READ_AHEAD) if numbers[0] == following else 0
        if self._spares or self._content.is_crowded:
            ahead = 0  # what nobody has asked for yet must not take the room
        if len(self._runs) > 1024:
            self._runs.clear()
        first = numbers[-1] + 1
        self._runs[inode.ino] = (first + ahead, ahead)
        if ahead:
            size = self._validity.block
            wanted = self._validity.uncached_blocks(inode, first * size, (first + ahead) * size)
            self._launch(inode, [n for n in wanted if self._flight_of(inode, n) is None])

    async def _fly(self, inode: Inode, flight: _Flight) -> None:
        try:
            await self._fetch(inode, flight)
        except OSError as exc:
            flight.error = exc
        except Exception:
            log.exception("fetch of inode %d", inode.ino)
            flight.error = failed(errno.EIO)
        finally:
            remaining = self._flights[inode.ino]
            remaining.remove(flight)
            if not remaining:
                del self._flights[inode.ino]
            flight.done.set()

    async def _fetch(self, inode: Inode, flight: _Flight) -> None:
        size = self._validity.block
        start = flight.first * size
        end = min((flight.last + 1) * size, inode.home_valid)
        if start >= end:
            return  # truncated meanwhile: nothing is missing any more
        if trio.current_time() - self._met.get(inode.ino, -math.inf) > SAME_READ_S:
            self.asked()
        flight.known = _version(inode)
        reply, fds = await self._link.request("fetch", ino=inode.ino, start=start, end=end)
        try:
            if reply["errno"] == errno.EAGAIN:
                # Home is being renamed under it, or a doubt is being settled.
                await trio.sleep(0.02)
                return
            if reply["errno"] == errno.ESTALE:
                self._meet(inode.ino)
                raise failed(errno.EIO)
            if reply["errno"]:
                raise failed(reply["errno"])
            length = reply.get("length")
            if len(fds) != 1 or length is None or length > end - start:
                raise failed(errno.EIO)  # what was not asked for may be void
            await self._take(inode, flight, start, reply, fds[0])
        finally:
            close_all(fds)

    async def _take(
        self, inode: Inode, flight: _Flight, start: int, reply: Message, fd: int
    ) -> None:
        """What has come goes into the cache; what has no place there, to who waits for it."""
        while not flight.void and self._store.inode(inode.ino) is inode:
            try:
                self._put(inode, flight, start, reply, fd)
                return
            except (OSError, sqlite3.Error) as exc:
                if is_full(exc) and await self.make_room(reply["length"]):
                    continue
                if flight.void or self._store.inode(inode.ino) is not inode:
                    return
                log.debug("inode %d: what was fetched can't be kept: %s", inode.ino, exc)
            if flight.readers and reply["length"]:
                data = os.pread(fd, reply["length"], 0)
                self._spares.add(inode.ino, start, data, lambda: flight.readers > 0)
            return

    def _meet(self, ino: int) -> None:
        """The file was found changed at home."""
        if len(self._met) > 1024:
            self._met.clear()
        self._met[ino] = trio.current_time()

    def _put(self, inode: Inode, flight: _Flight, start: int, reply: Message, fd: int) -> None:
        length = reply["length"]
        self.used(inode.ino)
        stamp = reply.get("stamp")
        # A push that was retired since the request has left its stamp, which may be the younger
        # one. If it is not, the next answer says so again.
        if stamp and _version(inode) == flight.known:
            self._adopt(inode, Stamp(stamp["size"], stamp["mtime"], stamp["ino"]))
        if length:
            # Not closed here: where it fails, the traceback still holds parts of it.
            data = memoryview(mmap.mmap(fd, length, prot=mmap.PROT_READ))
            self._content.fill(inode, start, data, self._point())

    def _adopt(self, inode: Inode, stamp: Stamp) -> None:
        """A version at home that agrees with every cached byte is the known one from now on."""
        if _version(inode) != stamp:
            with self._store as store:
                store.save(inode, home_size=stamp.size, home_mtime=stamp.mtime, home_ino=stamp.ino)


def _version(inode: Inode) -> Version:
    return inode.home_size, inode.home_mtime, inode.home_ino


async def _none(size: int) -> bool:
    return False
