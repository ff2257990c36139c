"""What administrators ask of a fileset, and what runs beside the requests."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from afmfs import __version__
from afmfs.cache import queue_report
from afmfs.cache.automatic import Automatic
from afmfs.cache.blobs import POOL
from afmfs.cache.cached_report import cached_report
from afmfs.cache.callbacks import Callbacks
from afmfs.cache.commands import execute
from afmfs.cache.event_report import Event, read_events
from afmfs.cache.hearing import Hearing
from afmfs.cache.jobs import RECOVERY, RESYNC
from afmfs.cache.status import CachedReport, Status, dirty_bytes, with_block
from afmfs.cache.store import connect_read_only
from afmfs.errors import Refused
from afmfs.model.callback import home_server
from afmfs.model.states import Facts, reason, shown

if TYPE_CHECKING:
    from afmfs.cache.blobs import Blobs
    from afmfs.cache.checkpoint import Checkpointer
    from afmfs.cache.fetch import Fetcher
    from afmfs.cache.inode import Inode
    from afmfs.cache.listing import Lister
    from afmfs.cache.validity import Validity

log = logging.getLogger(__name__)

DIRTY_EXACT = 5_000
"""Pending entries up to which `dirty_bytes` is worked out exactly when status is read."""
WAKE_S = 0.3


class Steering(Hearing):
    """The half of the fileset that has no file in it."""

    _blobs: Blobs
    _validity: Validity
    _fetcher: Fetcher
    _lister: Lister
    _checkpointer: Checkpointer

    async def lookup(self, parent: int, name: bytes) -> Inode:
        """The object at a name (the fileset's own)."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.touched = False
        self._automatic = Automatic(
            self._store,
            self.jobs,
            self._link,
            lambda: self.settings.tunables.auto_resync and not self.stopped,
        )
        self._fetcher.asked = self._lister.asked = self._automatic.asked
        self.callbacks = Callbacks(
            self._store, self._durable.sync_wal, self.record_event, self._about
        )
        self._forgettable = 0  # outcomes whose retirement the running durable point covers

    async def execute(self, line: str) -> str:
        """Execute a control command; its reply. AfmError where it is refused."""
        return await execute(self, line)

    # -- reports ---------------------------------------------------------------------------------

    @property
    def mount_point(self) -> str:
        return str(self.settings.mountpoint)

    def touch(self) -> None:
        """Activate an Inactive fileset."""
        self.touched = True

    def facts(self) -> Facts:
        home, needs_resync, job = self._link.home, self.needs_resync, self.jobs.current
        return Facts(
            stopped=self.stopped,
            planning=self.jobs.planning,
            link=home.link,
            link_reason=home.reason,
            # What contradicts home is not settled by waiting, but by a job.
            recovering=job.kind == RECOVERY if job else self.recovering and not needs_resync,
            # What is found while a job runs is shown, and dealt with, after it.
            needs_resync="" if job else needs_resync,
            pending=self._store.counters.queue_length + self.jobs.left,
            requeued=home.requeued,
            resyncing=job is not None and job.kind != RECOVERY,
            touched=self.touched,
        )

    def status(self) -> Status:
        """One snapshot, from memory and counters: no scan, no home."""
        facts, home, store = self.facts(), self._link.home, self._store
        oldest = store.execute("SELECT id, queued_ns FROM queue ORDER BY id LIMIT 1").fetchone()
        here = os.statvfs(self.settings.cache)
        counters, process = store.counters, self._link.process
        now = time.monotonic()
        rates = self._pace.rates(now)
        status = Status(
            version=__version__,
            device=self.settings.device,
            fileset=self.settings.fileset,
            target=self.settings.target,
            mode=self.settings.mode,
            auto_resync=self.settings.tunables.auto_resync,
            state=shown(facts),
            reason=reason(facts),
            gateway=socket.gethostname(),
            gateway_pid=process.pid if process else None,
            mount_point=self.mount_point,
            cache=str(self.settings.cache),
            block_size=self.settings.block_size,
            queue_length=facts.pending,
            num_exec=home.num_exec,
            executing=home.executing,
            requeued=home.requeued,
            unrepresentable=store.execute("SELECT count(*) FROM unrepresentable").fetchone()[0],
            bytes_pending=counters.bytes_pending,
            dirty_bytes=self._dirty_bytes(),
            oldest_pending_seconds=max(0.0, (time.time_ns() - oldest[1]) / 1e9) if oldest else 0.0,
            last_entry=store.entries.last,
            entries_per_second=round(rates[0], 1),
            bytes_per_second=round(rates[1], 1),
            seconds_left=self._pace.seconds_left(now, counters.queue_length),
            flushed_through=oldest[0] - 1 if oldest else store.entries.last,
            settled_through=self.settled_through,
            report=self.reports.shown(),
            cached_bytes=counters.cached_bytes,
            cache_free_bytes=here.f_bavail * here.f_frsize,
            inodes=counters.inodes,
            home_latency_ms=home.latency_s * 1000 or None,
            connected_since=self.connected_since,
            last_error=self.last_error,
        )
        return with_block(status)

    def _dirty_bytes(self) -> int:
        counters = self._store.counters
        if counters.queue_length > DIRTY_EXACT:
            return min(counters.bytes_pending, counters.cached_bytes)
        return dirty_bytes(self._store.db)

    def cached(self, ino: int) -> CachedReport:
        inode = self._store.inode(ino)
        assert inode is not None
        return cached_report(inode, self._validity, dirty=inode.changed > inode.retired)

    async def cached_state(self, ino: int) -> str:
        """What `user.afm.state` says: uncached, partial or cached, with bytes and blocks."""
        one = self.cached(ino)
        return f"{one.state} {one.cached_bytes}/{one.size} {one.cached_blocks}/{one.blocks}"

    def events(self) -> Sequence[Event]:
        return read_events(self._store.db)

    async def queue_lines(self) -> AsyncGenerator[bytes, None]:
        """One JSON object a line for each entry, oldest first, read through own connections."""
        journal = self.settings.cache / "gateway" / str(self.settings.home_number) / "gateway.db"
        with closing(connect_read_only(self._store.path)) as cache:
            gateway = connect_read_only(journal) if journal.exists() else None
            try:
                for page in queue_report.pages(cache, gateway, now_ns=time.time_ns()):
                    for line in page:
                        yield line
                    await trio.lowlevel.checkpoint()
            finally:
                if gateway is not None:
                    gateway.close()

    def remembered_statvfs(self) -> dict[str, int]:
        """Home's figures as they were last seen, for a mount without home."""
        figures: dict[str, int] = json.loads(self._store.get("statvfs") or "{}")
        return figures

    def report_lines(self) -> AsyncGenerator[bytes, None]:
        """The JSON lines of the last report, in pieces; none where it is not complete."""
        return self.reports.pieces()

    # -- commands --------------------------------------------------------------------------------

    def flush_pending(self) -> int:
        """Execute everything that is pending now, whatever its age; the last number of it."""
        self.flush_through, self.settled_through = self._store.entries.last, 0
        self._link.post({"type": "flush", "through": self.flush_through})
        self._automatic.asked()
        return self.flush_through

    def stop(self) -> None:
        """Replay nothing until `start`, over mounts too."""
        self._set_running(stopped=True)

    def start(self) -> None:
        self._set_running(stopped=False)

    def _set_running(self, *, stopped: bool) -> None:
        with self._store as store:
            store.put("stopped", int(stopped))
        self._store.sync_wal()
        self.post_run()

    def resume_requeued(self) -> int:
        """Try requeued entries at once; how many there are."""
        self.settled_through = 0
        self._link.post({"type": "resume"})
        self._automatic.asked()
        return self._link.home.requeued

    async def resync(self, *, keep_uncached: bool) -> None:
        """Have home made to agree with the cache; durable on return, done in the background."""
        await self.jobs.start(RESYNC, manual=True, keep_uncached=keep_uncached)

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
        nursery.start_soon(self.callbacks.run)
        nursery.start_soon(self._automatic.run)
        nursery.start_soon(self._fill_pool)

    def _before_point(self) -> None:
        self._forgettable = self._retirement.seq

    def _after_point(self) -> None:
        """The gateway forgets an outcome only when its retirement is durable
        (forget-after-durable)."""
        if self._forgettable:
            self._link.post({"type": "forget", "seq": self._forgettable})

    async def _fill_pool(self) -> None:
        """Have empty blobs ready."""
        while True:
            await self._blobs.pool_low.wait()
            numbers = self._store.entries.take_run(POOL)
            with self._store as store:
                first = self._blobs.oldest_in_pool or numbers.start
                store.put("pool", json.dumps([first, numbers.stop]))
            try:
                made = await trio.to_thread.run_sync(self._blobs.fill_pool, numbers)
            except OSError as exc:  # a full disk: the writers hear of it themselves
                log.error("no blobs can be made in advance: %s", exc)
                await trio.sleep(1)
            else:
                self._blobs.take_over(made)

    async def _wake(self) -> None:
        """Tell the gateway of new entries, a few times a second at most."""
        told = 0
        while True:
            await trio.sleep(WAKE_S)
            self._automatic.look()
            if self._store.entries.last != told:
                told = self._store.entries.last
                self._link.post({"type": "wake"})
