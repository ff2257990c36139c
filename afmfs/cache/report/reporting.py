"""What a fileset says of itself: its status, its queue, its events, what is cached of a file."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psutil
import trio

from afmfs import __version__
from afmfs.cache.content.harm import event_of
from afmfs.cache.home.hearing import Hearing
from afmfs.cache.job.jobs import RECOVERY
from afmfs.cache.names.namespace import failed
from afmfs.cache.report import queue as queue_report
from afmfs.cache.report.cached import cached_report
from afmfs.cache.report.event import Event, read_events
from afmfs.cache.report.status import CachedReport, Status, dirty_bytes, with_block
from afmfs.cache.report.write_stats import with_write_stats
from afmfs.cache.store.store import connect_read_only
from afmfs.errors import is_damage
from afmfs.model.quota import UNLIMITED
from afmfs.model.states import Facts, Link, is_trouble, reason, shown, stop_reason

if TYPE_CHECKING:
    from afmfs.cache.content.validity import Validity
    from afmfs.cache.evict.evict import Evictions

DIRTY_EXACT = 5_000
"""Pending entries up to which `dirty_bytes` is worked out exactly when status is read."""


_LOST = "SELECT count(*) FROM lost JOIN inode USING (ino)"

COSTLY_S, REST = 0.01, 100
"""A count that takes so long is not made again for so many times as long: it holds up requests."""


class Reporting(Hearing):
    """The fileset's mouth."""

    _validity: Validity
    evictions: Evictions

    def __init__(self) -> None:
        super().__init__()
        self.touched = False
        self._lost = 0  # files that home has lost, at the last count
        self._lost_until = 0.0  # monotonic; till then that has to do

    @property
    def mount_point(self) -> str:
        return str(self.settings.mountpoint)

    def facts(self) -> Facts:
        home, needs_resync, job = self._link.home, self.needs_resync, self.jobs.status()
        return Facts(
            stopped=self.stopped,
            stop_reason=self.harm.text or stop_reason(self._store.get),
            # Without home none is being written, however far one had come.
            planning="" if home.link in (Link.UNMOUNTED, Link.DISCONNECTED) else self.jobs.planning,
            link=home.link,
            link_reason="; ".join(filter(None, (home.reason, home.hint))),
            # What contradicts home is not settled by waiting, but by a job.
            recovering=job.kind == RECOVERY if job else self.recovering and not needs_resync,
            # What is found while a job runs is shown, and dealt with, after it, or in its place.
            needs_resync="" if job and not self.jobs.gives_way else needs_resync,
            auto_resync=self.settings.tunables.auto_resync,
            pending=self._store.counters.queue_length + (job.left if job else 0),
            requeued=home.requeued + (job.requeued if job else 0),
            refusal=home.refusal,
            slow_s=home.latency_s,
            stalled_s=home.stalled_s,
            resyncing=job.kind if job and job.kind != RECOVERY else "",
            job_total=job.total if job else 0,
            job_left=job.left if job else 0,
            touched=self.touched,
            disk=self.room.trouble(),
        )

    def status(self) -> Status:
        """One snapshot, from memory and counters: no scan, no home."""
        facts, home, store = self.facts(), self._link.home, self._store
        oldest = self._ask("SELECT id, queued_ns FROM queue ORDER BY id LIMIT 1")
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
            trouble=is_trouble(facts),
            gateway=socket.gethostname(),
            gateway_pid=process.pid if process else None,
            mount_point=self.mount_point,
            cache=str(self.settings.cache),
            block_size=self.settings.block_size,
            queue_length=facts.pending,
            job=self.jobs.status(),
            last_job=int(store.get("job_number") or 0),
            num_exec=home.num_exec,
            executing=home.executing,
            requeued=facts.requeued,
            unrepresentable=self._count("SELECT count(*) FROM unrepresentable"),
            lost=self._count_lost(),
            nulled_files=self._retirement.nulls.files(),
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
            eviction=self.evictions.shown(),
            evicted_files=self.room.evicted.files,
            evicted_bytes=self.room.evicted.bytes,
            cache_size=None if self.room.quota == UNLIMITED else self.room.quota.hard,
            disk=facts.disk,
            disk_failed=self.room.failed,
            cached_bytes=counters.cached_bytes,
            cache_free_bytes=here.f_bavail * here.f_frsize,
            inodes=counters.inodes,
            mount_memory_bytes=_resident(os.getpid()),
            gateway_memory_bytes=_resident(process.pid) if process else None,
            home_latency_ms=home.latency_s * 1000 or None,
            connected_since=self.connected_since,
            last_error=self.last_error,
        )
        written = self._retirement.bytes + self.jobs.pushed
        return with_write_stats(with_block(status), written)

    def _dirty_bytes(self) -> int:
        counters = self._store.counters
        if counters.queue_length > DIRTY_EXACT or self.harm:
            return min(counters.bytes_pending, counters.cached_bytes)
        return dirty_bytes(self._store.db)

    def _ask(self, sql: str) -> Any:
        """A row; None where the database is damaged, which is to be told of all the same."""
        try:
            return self._store.execute(sql).fetchone()
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            return None

    def _count(self, sql: str) -> int:
        row = self._ask(sql)
        return 0 if row is None else int(row[0])

    def _count_lost(self) -> int:
        """A new home may lack most of a large fileset: then each is a look at two tables."""
        before = time.monotonic()
        if before >= self._lost_until:
            self._lost = self._count(_LOST)
            took = time.monotonic() - before
            self._lost_until = before + took * REST if took > COSTLY_S else 0.0
        return self._lost

    def cached(self, ino: int) -> CachedReport:
        inode = self._store.inode(ino)
        if inode is None:
            raise failed(errno.ESTALE)  # removed, and still somebody's
        return cached_report(
            inode,
            self._validity,
            dirty=bool(self._store.pending([inode])),
            lost=self._store.lost_by(ino),
            nulled=self._retirement.nulls.of(ino),
        )

    async def cached_state(self, ino: int) -> str:
        """What `user.afm.state` says: uncached, partial, cached or lost, with bytes and blocks, and
        whether home has lost the rest, or a resync has made bytes of it null there."""
        one = self.cached(ino)
        text = f"{one.state} {one.cached_bytes}/{one.size} {one.cached_blocks}/{one.blocks}"
        text += " lost" * (one.lost is not None and one.state != "lost")
        return text + f" nulled {one.nulled_bytes}" * bool(one.nulled_bytes)

    def events(self) -> Sequence[Event]:
        found: list[Event] = []
        try:
            found = read_events(self._store.db)
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
        note = self.harm.note
        return [*found, event_of(note)] if note is not None and note.database else found

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


def _resident(pid: int) -> int | None:
    """Memory of a process; None if it has just ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
