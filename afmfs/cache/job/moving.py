"""Failover: the fileset gets another home, or another address of its home.

The new home is looked at first, by a gateway that does nothing else; then the old gateway is ended,
or left behind with its dead home; then one durable transaction says which home it is from here on,
and what has to be done there. Each home has a gateway.db of its own.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from afmfs.cache.home.home_view import HomeView
from afmfs.cache.home.link import GatewayLink
from afmfs.cache.job.jobs import FAILOVER
from afmfs.cache.report.event import insert_event
from afmfs.cache.report.reporting import Reporting
from afmfs.cache.store.settings import check_target
from afmfs.errors import AfmError, Refused
from afmfs.gateway.protocol import Message
from afmfs.model import remedies
from afmfs.model.states import Link, State

if TYPE_CHECKING:
    from afmfs.cache.content.fetch import Fetcher
    from afmfs.cache.home.link import StartGateway

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""How long a new home may take to be looked at."""

OF_HOME = ("homelink", "lost", "unrepresentable")
"""Tables that hold what is known of one home alone: its inode numbers, what it lost, what it can't
hold. Of the new one the failover finds that out anew."""


class Moving(Reporting):
    """The fileset's way from home to home."""

    _fetcher: Fetcher
    _start: StartGateway

    def __init__(self) -> None:
        super().__init__()
        self._moving = False

    async def failover(self, target: str, *, target_only: bool) -> None:
        """Begin with a new home; durable on return, compared and filled in the background.

        Refused, with nothing changed, where it can't be had. With `target_only` it has to be the
        same home at another address: nothing is compared, and what is pending goes on.
        """
        self._admit_move()
        new = check_target(target, self.settings.mountpoint, self.settings.cache)
        self._moving = True
        try:
            await self._look_at(new, target_only=target_only)
            await self._link.switch(lambda: self._move(new, target_only=target_only))
        except (OSError, sqlite3.Error) as exc:
            raise AfmError(f"failover: the cache's disk: {exc}") from exc
        finally:
            self._moving = False

    def _admit_move(self) -> None:
        """A job that can't go on is no reason to stay: its home may be gone for good."""
        status, job = self.status(), self.jobs.status()
        goes_on = self._link.home.link is Link.UP and not self.stopped
        busy = job is not None and job.phase != "waiting" and goes_on
        if self._moving or busy or status.state == State.RECOVERY:
            why = f" ({status.reason})" if status.reason else ""
            raise Refused(
                f"failover is refused while {status.fileset} is {status.state}{why}:"
                " wait for the end of what is under way"
            )

    # -- looking ---------------------------------------------------------------------------------

    async def _look_at(self, target: str, *, target_only: bool) -> None:
        """Refused unless there is a home that is ours, or (not with `target_only`) nobody's: then
        it becomes ours, which is the last thing that can go wrong."""
        hello = self._introduction(target, target_only=target_only)
        found = await self._scout(hello)
        if found.link is Link.UP:
            return
        reason = found.reason or f"no answer within {LOOK_S:g} s"
        reason = reason.replace(remedies.MOUNT, "is the new home mounted there?")
        hint = f"; {found.hint}" if found.hint else ""
        if target_only:
            hint += "; --target-only is for another address of the present home"
        raise Refused(f"failover to {target} is refused: {reason}{hint}")

    def _introduction(self, target: str, *, target_only: bool) -> Message:
        tokens = set(json.loads(self._store.get("tokens") or "[]"))
        if not target_only:  # a former home is still ours, if nobody else has used it since
            tokens |= {token for home in self._homes().values() for token in home["tokens"]}
        return self.hello() | {
            "target": target,
            "survey": True,
            "first": not target_only,
            "takeover": False,
            "tokens": sorted(tokens),
            "job": None,
        }

    async def _scout(self, hello: Message) -> HomeView:
        """What a gateway that only looks says of a home."""
        settings = self.settings
        link = GatewayLink(
            lambda sock: self._start(settings.cache, 0, sock),
            lambda: hello,
            home_timeout_s=LOOK_S,
            life_timeout_s=LOOK_S,
        )

        async def ended(message: Message) -> None:
            log.error("looking at a new home: %s", message["reason"])

        link.handlers = {"ended": ended}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            with trio.move_on_after(LOOK_S):
                await link.wait_known()
            found = link.home
            with trio.CancelScope(shield=True):
                await link.stop()
            nursery.cancel_scope.cancel()
        return found

    # -- moving ----------------------------------------------------------------------------------

    async def _move(self, target: str, *, target_only: bool) -> None:
        """No gateway runs: what the last one did is taken over, then home is another."""
        self.forget_gateway()
        if target_only:
            if self._link.left_behind:  # it holds gateway.db
                raise Refused(
                    "failover: the gateway is stuck at the old address: unmount that by force"
                    " (umount -f), then try again"
                )
            await self._retirement.take_over()
            self._readdress(target)
            await self._durable.sync_wal()
            return
        try:
            await self._retirement.take_over()
        except sqlite3.DatabaseError as exc:  # of the old home; what it would have told is compared
            log.error("outcomes of the old home can't be read: %s", exc)
        number = self.settings.home_number + 1
        journal = self.settings.cache / "gateway" / str(number)
        journal.mkdir(mode=0o700, exist_ok=True)
        # What was fetched from the old home, and is not durable, the new one could not give again.
        await self._durable.make()
        self._begin_at(target, number)
        await self._follow(journal / "gateway.db")
        await self.jobs.announce()

    def _readdress(self, target: str) -> None:
        before = self.settings.target
        with self._store as store:
            store.put("target", target)
            insert_event(store.db, "afmTargetChanged", {"from": before, "to": target})
        self.settings, self._told = replace(self.settings, target=target), ""

    def _begin_at(self, target: str, number: int) -> None:
        """One transaction: there is no moment at which the home is new and nothing has to be done
        there. Every entry that is pending goes along."""
        before = self.settings.target
        homes = self._homes()
        tokens = {str(self._store.get("token")), *json.loads(self._store.get("tokens") or "[]")}
        homes[str(self.settings.home_number)] = {"target": before, "tokens": sorted(tokens)}
        known = {token for home in homes.values() for token in home["tokens"]}
        with self._store as store:
            changed = self._retirement.forget_nulls()
            store.put("target", target)
            store.put("home", number)
            store.put("homes", json.dumps(homes))
            store.put("tokens", json.dumps(sorted(known)))
            for table in OF_HOME:
                store.execute(f"DELETE FROM {table}")
            job = self.jobs.put(FAILOVER, manual=True, reason=f"from {before} to {target}")
        self.settings = replace(self.settings, target=target, home_number=number)
        self.jobs.took(job)
        for ino in changed:
            self._retirement.changed(ino)

    async def _follow(self, journal: Path) -> None:
        """Everybody looks to the new home."""
        self._fetcher.void_all()
        await self._follow_journal()
        self.trash.follow(journal)
        self._link.home = HomeView(link=Link.UNKNOWN, reason="home is another now")
        self._claimed, self._told = True, ""
        self.recovering = False
        self.flush_through = self.settled_through = 0

    def _homes(self) -> dict[str, Any]:
        """Former homes by number: target, and the words that their markers may have."""
        found: dict[str, Any] = json.loads(self._store.get("homes") or "{}")
        return found
