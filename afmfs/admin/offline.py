"""What can be said of a cache that is not mounted, read from its databases.

Read-only: nothing is recovered, and what an interrupted mount left in doubt is shown as it lies
there.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from afmfs.cache.command.command_line import relative
from afmfs.cache.content.harm import about, read_note
from afmfs.cache.content.validity import Validity
from afmfs.cache.home.known_journal import Remembered, key_of
from afmfs.cache.home.nulls import Nulls
from afmfs.cache.report import queue as queue_report
from afmfs.cache.report.cached import cached_report
from afmfs.cache.report.event import Event, read_events
from afmfs.cache.report.status import CachedReport, JobStatus, Status, dirty_bytes, with_block
from afmfs.cache.report.trash import Listing, read_trash
from afmfs.cache.report.write_stats import with_write_stats
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.schema import INODE_COLUMNS, VERSION
from afmfs.cache.store.store import Store
from afmfs.errors import AfmError, Damaged
from afmfs.model.entry import ROOT
from afmfs.model.resync import Kind
from afmfs.model.states import Facts, is_trouble, reason, shown, stop_reason


class _Asked:
    """What a part of the mount process asks of its `Store` to answer a question."""

    def __init__(self, cache: sqlite3.Connection) -> None:
        self.execute = cache.execute

    def met(self, exc: sqlite3.DatabaseError) -> Exception:
        return exc


class OfflineCache:
    """A cache directory, open for reading."""

    def __init__(
        self,
        path: str,
        cache: sqlite3.Connection,
        gateway: sqlite3.Connection | None,
        *,
        lost: bool = False,
    ) -> None:
        self._path, self._cache, self._gateway = path, cache, gateway
        self._lost = lost  # the journal that the cache works with
        self._nulls = Nulls(lambda: gateway)
        (version,) = cache.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise Damaged(f"{path}: a cache of format {version}, this program reads {VERSION}")
        self._settings = {
            key: os.fsdecode(value) if isinstance(value, bytes) else value
            for key, value in cache.execute("SELECT key, value FROM fileset")
        }

    def status(self) -> Status:
        """The status as the last mount left it. Scans the queue for `dirty_bytes`."""
        settings, cache, note = self._settings, self._cache, read_note(Path(self._path))
        counters = self._row("SELECT * FROM counters")
        first, queued_ns = self._first_entry()
        job = self._job()
        facts = Facts(
            mounted=False,
            # What the next mount will find as well (lost_entries, journals).
            recovering=(job is not None and job.kind == Kind.RECOVERY)
            or self._lost
            or counters["queue_length"] != self._count_entries(),
            resyncing=job.kind if job and job.kind != Kind.RECOVERY else "",
            job_total=job.total if job else 0,
            job_left=job.left if job else 0,
            stopped=bool(note or int(settings.get("stopped") or 0)),
            stop_reason=about(Path(self._path), note) if note else stop_reason(settings.get),
            needs_resync="" if job else str(settings.get("needs_resync") or ""),
            auto_resync=bool(json.loads(settings.get("tunables") or "{}").get("auto_resync", True)),
            pending=counters.pop("queue_length") + (job.left if job else 0),
            requeued=self._count_requeued() + (job.requeued if job else 0),
        )
        (unrepresentable,) = cache.execute("SELECT count(*) FROM unrepresentable").fetchone()
        (lost,) = cache.execute("SELECT count(*) FROM lost JOIN inode USING (ino)").fetchone()
        last = self._last_entry()
        status = Status(
            device=str(settings.get("device", "")),
            fileset=str(settings.get("fileset", "")),
            target=str(settings.get("target", "")),
            state=shown(facts),
            reason=reason(facts),
            trouble=is_trouble(facts),
            gateway="-",
            cache=self._path,
            block_size=int(settings.get("block_size", 0)),
            queue_length=facts.pending,
            job=job,
            last_job=int(settings.get("job_number") or 0),
            num_exec=int(settings.get("num_exec") or 0),
            requeued=facts.requeued,
            unrepresentable=unrepresentable,
            lost=lost,
            nulled_files=self._nulls.files(),
            dirty_bytes=dirty_bytes(cache),
            oldest_pending_seconds=max(0.0, (time.time_ns() - queued_ns) / 1e9) if first else 0,
            last_entry=last,
            flushed_through=first - 1 if first else last,
            **counters,
        )
        return with_write_stats(with_block(status), 0)

    def queue_lines(self) -> Iterator[bytes]:
        return queue_report.lines(self._cache, self._gateway, now_ns=time.time_ns())

    def events(self) -> list[Event]:
        return read_events(self._cache)

    def trash(self, job: int | None) -> Listing:
        """What a job has moved aside at home, or all of them have."""
        return read_trash(self._gateway, job)

    def cached(self, path: str) -> CachedReport:
        """The report on the object at `path`, relative to the root. AfmError if it isn't known."""
        if path.startswith("/"):
            raise AfmError(f"{path}: the cache is not mounted; give a path relative to its root")
        ino = ROOT
        for name in relative(path, ""):
            ino = self._lookup(ino, os.fsencode(name), path)
        inode = Inode(
            *self._cache.execute(
                f"SELECT {INODE_COLUMNS} FROM inode WHERE ino=?", (ino,)
            ).fetchone()
        )
        store = cast(Store, _Asked(self._cache))
        validity = Validity(store, int(self._settings["block_size"]))
        return cached_report(
            inode,
            validity,
            dirty=bool(Store.pending(store, [inode])),
            lost=Store.lost_by(store, ino),
            nulled=self._nulls.of(ino),
        )

    def _lookup(self, parent: int, name: bytes, path: str) -> int:
        row = self._cache.execute(
            "SELECT ino FROM dentry WHERE parent=? AND name=?", (parent, name)
        ).fetchone()
        if row is None:
            raise AfmError(f"{path}: not known to the cache")
        return int(row[0])

    def _row(self, query: str) -> dict[str, Any]:
        cursor = self._cache.execute(query)
        return dict(
            zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True)
        )

    def _first_entry(self) -> tuple[int, int]:
        row = self._cache.execute("SELECT id, queued_ns FROM queue ORDER BY id LIMIT 1").fetchone()
        return row or (0, 0)

    def _last_entry(self) -> int:
        (last,) = self._cache.execute("SELECT coalesce(max(id), 0) FROM queue").fetchone()
        return int(last)

    def _job(self) -> JobStatus | None:
        """The job that goes on with the next mount, as far as the gateway had come."""
        record = json.loads(self._settings.get("job") or "null")
        if record is None:
            return None
        job = JobStatus(
            id=record["id"],
            kind=record["kind"],
            phase="due",
            manual=record["manual"],
            reason=record["reason"],
        )
        if self._gateway is None or not queue_report.has_priority(self._gateway):
            return job
        row = self._gateway.execute(
            "SELECT phase, figures FROM job WHERE id=?", (job.id,)
        ).fetchone()
        if row is None:
            return job
        left, bytes_left, requeued = self._gateway.execute(
            "SELECT count(*), total(bytes), count(errno) FROM priority"
        ).fetchone()
        figures = json.loads(row[1])
        return replace(
            job,
            phase=row[0],
            left=left,
            total=figures.get("total", left),
            bytes_left=int(bytes_left),
            bytes_total=figures.get("bytes_total", int(bytes_left)),
            requeued=requeued,
        )

    def _count_entries(self) -> int:
        (count,) = self._cache.execute("SELECT count(*) FROM queue").fetchone()
        return int(count)

    def _count_requeued(self) -> int:
        if self._gateway is None:
            return 0
        (count,) = self._gateway.execute("SELECT count(*) FROM requeued").fetchone()
        return int(count)


@contextmanager
def open_cache(path: str) -> Iterator[OfflineCache]:
    """Open a cache directory for reading. OSError, sqlite3.Error or Damaged if it is none."""
    with closing(_connect(Path(path, "cache.db"))) as cache:
        row = cache.execute("SELECT value FROM fileset WHERE key='home'").fetchone()
        number = str(row[0] if row else 1)
        known = cache.execute(
            "SELECT CAST(value AS TEXT) FROM fileset WHERE key=?", (key_of(number),)
        ).fetchone()
        journal = Remembered(*json.loads(known[0])) if known else Remembered()
        gateway = _journal(Path(path, "gateway", number, "gateway.db"), journal)
        with closing(gateway) if gateway is not None else nullcontext():
            yield OfflineCache(path, cache, gateway, lost=gateway is None and bool(journal.id))


def _journal(path: Path, known: Remembered) -> sqlite3.Connection | None:
    """None if there is none, or not the one that the cache works with."""
    if not path.exists():
        return None
    connection = _connect(path)
    if not known.id:
        return connection
    try:
        said = dict(connection.execute("SELECT key, value FROM state"))
        if said["journal"] == known.id and said.get("turn", 0) >= known.turn:
            return connection
    except (sqlite3.DatabaseError, KeyError):
        pass  # damaged: the next mount sets it aside
    connection.close()
    return None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)
    connection.text_factory = os.fsdecode  # targets and reasons have names in them, of any bytes
    return connection
