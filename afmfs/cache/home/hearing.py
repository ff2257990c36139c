"""What the gateway tells the fileset, and how it is greeted."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from afmfs.cache.content.harm import Harm
from afmfs.cache.home import lost_entries
from afmfs.cache.home.journals import Journals
from afmfs.cache.home.kept import until_kept
from afmfs.cache.job.jobs import Job, Jobs
from afmfs.cache.job.pace import Pace
from afmfs.cache.report import queue as queue_report
from afmfs.cache.report.event import insert_event
from afmfs.cache.report.reports import ReportDesk
from afmfs.cache.store.lock import machine_id
from afmfs.gateway.protocol import Message
from afmfs.model.entry import ROOT

if TYPE_CHECKING:
    from afmfs.cache.content.durable import Durable
    from afmfs.cache.evict.room import Room
    from afmfs.cache.home.link import GatewayLink
    from afmfs.cache.home.retire import Retirement
    from afmfs.cache.home.trash import TrashDesk
    from afmfs.cache.store.settings import Settings
    from afmfs.cache.store.store import Store

log = logging.getLogger(__name__)

PAST = 200
"""Tokens of so many earlier mounts are known: home with such a marker is an older state of it."""


class Hearing:
    """The fileset's ear: one handler for each message of the gateway."""

    settings: Settings
    _store: Store
    _link: GatewayLink
    _durable: Durable
    _retirement: Retirement
    trash: TrashDesk
    room: Room

    def __init__(self) -> None:
        self.recovering = False
        self._forgettable = 0  # outcomes whose retirement the running durable point covers
        self._refused = False  # home refused a change since the recovery began
        self._told = ""  # the event that last told of home
        self.connected_since = ""
        self.last_error = ""
        self.settled_through = 0  # as the gateway said
        self.flush_through = 0
        self._pace = Pace()
        self._claimed = False  # home was reached, its marker is ours
        self.jobs = Jobs(self._store, self._durable.sync_wal, self._link, self.post_run)
        self.journals = Journals(
            self._store, self.jobs, self._link, self._retirement,
            lambda: self.settings.home_number, self._follow_journal,
        )  # fmt: skip
        self.jobs.mend = self._mend
        self.reports = ReportDesk(self._link)
        self._link.handlers = {
            "journal": self._on_journal,
            "connected": self._on_connected,
            "away": self._on_away,
            "refused": self._on_away,
            "point": self._on_point,
            "outcomes": self._on_outcomes,
            "inconsistent": self._on_inconsistent,
            "status": self._on_status,
            "progress": self._on_progress,
            "event": self._on_event,
            "harm": self._on_harm,
            "ended": self._on_ended,
        }

    @property
    def harm(self) -> Harm:
        """What is known of damage to the cache."""
        return self._store.disk.harm

    @property
    def stopped(self) -> bool:
        """By the administrator, or as the cache is damaged."""
        return bool(self.harm or self._store.get("stopped", 0))

    @property
    def needs_resync(self) -> str:
        """The inconsistency that was found and that no job takes care of yet, or ''."""
        return str(self._store.get("needs_resync") or "")

    def record_event(self, name: str, **detail: Any) -> None:
        """Keep an event; the oldest make room."""
        with self._store as store:
            insert_event(store.db, name, detail)

    def post_run(self) -> None:
        """Tell the gateway whether it may replay."""
        self._link.post(
            {"type": "run", "stopped": self.stopped, "needs_resync": self._may_not_replay}
        )

    @property
    def _may_not_replay(self) -> bool:
        """What was found is yet to be repaired: by a resync, or by the job that starts but is not
        durable, and so unknown to the gateway."""
        return bool(self.needs_resync) or not self.jobs.durable

    def hello(self) -> Message:
        """The first message to a gateway: all that it has to know."""
        settings = self.settings
        return {
            "type": "hello",
            "identity": settings.identity,
            "target": settings.target,
            "counter": int(self._store.get("counter", 1)),
            "token": self._store.get("token"),
            "tokens": json.loads(self._store.get("tokens") or "[]"),
            "past": json.loads(self._store.get("past") or "[]"),
            # Both hold for the first greeting alone: a marker that is gone later is not made anew.
            "takeover": settings.takeover and not self._claimed,
            "first": self._store.inode(ROOT) is None,
            "cache": str(settings.cache),
            "mount_point": str(settings.mountpoint),
            "fileset": settings.fileset,
            "owner": {
                "host": socket.gethostname(),
                "machine_id": machine_id(),
                "cache": str(settings.cache),
                "fileset": settings.fileset,
            },
            "stopped": self.stopped,
            "needs_resync": self._may_not_replay,
            "job": self.jobs.record,
            "journal": self.journals.hello(),
            "block_size": settings.block_size,
            "tunables": {
                "async_delay_s": settings.tunables.async_delay,
                "flush_threads": settings.tunables.flush_threads,
                "home_sync": settings.tunables.home_sync,
                "xattrs": settings.tunables.xattrs,
            },
            "flush_through": self.flush_through,
        }

    async def _on_connected(self, message: Message) -> None:
        self._claimed = True
        self.connected_since = queue_report.rfc3339(time.time_ns())
        with self._store as store:
            self._keep_token(message)
            store.put("statvfs", json.dumps(message["statvfs"]))
            store.put("properties", json.dumps(message["properties"]))
        self._tell_of_home("afmHomeConnected", target=self.settings.target)

    def _keep_token(self, message: Message) -> None:
        """Home has this mount's token: all earlier ones are past. Not always, as a full or
        read-only home keeps what it has."""
        store = self._store
        token = store.get("token")
        if message.get("token", token) == token:
            tokens = json.loads(store.get("tokens") or "[]")
            past = dict.fromkeys([*json.loads(store.get("past") or "[]"), *tokens])
            store.put("past", json.dumps([one for one in past if one != token][-PAST:]))
            store.put("tokens", json.dumps([token]))

    async def _on_journal(self, message: Message) -> None:
        if await self.journals.meet(message) is not None:
            self.recovering = False  # the job's end will tell

    async def _follow_journal(self) -> None:
        """Everybody reads the gateway.db that is there now."""
        journal = self.settings.cache / "gateway" / str(self.settings.home_number) / "gateway.db"
        await self._retirement.follow(journal)
        self._forgettable = 0  # a point that began before tells of outcomes of the other one

    async def _on_away(self, message: Message) -> None:
        self.connected_since = ""
        self.last_error = message["reason"]
        unmounted = message.get("state", "Unmounted") == "Unmounted"
        name = "afmFilesetUnmounted" if unmounted else "afmHomeDisconnected"
        self._tell_of_home(name, reason=message["reason"])

    def _tell_of_home(self, name: str, **detail: str) -> None:
        """Each change once: a gateway that was started anew, or another reason, is none."""
        if name != self._told:
            self._told = name
            self.record_event(name, **detail)

    async def _on_point(self, message: Message) -> None:
        try:
            self.journals.note(message)
            await self._durable.make()
            ok = True
        except OSError as exc:
            self.last_error, ok = f"the cache's disk: {exc.strerror}", False
        except sqlite3.Error as exc:
            self.last_error, ok = f"the cache's disk: {exc}", False
        self._link.post({"type": "point_done", "rid": message["rid"], "ok": ok})

    async def _on_outcomes(self, message: Message) -> None:
        async def take_over() -> None:
            retirement = self._retirement
            self._pace.note(time.monotonic(), retirement.entries, retirement.bytes)
            await retirement.take_over()
            self._pace.note(time.monotonic(), retirement.entries, retirement.bytes)

        await until_kept(take_over, "outcomes can't be taken over yet")  # they are in gateway.db
        self.room.moved()

    async def _on_inconsistent(self, message: Message) -> None:
        """Durable before anything else is replayed; the gateway waits for `run`."""
        path, reason = message["path"], message["reason"]
        text = f"{path or '/'}: {reason}"

        async def keep() -> None:
            # Who goes on reading what was changed finds it again and again.
            if not self.needs_resync and not self._is_seen_to(text):
                with self._store as store:  # the state is never seen without its event
                    store.put("needs_resync", text)
                    store.put("needs_resync_at", store.entries.last)
                    insert_event(store.db, "afmNeedsResync", {"path": path, "reason": reason})
            await self._durable.sync_wal()

        await until_kept(keep, f"{path} was changed at home, which can't be kept yet")
        self.post_run()
        self._end_recovery(self.needs_resync)

    def _is_seen_to(self, text: str) -> bool:
        """Whether a job that has not begun was started because of just this: a gateway that reaches
        home finds it once more."""
        job = self.jobs.status()
        return job is not None and (job.reason, job.phase) == (text, "due")

    async def _on_progress(self, message: Message) -> None:
        self.jobs.note()
        if message["phase"] == "waiting":
            self.jobs.waits()
        elif message["phase"] == "done":
            await self._retirement.take_over()  # what the job did is known here when it ends
            await self.jobs.done(message)

    async def _mend(self, job: Job) -> None:
        await lost_entries.retire(self._store, job.bound)
        self._retirement.unsure = 0

    async def _on_status(self, message: Message) -> None:
        self.settled_through = message.get("through") or 0 if message["settled"] else 0
        left, stuck = message.get("in_doubt", 0), message["settled"] and message["requeued"]
        if not left or stuck:
            refused = "home refuses changes that were under way; `queue` lists them"
            self._end_recovery(self.needs_resync or (refused if left or self._refused else ""))

    def _end_recovery(self, failure: str) -> None:
        """What an unclean stop had left in doubt is settled, or won't be by itself."""
        if self.recovering:
            self.recovering = False
            if failure:
                self.record_event("afmRecoveryFail", reason=failure)
            else:
                self.record_event("afmRecoveryEnd")

    async def _on_ended(self, message: Message) -> None:
        """A gateway ended by itself; the next one is being started."""
        self.forget_gateway()
        self.last_error = message["reason"]
        self.record_event("afmGatewayEnded", reason=message["reason"])

    def forget_gateway(self) -> None:
        """What was asked of the gateway that is gone is not answered any more."""
        self.reports.ended()
        self.trash.ended()

    async def _on_harm(self, message: Message) -> None:
        """The gateway has met damage, as it read the cache."""
        self.harm.prove(message["reason"], database=message["database"])

    async def _on_event(self, message: Message) -> None:
        if message["name"] == "afmCmdRequeued":
            self.last_error = str(message["detail"].get("reason", ""))
            self._refused |= self.recovering
        self.record_event(message["name"], **message["detail"])
