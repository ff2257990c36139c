"""The job: a resync, failover or recovery that is due or under way; at most one at a time.

One that only waits for what home refuses gives way to another where home was found changed.

cache.db says that it has to be done, gateway.db how far it is. So it goes on after any restart of
either process, and waits by itself while home is away or the fileset stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import trio

from afmfs.cache.job.pace import Pace
from afmfs.cache.report.event import insert_event
from afmfs.cache.report.status import JobStatus
from afmfs.errors import Refused
from afmfs.gateway.protocol import Message
from afmfs.model.resync import Kind

if TYPE_CHECKING:
    from afmfs.cache.home.link import GatewayLink
    from afmfs.cache.store.store import Store

RESYNC, FAILOVER, RECOVERY = Kind.RESYNC, Kind.FAILOVER, Kind.RECOVERY

_STARTED: dict[str, str] = {
    RESYNC: "afmResyncStart",
    FAILOVER: "afmFailoverStart",
    RECOVERY: "afmRecoveryStart",
}
_ENDED: dict[str, str] = {
    RESYNC: "afmManualResyncComplete",
    FAILOVER: "afmManualResyncComplete",
    RECOVERY: "afmRecoveryEnd",
}
"""AFM has one name for the end of a resync, automatic or not, and of a failover."""

_FAILED = "afmRecoveryFail"


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
    doubt: int = 0  # entries up to it may have been executed, and the gateway does not know
    missing: int = 0  # entries that the queue has lost

    def record(self) -> dict[str, Any]:
        """As it is stored, and told to the gateway."""
        fields = asdict(self)
        return {key: fields[key] for key in fields if fields[key] or key not in _RARE}


_RARE = ("doubt", "missing")


async def _nothing(job: Job) -> None:
    pass


def stored_job(store: Store) -> Job | None:
    text = store.get("job") or ""
    return Job(**json.loads(text)) if text else None


def put_job(store: Store, kind: str, *, bound: int, reason: str, **more: Any) -> Job:
    """Store a new job and the event of its start, in the caller's transaction."""
    job = Job(
        id=int(store.get("job_number") or 0) + 1,
        kind=kind,
        bound=bound,
        manual=more.pop("manual", False),
        keep_uncached=more.pop("keep_uncached", False),
        reason=reason,
        started_ns=time.time_ns(),
        **more,
    )
    store.put("job_number", job.id)
    store.put("job", json.dumps(job.record()))
    detail = {"job": job.id, "reason": job.reason, "manual": job.manual}
    insert_event(store.db, _STARTED[kind], detail)
    return job


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
        self.current: Job | None
        self.reload()
        self.pushed = 0  # bytes, by all jobs since the mount
        self._noted = (0, 0)  # job, and its bytes that are counted in it
        self._failed = 0  # the recovery that was said to have failed
        self.durable = True  # whether power loss would spare `current`
        self._covered = self.current  # by the durable point that is being made
        self.pace = Pace()
        self._ending = trio.Lock()
        self.mend: Callable[[Job], Awaitable[None]] = _nothing
        """What is to be done here before a job ends that makes up for lost entries."""

    def reload(self) -> None:
        """The stored job is the present one."""
        self.current = stored_job(self._store)

    # -- starting --------------------------------------------------------------------------------

    async def start(
        self, kind: str, *, manual: bool = False, keep_uncached: bool = False, reason: str = ""
    ) -> Job:
        """Have a job done; durable on return. Refused while there is one that goes on: of one that
        gives way the new one does all that was asked for."""
        before = self.current
        if before is not None and not self.gives_way:
            raise Refused(f"a {before.kind} is under way: wait for its end")
        if before is not None:
            kind = before.kind  # a home that is new is so still
            if not manual:
                manual, keep_uncached = before.manual, before.keep_uncached
        with self._store:
            job = self.put(kind, manual=manual, keep_uncached=keep_uncached, reason=reason)
        self.took(job)
        await self.announce()
        return job

    @property
    def gives_way(self) -> bool:
        """Whether another job may take the place of the present one: home refuses the last of it,
        and was found changed since, so that nothing else is replayed either. Not of one that makes
        up for a loss, of which the next would not know."""
        job, said = self.current, self.progress
        if job is None or job.kind == RECOVERY or job.missing or job.doubt:
            return False
        waits = said is not None and said["phase"] == "waiting"
        return waits and bool(self._store.get("needs_resync"))

    def put(
        self, kind: str, *, manual: bool = False, keep_uncached: bool = False, reason: str = ""
    ) -> Job:
        """Store a new job, in the caller's transaction; then come `took` and `announce`.

        It takes care of the inconsistency that was found.
        """
        store = self._store
        job = put_job(
            store, kind, bound=store.entries.last, manual=manual, keep_uncached=keep_uncached,
            reason=reason or str(store.get("needs_resync") or ""),
        )  # fmt: skip
        store.put("needs_resync", "")
        return job

    def put_doubt(self, begun: int, reason: str) -> Job:
        """What the gateway knew of entries up to `begun` is lost: have that settled by comparing
        with home. A job that is under way begins anew, and settles it as well. As `put`; what was
        found to contradict home stays a resync's to repair."""
        if self.current is None:
            return put_job(self._store, RECOVERY, bound=begun, doubt=begun, reason=reason)
        job = replace(self.current, bound=max(self.current.bound, begun), doubt=begun)
        self._store.put("job", json.dumps(job.record()))
        return job

    def took(self, job: Job) -> None:
        """The transaction with the job is committed."""
        self.current, self.durable, self.pace = job, False, Pace()
        self._noted = (job.id, 0)

    async def announce(self) -> None:
        """Make the job durable, then tell the gateway: it must never know of one that power loss
        takes back, as the number would be given to another."""
        await self._sync_wal()
        self._tell()

    def _tell(self) -> None:
        self.durable = True
        if self.record is not None:
            self._link.post({"type": "job", "job": self.record})
            self._post_run()  # the inconsistency is the job's from here on

    def point_begins(self) -> None:
        """A durable point that begins now will cover the present job."""
        self._covered = self.current

    def point_made(self) -> None:
        """It did so, if the disk was full when the job was to be made durable."""
        if not self.durable and self._covered is self.current:
            self._tell()

    @property
    def record(self) -> Message | None:
        """What the gateway has to know of it."""
        return self.current.record() if self.current is not None and self.durable else None

    # -- watching --------------------------------------------------------------------------------

    @property
    def progress(self) -> Message | None:
        """What the gateway last said of the present job."""
        said, job = self._link.home.progress, self.current
        return said if said is not None and job is not None and said["id"] == job.id else None

    @property
    def planning(self) -> str:
        """The kind of the job whose plan is being written, or ''."""
        planning = self.progress is not None and self.progress["phase"] == "planning"
        return self.current.kind if self.current is not None and planning else ""

    def status(self) -> JobStatus | None:
        """What is shown of it."""
        job, said = self.current, self.progress or {}
        if job is None:
            return None
        now = time.monotonic()
        objects, data = self.pace.rates(now)
        left, bytes_left = int(said.get("left", 0)), int(said.get("bytes_left", 0))
        times = [count / rate for count, rate in ((left, objects), (bytes_left, data)) if rate]
        return JobStatus(
            id=job.id,
            kind=job.kind,
            phase=str(said.get("phase", "due")),
            manual=job.manual,
            reason=job.reason,
            left=left,
            total=int(said.get("total", 0)),
            bytes_left=bytes_left,
            bytes_total=int(said.get("bytes_total", 0)),
            requeued=int(said.get("requeued", 0)),
            objects_per_second=round(objects, 1),
            bytes_per_second=round(data, 1),
            seconds_left=round(max(times), 1) if times else None,
        )

    def note(self) -> None:
        """Progress was heard of."""
        said = self.progress
        if said is not None and said["phase"] != "planning":
            rows = said.get("total", 0) - said["left"]
            data = said.get("bytes_total", 0) - said.get("bytes_left", 0)
            self.pace.note(time.monotonic(), rows, data)
            if self._noted[0] == said["id"]:  # else it began before the mount
                self.pushed += max(0, data - self._noted[1])
            self._noted = (said["id"], data)

    # -- ending ----------------------------------------------------------------------------------

    async def done(self, message: Message) -> None:
        """The gateway has done all of it. Idempotent: the gateway says so until it is answered."""
        async with self._ending:
            job = self.current
            if job is not None and job.id == message["id"]:
                if job.missing:
                    await self.mend(job)
                with self._store as store:
                    store.put("job", "")
                    store.execute("DELETE FROM lost WHERE ino NOT IN (SELECT ino FROM inode)")
                    insert_event(store.db, *self._end_of(job, message))
                self.current = None
                # Only then may the gateway forget it: else power loss would start it anew.
                await self._sync_wal()
        self._link.post({"type": "job_taken", "id": message["id"]})

    def waits(self) -> None:
        """Nothing of the job is left but what home refuses: a recovery has failed, for now."""
        job = self.current
        if job is not None and job.kind == RECOVERY and job.id != self._failed:
            self._failed = job.id
            reason = "home refuses changes; `queue` lists them"
            with self._store as store:
                insert_event(store.db, _FAILED, {"job": job.id, "reason": reason})

    def _end_of(self, job: Job, message: Message) -> tuple[str, dict[str, Any]]:
        """The event of a job's end."""
        found, summary = self._store.get("needs_resync"), self._summary(job, message)
        if job.kind == RECOVERY and found:  # what contradicts home is a resync's to repair
            return _FAILED, summary | {"reason": found}
        return _ENDED[job.kind], summary

    def _summary(self, job: Job, message: Message) -> dict[str, Any]:
        seconds = max(0.0, (time.time_ns() - job.started_ns) / 1e9)
        about = {"job": job.id, "kind": job.kind, "manual": job.manual, "reason": job.reason}
        return about | {"seconds": round(seconds, 1)} | (message.get("summary") or {})
