"""Callbacks: programs that the administrator has run when something happens.

Whatever is recorded as an event starts them, whoever recorded it: the database itself tells of each
row of its table of events, and the rows are read when the transaction is over. A program runs
beside the requests with no lock held, so it may use the mount; one after the other for each
callback. What waits is bounded, and is given up with the mount.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import trio

from afmfs.cache.callback.program import Checker, Program
from afmfs.cache.report.queue import rfc3339
from afmfs.cache.store.store import Store
from afmfs.errors import AfmError, Refused
from afmfs.model.callback import Callback, environment_of, values_of

log = logging.getLogger(__name__)

MOST = 100
"""Callbacks of one fileset."""

WAITING = 1000
"""Events that wait for one callback, at most."""

FAILED = "afmCallbackFailed"


class Event(NamedTuple):
    number: int
    time_ns: int
    name: str
    detail: dict[str, Any]


class Record(Protocol):
    def __call__(self, name: str, **detail: Any) -> None: ...


class Line:
    """What waits for one callback."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callback, Event]] = deque()
        self.dropped = 0


class Callbacks:
    def __init__(
        self,
        store: Store,
        sync_wal: Callable[[], Awaitable[None]],
        record: Record,
        about: Callable[[], Mapping[str, str]],
    ) -> None:
        """`about`: the variables that all events have in common."""
        self._store, self._sync_wal, self._record, self._about = store, sync_wal, record, about
        stored = json.loads(store.get("callbacks") or "[]")
        self._table = {one["id"]: Callback.from_dict(one) for one in stored}
        self._checker = Checker({0, os.geteuid()})
        self._lines: dict[str, Line] = {}
        self._serving = trio.Event()
        self._news = trio.Event()
        self._fired: list[Event] = []
        self._seen = store.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
        # On this connection only, and gone with it. A trigger fires inside the transaction; the
        # task that it wakes runs after it, as nothing awaits inside one.
        store.db.create_function("afmfs_event", 0, lambda: self._news.set())
        store.execute(
            "CREATE TEMP TRIGGER event_recorded AFTER INSERT ON event"
            " BEGIN SELECT afmfs_event(); END"
        )

    # -- the table -------------------------------------------------------------------------------

    def listing(self) -> list[Callback]:
        return [self._table[key] for key in sorted(self._table)]

    async def add(self, callback: Callback) -> None:
        """Have a program run from now on; durable on return. AfmError where that is unsafe."""
        self._admit(callback)
        await self._checker.check(callback.command)
        self._admit(callback)
        await self._keep({**self._table, callback.id: callback})

    def _admit(self, callback: Callback) -> None:
        if callback.id in self._table:
            raise Refused(f"there is a callback {callback.id}; `delcallback {callback.id}` first")
        if len(self._table) >= MOST:
            raise Refused(f"there are {MOST} callbacks, and no more than that are possible")

    async def delete(self, ids: Iterable[str]) -> None:
        """All of them or, where one is unknown, none; durable on return. What waits for them is
        given up, what runs goes on."""
        gone = set(ids)
        for one in sorted(gone - self._table.keys()):
            raise AfmError(f"no callback {one}; `lscallback` lists them", errno=errno.ENOENT)
        await self._keep({key: one for key, one in self._table.items() if key not in gone})
        for one in gone & self._lines.keys():
            self._lines[one].waiting.clear()

    async def _keep(self, table: dict[str, Callback]) -> None:
        with self._store as store:
            store.put("callbacks", json.dumps([one.to_dict() for one in table.values()]))
        self._table = table
        await self._sync_wal()

    # -- firing ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """The mount serves: programs may run that use it."""
        self._serving.set()

    async def run(self) -> None:
        """Run what is registered for each new event, until cancelled; then end what runs."""
        await self._serving.wait()
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                fired, self._fired = self._fired, []
                for event in (*self._new_events(), *fired):
                    for callback in self._table.values():
                        if event.name in callback.events:
                            self._queue(callback, event, nursery)

    def fire(self, name: str, **detail: Any) -> None:
        """Run what is registered for an event that the database does not take."""
        self._fired.append(Event(0, time.time_ns(), name, detail))
        self._news.set()

    def _new_events(self) -> Iterator[Event]:
        try:
            rows = self._store.execute(
                "SELECT id, time_ns, name, detail FROM event WHERE id > ? ORDER BY id",
                (self._seen,),
            ).fetchall()
        except sqlite3.Error as exc:
            log.error("callbacks: events can't be read: %s", exc)
            return
        for number, time_ns, name, text in rows:
            self._seen = number
            detail = json.loads(text or "{}")
            event = Event(number, time_ns, name, detail if isinstance(detail, dict) else {})
            # Its own failure must not start a callback over and over again.
            if not (name == FAILED and event.detail.get("event") == FAILED):
                yield event

    def _queue(self, callback: Callback, event: Event, nursery: trio.Nursery) -> None:
        line = self._lines.get(callback.id)
        if line is None:
            line = self._lines[callback.id] = Line()
            nursery.start_soon(self._work, callback.id, line)
        if len(line.waiting) < WAITING:
            line.waiting.append((callback, event))
            return
        if not line.dropped:
            log.error(
                "callback %s: %d events wait for it; what comes now is dropped",
                callback.id,
                WAITING,
            )
        line.dropped += 1

    async def _work(self, identity: str, line: Line) -> None:
        """Run what waits for one callback, one after the other."""
        while line.waiting:
            callback, event = line.waiting.popleft()
            if line.dropped:
                log.error("callback %s: %d events were dropped", identity, line.dropped)
                line.dropped = 0
            try:
                await self._run(callback, event)
            except Exception:  # the fileset goes on, whatever is wrong with a callback
                log.exception("callback %s at %s", identity, event.name)
        del self._lines[identity]

    # -- running ---------------------------------------------------------------------------------

    async def _run(self, callback: Callback, event: Event) -> None:
        values = values_of(event.name, rfc3339(event.time_ns), event.detail, self._about())
        log.info("callback %s: %s runs at %s", callback.id, callback.command, event.name)
        try:
            # Again: what was safe when it was added may not be so now.
            await self._checker.check(callback.command)
            running = await trio.to_thread.run_sync(
                Program, callback.words(values), environment_of(values)
            )
        except (AfmError, OSError) as exc:
            self._failed(callback, event, str(exc))
            return
        await self._watch(callback, event, running)

    async def _watch(self, callback: Callback, event: Event, running: Program) -> None:
        """See a program to its end, which comes when its time is up."""
        late = ended = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.output.collect)
                late = not await running.ends_within(callback.timeout)
                if late:
                    self._failed(callback, event, await _end_late(callback, running))
                    await running.ended()  # one that is stuck keeps the next from starting
                ended = True
                nursery.cancel_scope.cancel()
        finally:
            if not ended:  # the mount ends
                with trio.CancelScope(shield=True):
                    await running.end()
            status = running.close()
            for text in running.output.lines():
                log.info("callback %s: %s", callback.id, text)
        if not late and status:
            self._failed(callback, event, _how(status))

    def _failed(self, callback: Callback, event: Event, reason: str) -> None:
        log.error("callback %s at %s: %s", callback.id, event.name, reason)
        try:
            self._record(FAILED, callback=callback.id, event=event.name, reason=reason)
        except (OSError, sqlite3.Error) as exc:  # a full disk
            log.error("callback %s: the event can't be kept: %s", callback.id, exc)


async def _end_late(callback: Callback, running: Program) -> str:
    took = f"{callback.command} took more than {callback.timeout:g} s"
    if await running.end():
        return f"{took} and was ended"
    return f"{took} and can't be killed: it is stuck"


def _how(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"killed by signal {-status}"
