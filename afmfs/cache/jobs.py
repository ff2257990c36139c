"""The job: a resync, failover or recovery that is due or under way; at most one at a time.

cache.db says that it has to be done, gateway.db how far it is. So it goes on after any restart of
either process, and waits by itself while home is away or the fileset stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import trio

from afmfs.cache.event_report import insert_event
from afmfs.cache.pace import Pace
from afmfs.errors import Refused
from afmfs.gateway.protocol import Message

if TYPE_CHECKING:
    from afmfs.cache.link import GatewayLink
    from afmfs.cache.store import Store

RESYNC, FAILOVER, RECOVERY = "resync", "failover", "recovery"
"""Kinds of job."""

_STARTED = {RESYNC: "afmResyncStart", FAILOVER: "afmFailoverStart", RECOVERY: "afmRecoveryStart"}
_ENDED = {
    RESYNC: "afmManualResyncComplete",
    FAILOVER: "afmManualResyncComplete",
    RECOVERY: "afmRecoveryEnd",
}
"""AFM has one name for the end of a resync, automatic or not, and of a failover."""


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for."""

    id: int  # never used twice
    kind: str
    bound: int  # the last entry that was queued when it was asked for
    manual: bool
    keep_uncached: bool  # uncached blocks stay as home has them
    reason: str
    started_ns: int


class Jobs:
    """The job of one fileset: started, watched, ended."""

    def __init__(
        self,
        store: Store,
        sync_wal: Callable[[], Awaitable[None]],
        link: GatewayLink,
        post_run: Callable[[], None],
    ) -> None:
        self._store, self._sync_wal, self._link = store, sync_wal, link
        self._post_run = post_run
        text = store.get("job") or ""
        self.current = Job(**json.loads(text)) if text else None
        self.durable = True  # whether power loss would spare `current`
        self.pace = Pace()
        self._ending = trio.Lock()

    # -- starting --------------------------------------------------------------------------------

    async def start(
        self, kind: str, *, manual: bool = False, keep_uncached: bool = False, reason: str = ""
    ) -> Job:
        """Have a job done; durable on return. Refused while there is one."""
        if self.current is not None:
            raise Refused(f"a {self.current.kind} is under way: wait for its end")
        with self._store:
            job = self.put(kind, manual=manual, keep_uncached=keep_uncached, reason=reason)
        self.took(job)
        await self.announce()
        return job

    def put(
        self, kind: str, *, manual: bool = False, keep_uncached: bool = False, reason: str = ""
    ) -> Job:
        """Store a new job, in the caller's transaction; then come `took` and `announce`.

        It takes care of the inconsistency that was found.
        """
        store = self._store
        job = Job(
            id=int(store.get("job_number") or 0) + 1,
            kind=kind,
            bound=store.entries.last,
            manual=manual,
            keep_uncached=keep_uncached,
            reason=reason or str(store.get("needs_resync") or ""),
            started_ns=time.time_ns(),
        )
        store.put("job_number", job.id)
        store.put("job", json.dumps(asdict(job)))
        store.put("needs_resync", "")
        detail = {"job": job.id, "reason": job.reason, "manual": job.manual}
        insert_event(store.db, _STARTED[kind], detail)
        return job

    def took(self, job: Job) -> None:
        """The transaction with the job is committed."""
        self.current, self.durable, self.pace = job, False, Pace()

    async def announce(self) -> None:
        """Make the job durable, then tell the gateway: it must never know of one that power loss
        takes back, as the number would be given to another."""
        await self._sync_wal()
        self.durable = True
        if self.record is not None:
            self._link.post({"type": "job", "job": self.record})
            self._post_run()  # the inconsistency is the job's from here on

    @property
    def record(self) -> Message | None:
        """What the gateway has to know of it."""
        return asdict(self.current) if self.current is not None and self.durable else None

    # -- watching --------------------------------------------------------------------------------

    @property
    def progress(self) -> Message | None:
        """What the gateway last said of the present job."""
        said, job = self._link.home.progress, self.current
        return said if said is not None and job is not None and said["id"] == job.id else None

    @property
    def left(self) -> int:
        """Rows of the priority queue that are not done yet."""
        return int(self.progress["left"]) if self.progress else 0

    @property
    def planning(self) -> str:
        """The kind of the job whose plan is being written, or ''."""
        planning = self.progress is not None and self.progress["phase"] == "planning"
        return self.current.kind if self.current is not None and planning else ""

    def note(self) -> None:
        """Progress was heard of."""
        said = self.progress
        if said is not None:
            rows = said.get("total", 0) - said["left"]
            data = said.get("bytes_total", 0) - said.get("bytes_left", 0)
            self.pace.note(time.monotonic(), rows, data)

    # -- ending ----------------------------------------------------------------------------------

    async def done(self, message: Message) -> None:
        """The gateway has done all of it. Idempotent: the gateway says so until it is answered."""
        async with self._ending:
            job = self.current
            if job is not None and job.id == message["id"]:
                with self._store as store:
                    store.put("job", "")
                    insert_event(store.db, _ENDED[job.kind], self._summary(job, message))
                self.current = None
                # Only then may the gateway forget it: else power loss would start it anew.
                await self._sync_wal()
        self._link.post({"type": "job_taken", "id": message["id"]})

    def _summary(self, job: Job, message: Message) -> dict[str, Any]:
        seconds = max(0.0, (time.time_ns() - job.started_ns) / 1e9)
        about = {"job": job.id, "kind": job.kind, "manual": job.manual, "reason": job.reason}
        return about | {"seconds": round(seconds, 1)} | (message.get("summary") or {})
