"""What a repair has yet to do, or has to remember, till it has come to its end: in cache.db.

Each mend commits on its own, and the next look finds no trace of what it mended. So whatever
follows from a mend later is written down in the mend's own transaction: a repair that is ended in
between, at whatever mend, is taken up by the next one as if it had gone on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from afmfs.cache.home import lost_entries
from afmfs.cache.job.jobs import RECOVERY, Job, stored_job
from afmfs.cache.store.store import Store

KEY = "repair"
"""The setting with all of it, by these names:

since_ns    when something was done last that the tables know of, before any mend added an event
incomplete  tables that have lost rows, of which the consequences are yet to be drawn
old         what proves that cache.db is older than the rest: the first mends take the proof away
renewed     that it is older was mended, though the note that tells of it stays till the end
job         the number of the job that makes up for what is missing, and the job that was there
            before: what the check finds is judged by that one, till all is found
dropped     entries that gateway.db is to forget
beyond      and all larger than this
"""

LOST_CHANGES = "a check found lost changes"


def decoded(value: Any) -> dict[str, Any]:
    """A setting that holds an object of JSON; empty where it is missing, or something else."""
    try:
        found = json.loads(value or "null")
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def job_before(settings: Mapping[str, Any]) -> Any:
    """The stored job, but for what a repair has made of it that is still under way."""
    mark, text = decoded(settings.get(KEY)).get("job"), settings.get("job")
    if isinstance(mark, dict) and mark.get("id") == decoded(text).get("id"):
        return mark.get("before")
    return text


def home_is_unsure(get: Callable[[str], Any]) -> bool:
    """Whether home need not have what counts as clean, of any file: it is another home, or one that
    has changed, and a failover or resync is to bring it there. (A recovery is of what the queue
    tells, or of what has changed: the home is the one that has all the rest.)"""
    if get("needs_resync"):
        return True
    text = get("job")
    return bool(text) and decoded(text).get("kind") != RECOVERY


class Owed:
    """All of it in the caller's transaction, but for `get`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, key: str) -> Any:
        return decoded(self._store.get(KEY)).get(key)

    def put(self, **values: Any) -> None:
        """None: there is no such thing any more."""
        before = decoded(self._store.get(KEY))
        after = {k: v for k, v in (before | values).items() if v is not None}
        if after != before:
            self._store.put(KEY, json.dumps(after))

    def end(self) -> None:
        self._store.execute("DELETE FROM fileset WHERE key=?", (KEY,))

    # -- what is missing -------------------------------------------------------------------------

    def make_up_for(self, missing: int) -> None:
        """A job makes up for so many more entries. With 0 the job that is due begins anew, so that
        it sends what it has passed already."""
        store, old = self._store, self._readable_job()
        mark = self.get("job")
        if old is None and not missing:
            return
        if old is not None and mark is not None and mark["id"] == old.id:
            job = replace(old, missing=old.missing + missing)
        else:
            before = store.get("job")
            job = lost_entries.make_up_for(store, missing, LOST_CHANGES)
            self.put(job={"id": job.id, "before": before})
        job = replace(job, bound=max(store.entries.last, old.bound if old else 0))
        store.put("job", json.dumps(job.record()))

    def _readable_job(self) -> Job | None:
        try:
            return stored_job(self._store)
        except (TypeError, ValueError):
            self.forget_job()
            return None

    def forget_job(self) -> None:
        """One that can't be read: if it was a failover or a resync, a resync does as much."""
        store = self._store
        store.execute("DELETE FROM fileset WHERE key='job'")
        if not store.get("needs_resync"):
            store.put("needs_resync", "what was due at home was lost with a damaged cache.db")
            store.put("needs_resync_at", 0)

    def stop(self) -> None:
        """What is pending may put a file that is lost here in the place of a good one at home:
        somebody has to look first."""
        self._store.put("stopped", 1)
        self._store.put(
            "stopped_reason",
            "a check found that something is lost that was only here (`events`); see that home"
            " may have what is left",
        )
