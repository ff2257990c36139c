"""What administrators ask of a fileset, and what runs beside the requests."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from afmfs.cache.callback.callbacks import Callbacks
from afmfs.cache.check.live import LiveCheck
from afmfs.cache.command.commands import execute
from afmfs.cache.content import leftovers
from afmfs.cache.content.harm import DAMAGED
from afmfs.cache.job.automatic import Automatic
from afmfs.cache.job.jobs import RESYNC
from afmfs.cache.job.moving import Moving
from afmfs.errors import Refused
from afmfs.model.callback import home_server
from afmfs.model.states import Link

if TYPE_CHECKING:
    from afmfs.cache.content.blobs import Blobs
    from afmfs.cache.evict.evict import Evictions
    from afmfs.cache.home.trash import TrashDesk
    from afmfs.cache.names.listing import Lister
    from afmfs.cache.store.checkpoint import Checkpointer
    from afmfs.cache.store.inode import Inode

log = logging.getLogger(__name__)

WAKE_S = 0.3
LARGE = 4
"""How many times as long as a request of its own a writer waits for what home is getting."""


class Steering(Moving):
    """The half of the fileset that has no file in it."""

    _blobs: Blobs
    _lister: Lister
    _checkpointer: Checkpointer
    trash: TrashDesk
    evictions: Evictions

    async def lookup(self, parent: int, name: bytes) -> Inode:
        """The object at a name (the fileset's own)."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._automatic = Automatic(
            self._store,
            self.jobs,
            self._link,
            lambda: (
                self.settings.mode == "sw"  # another's data are not to be overwritten
                and self.settings.tunables.auto_resync
                and not self.stopped
            ),
        )
        self._fetcher.asked = self._lister.asked = self._automatic.asked
        self.callbacks = Callbacks(
            self._store, self._durable.sync_wal, self.record_event, self._about
        )

    async def execute(self, line: str) -> str:
        """Execute a control command; its reply. AfmError where it is refused."""
        return await execute(self, line)

    def touch(self) -> None:
        """Activate an Inactive fileset."""
        self.touched = True

    # -- commands --------------------------------------------------------------------------------

    def flush_pending(self) -> int:
        """Execute everything that is pending now, whatever its age; the last number of it."""
        self.flush_through, self.settled_through = self._store.entries.last, 0
        self._link.post({"type": "flush", "through": self.flush_through})
        self._automatic.asked()
        return self.flush_through

    # What the queue can do for room in the cache (`room.Replay`).

    def drains(self) -> bool:
        """Whether something is pending, and home takes it now."""
        idle = self.stopped or self.needs_resync or self.jobs.current is not None
        up = self._link.home.link is Link.UP
        return up and not idle and self._store.counters.queue_length > 0

    def hasten(self) -> None:
        """Execute all that is pending, whatever its age."""
        if self._store.entries.last > self.flush_through:
            self.flush_pending()

    def retired(self) -> int:
        """Entries retired since the mount."""
        return self._retirement.entries

    def patience_s(self) -> float:
        """How long it may take till the next one is."""
        home = self._link.home
        return self.settings.tunables.home_timeout * (LARGE if home.executing else 1)

    def stop(self) -> None:
        """Replay nothing until `start`, over mounts too."""
        self._set_running(stopped=True)

    def start(self) -> None:
        if self.harm:
            raise Refused(f"start: {self.harm.text}")
        self._set_running(stopped=False)

    def _set_running(self, *, stopped: bool) -> None:
        with self._store as store:
            store.put("stopped", int(stopped))
            store.put("stopped_reason", "")
        self._store.sync_wal()
        self.post_run()

    def resume_requeued(self) -> int:
        """Try requeued entries at once; how many there are."""
        self.settled_through = 0
        self._link.post({"type": "resume"})
        self._automatic.asked()
        return self.facts().requeued

    async def resync(self, *, keep_uncached: bool) -> None:
        """Have home made to agree with the cache; durable on return, done in the background."""
        await self.jobs.start(RESYNC, manual=True, keep_uncached=keep_uncached)

    def start_report(self, kind: str, **options: Any) -> int:
        """Have a long report made; its number. It is read from `report_lines`."""
        return self.reports.start(kind, **options)

    def start_check(self) -> int:
        """Have the cache checked beside its work; the number of the report."""
        cache = self.settings.cache
        token = trio.lowlevel.current_trio_token()

        def damaged(text: str, database: bool) -> None:  # in the thread of the check
            token.run_sync_soon(lambda: self.harm.prove(text, database=database))

        return self.reports.start_here("check", cache, lambda put: LiveCheck(cache, put, damaged))

    def cancel_report(self) -> int:
        """Have the report ended that is being made; its number."""
        return self.reports.cancel()

    def set_auto_resync(self, *, on: bool) -> None:
        """Whether a resync starts by itself; remembered, durable on return."""
        tunables = replace(self.settings.tunables, auto_resync=on)
        with self._store as store:
            store.put("tunables", json.dumps(tunables.to_dict()))
        self._store.sync_wal()
        self.settings = replace(self.settings, tunables=tunables)

    async def drop(self, number: int) -> None:
        """Drop an entry for good: home will not have its change."""
        if not self._store.execute("SELECT 1 FROM queue WHERE id=?", (number,)).fetchone():
            raise Refused(f"drop: no entry {number} is pending; `queue` lists what is")
        reply, _ = await self._link.request("drop", id=number)
        if not reply["ok"]:
            raise Refused(f"drop: {reply.get('reason') or 'the entry is being executed'}")
        await self._retirement.take_over()
        self.record_event("afmQueueDropped", entry=number)

    def _about(self) -> dict[str, str]:
        """What a callback's program is told whatever has happened."""
        one = self.settings
        return {
            "fsName": one.device,
            "filesetName": one.fileset,
            "homeServer": home_server(one.target),
            "target": one.target,
            "cachePath": str(one.cache),
            "mountPoint": self.mount_point,
            "gatewayName": socket.gethostname(),
        }

    # -- tasks -----------------------------------------------------------------------------------

    def start_link(self, nursery: trio.Nursery) -> None:
        """Start the gateway; it ends with `close`."""
        nursery.start_soon(self._link.run)

    def serving(self) -> None:
        """The mount answers from now on."""
        self.callbacks.begin()

    def run_in(self, nursery: trio.Nursery) -> None:
        """Start everything that runs beside the requests."""
        self._fetcher.nursery = nursery
        self._durable.before.append(self._before_point)
        self._durable.after.append(self._after_point)
        nursery.start_soon(self._durable.run, self.settings.tunables.durable_interval)
        nursery.start_soon(self._checkpointer.run)
        nursery.start_soon(self._wake)
        nursery.start_soon(self._tell_of_harm)
        nursery.start_soon(self.callbacks.run)
        nursery.start_soon(self._automatic.run)
        nursery.start_soon(self._fill_pool)
        self.reports.nursery = nursery
        nursery.start_soon(leftovers.clear, self._store, self._blobs)

    def _before_point(self) -> None:
        self._forgettable = self._retirement.seq
        self.jobs.point_begins()

    def _after_point(self) -> None:
        """The gateway forgets an outcome only when its retirement is durable
        (forget-after-durable)."""
        if self._forgettable:
            self._link.post({"type": "forget", "seq": self._forgettable})
        self.jobs.point_made()

    async def _fill_pool(self) -> None:
        """Have empty blobs ready."""
        while True:
            await self._blobs.pool_low.wait()
            try:
                await self._fill_pool_once()
            except (OSError, sqlite3.Error) as exc:  # the writers hear of it themselves
                log.debug("no blobs can be made in advance: %s", exc)
                await trio.sleep(1)

    async def _fill_pool_once(self) -> None:
        count = self._blobs.wanted()
        if not count:
            await trio.sleep(1)
            return
        async with self._blobs.filling:
            numbers = self._store.entries.take_run(count)
            with self._store as store:
                first = self._blobs.oldest_in_pool or numbers.start
                store.put("pool", json.dumps([first, numbers.stop]))
            made = await trio.to_thread.run_sync(self._blobs.fill_pool, numbers)
            self._blobs.take_over(made)

    async def _tell_of_harm(self) -> None:
        """Have nothing replayed once damage is proven, and tell of it. A damaged database takes no
        event: its callbacks run all the same, and the list of events has it from the note."""
        while True:
            await self.harm.news.wait()
            self.harm.news = trio.Event()
            self.post_run()
            note = self.harm.note
            if note is None:
                continue
            try:
                self.record_event(DAMAGED, reason=note.text)
            except (OSError, sqlite3.Error):
                self.callbacks.fire(DAMAGED, reason=note.text)

    async def _wake(self) -> None:
        """Tell the gateway of new entries, a few times a second at most."""
        told = 0
        while True:
            await trio.sleep(WAKE_S)
            try:
                self._automatic.look()
            except sqlite3.Error as exc:  # a disk that can't be read
                log.error("the queue can't be looked at: %s", exc)
            if self._store.entries.last != told:
                told = self._store.entries.last
                self._link.post({"type": "wake"})
