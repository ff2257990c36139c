"""The resync that starts by itself: in NeedsResync, with the next request that reaches the gateway.

Such a request is a fetch, the reading of a directory, or an operation that is queued after the
inconsistency was found. An idle fileset stays as it is: what contradicts home is nobody's yet.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

import trio

from afmfs.cache.home.link import GatewayLink
from afmfs.cache.job.jobs import RESYNC, Jobs
from afmfs.cache.store.store import Store
from afmfs.errors import Refused
from afmfs.model.states import Link

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Automatic:
    """`allowed`: whether the administrator wants it now."""

    def __init__(
        self, store: Store, jobs: Jobs, link: GatewayLink, allowed: Callable[[], bool]
    ) -> None:
        self._store, self._jobs, self._link, self._allowed = store, jobs, link, allowed
        self._wanted = trio.Event()

    def asked(self) -> None:
        """A request is on its way to the gateway. One that fails here as home is away is none."""
        if self._is_due() and self._link.home.link is Link.UP:
            self._wanted.set()

    def look(self) -> None:
        """See whether anything was queued since the inconsistency was found."""
        if self._is_due():
            (newest,) = self._store.execute("SELECT max(id) FROM queue").fetchone()
            if newest is not None and newest > int(self._store.get("needs_resync_at") or 0):
                self.asked()

    def _is_due(self) -> bool:
        free = self._jobs.current is None or self._jobs.gives_way
        return free and bool(self._store.get("needs_resync")) and self._allowed()

    async def run(self) -> None:
        """Start what is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            if not self._is_due():
                continue
            try:
                await self._jobs.start(RESYNC)
            except (OSError, sqlite3.Error, Refused) as exc:  # a full disk; a job by hand
                log.error("no resync can be started: %s", exc)
                await trio.sleep(RETRY_S)
