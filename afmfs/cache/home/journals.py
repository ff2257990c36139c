"""The gateway's journal, gateway.db, as the mount process follows it: another one is a loss.

A gateway whose journal is not the one that cache.db remembers (it was lost, damaged, or an older
copy was put back) does nothing at home until it hears that the cache has taken note of it: durably,
together with the recovery that settles what is in doubt (journal-first). With power lost in between
it would be the known one, and the doubt forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from afmfs.cache.home.kept import until_kept
from afmfs.cache.home.known_journal import Remembered, remember, remembered
from afmfs.cache.report.event import insert_event
from afmfs.gateway.protocol import Message

if TYPE_CHECKING:
    from afmfs.cache.home.link import GatewayLink
    from afmfs.cache.home.retire import Retirement
    from afmfs.cache.job.jobs import Job, Jobs
    from afmfs.cache.store.store import Store

log = logging.getLogger(__name__)

LOST = "afmJournalLost"


class Journals:
    """`home` tells the number of the home that the fileset has now; `follow` has everybody read
    the gateway.db that is there now."""

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        link: GatewayLink,
        retirement: Retirement,
        home: Callable[[], int],
        follow: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self._jobs, self._link, self._retirement = store, jobs, link, retirement
        self._home, self._follow = home, follow

    def hello(self) -> Message:
        """What a gateway has to know: which journal it should find."""
        known = remembered(self._store, self._home())
        return {"id": known.id, "turn": known.turn, "seq": self._retirement.told(known.id)}

    def note(self, message: Message) -> None:
        """The gateway asks for a durable point; that is to say, too, what has been begun."""
        known = remembered(self._store, self._home())
        turn, begun = message.get("turn") or 0, message.get("begun") or 0
        now = known._replace(turn=max(known.turn, turn), begun=max(known.begun, begun))
        if known.id and now != known:
            with self._store as store:
                remember(store, self._home(), now)

    async def meet(self, message: Message) -> Job | None:
        """The gateway has a journal that is not the remembered one, and waits. The job that settles
        what is in doubt, if that one was lost."""

        async def keep() -> Job | None:
            job = self._take_note(message)
            # Outcomes are numbered anew, and what was read of the other one is void.
            await self._follow()
            await self._jobs.announce()  # journal-first
            return job

        job = await until_kept(keep, "gateway.db is new, which can't be taken note of yet")
        self._link.post({"type": "journal_known", "id": message["id"]})
        return job

    def _take_note(self, message: Message) -> Job | None:
        store, known = self._store, remembered(self._store, self._home())
        if known.id == message["id"]:
            return self._jobs.current if message["reason"] else None
        begun, job = max(known.begun, message["begun"]), None
        with store:
            remember(store, self._home(), Remembered(message["id"], 0, begun))
            if known.id:
                log.warning("%s: what was under way is compared with home", message["reason"])
                insert_event(store.db, LOST, {"reason": message["reason"]})
                job = self._jobs.put_doubt(begun, message["reason"])
        if job is not None:
            self._jobs.took(job)
        return job
