"""Home's trash, as the mount process deals with it: what comes back enters the cache.

A restore runs in the background, in steps. It is durable before it begins, and each step is taken
in durably before the next is asked for: so it goes on after any restart, and what came back at home
is seen here as well. Without that, nulls that are cached would be pushed over it one day.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from afmfs.cache.home.kept import until_kept
from afmfs.cache.report.event import insert_event
from afmfs.cache.report.trash import Listing, read_trash
from afmfs.cache.store.inode import LISTED
from afmfs.cache.store.store import connect_read_only
from afmfs.errors import AfmError, Refused
from afmfs.gateway.protocol import Message, close_all
from afmfs.model.states import Link

if TYPE_CHECKING:
    from afmfs.cache.content.content import Content
    from afmfs.cache.content.kernel import KernelPages
    from afmfs.cache.home.link import GatewayLink
    from afmfs.cache.home.settle import Settlement
    from afmfs.cache.names.listing import Lister
    from afmfs.cache.names.namespace import Namespace
    from afmfs.cache.store.store import Store

log = logging.getLogger(__name__)

WAIT_S = 3.0
"""How long a command waits for its end: whoever writes to a control file can't be interrupted."""

TOLD = 20
"""Entries, and refusals, that the answer and the event name."""

_KEY = "restoring"


@dataclass(slots=True)
class Restore:
    """What was asked for, and what became of it."""

    job: int
    path: str | None  # None: all of the job
    entries: int = 0  # that came back
    refused: int = 0
    names: list[str] = field(default_factory=list)  # of the first ones
    reasons: list[str] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)
    announced: bool = False  # its end, by an event, to who has stopped waiting for it

    def note(self, told: Message) -> None:
        path = os.fsdecode(told["path"])
        reason = told.get("reason")
        if reason:
            self.refused += 1
            self.reasons += [f"{path}: {reason}"][: TOLD - len(self.reasons)]
            return
        self.entries += 1
        if "restored" in told:
            text = os.fsdecode(told["restored"])
        else:
            text = f"{path}: {sum(b - a for a, b in told['ranges'])} bytes that were null"
        self.names += [text][: TOLD - len(self.names)]

    def detail(self) -> dict[str, Any]:
        """As the event has it."""
        told: dict[str, Any] = {"job": self.job, "path": self.path or ""}
        told |= {"entries": self.entries, "refused": self.refused, "restored": self.names}
        return told | {"reason": "; ".join(self.reasons)}


class TrashDesk:
    def __init__(
        self,
        store: Store,
        content: Content,
        namespace: Namespace,
        lister: Lister,
        kernel: KernelPages,
        link: GatewayLink,
        settlement: Settlement,
        journal: Path,
        take_over: Callable[[], Awaitable[None]],
        sync_wal: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self._content, self._namespace = store, content, namespace
        self._lister, self._kernel, self._link = lister, kernel, link
        self._settlement, self._journal = settlement, journal
        self._take_over, self._sync_wal = take_over, sync_wal
        self._running: Restore | None = None
        self._wanted = trio.Event()
        self._asking = trio.Lock()
        self._number = 0
        self._answer = trio.Event()
        self._reply: Message | None = None
        self._emptying = False
        self.nursery: trio.Nursery | None = None
        link.takers["restored"] = link.takers["emptied"] = self._take
        said = json.loads(store.get(_KEY) or "null")
        if said:
            self._begin(Restore(said["job"], said["path"], announced=True))

    def follow(self, journal: Path) -> None:
        """The trash of another home, from here on."""
        self._journal = journal

    # -- listing ---------------------------------------------------------------------------------

    async def listing(self, job: int | None) -> Listing:
        """What is in the trash; needs no home."""
        return await trio.to_thread.run_sync(self._read, job)

    def _read(self, job: int | None) -> Listing:
        if not self._journal.exists():
            return read_trash(None, job)
        with closing(connect_read_only(self._journal)) as gateway:
            return read_trash(gateway, job)

    # -- asking the gateway ----------------------------------------------------------------------

    async def _ask(self, kind: str, **fields: Any) -> Message | None:
        """As long as it takes. None if the gateway ended over it, or there is none."""
        async with self._asking:
            if self._link.home.link is not Link.UP:
                return None
            self._number += 1
            self._answer, self._reply = trio.Event(), None
            self._link.post({"type": kind, "rid": self._number, **fields})
            await self._answer.wait()
            return self._reply

    def _take(self, message: Message, fds: list[int]) -> None:
        close_all(fds)
        if message["rid"] == self._number:
            self._reply = message
            self._answer.set()

    def ended(self) -> None:
        """The gateway has ended, and answers nothing more."""
        self._answer.set()

    # -- restoring -------------------------------------------------------------------------------

    async def restore(self, job: int, path: str | None) -> Restore:
        """Bring back what a job has moved aside: all, or what is at or below a path. It may go on
        in the background, durably. Refused while another restore does."""
        if self._running is not None:
            raise Refused("a restore is under way: its end is the event afmTrashRestored")
        with self._store as store:
            store.put(_KEY, json.dumps({"job": job, "path": path}))
        running = self._begin(Restore(job, path))
        await self._sync_wal()
        with trio.move_on_after(WAIT_S):
            await running.ended.wait()
        running.announced = True
        return running

    def _begin(self, restore: Restore) -> Restore:
        self._running = restore
        self._wanted.set()
        return restore

    async def run(self) -> None:
        """Restore what is wanted, over restarts of the gateway and absences of home."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            running = self._running
            assert running is not None
            await until_kept(
                partial(self._restore_all, running), "what is restored can't be taken in yet"
            )

    async def _restore_all(self, restore: Restore) -> None:
        path = None if restore.path is None else os.fsencode(restore.path)
        after: int | None = 0
        while after is not None:
            # Changes of the link that come from here on are not missed.
            changed = self._link.changed
            reply = await self._ask("restore", job=restore.job, path=path, after=after)
            if reply is None or reply["errno"] == errno.EHOSTDOWN:
                with trio.move_on_after(1.0):
                    await changed.wait()
                continue
            if reply["errno"]:
                restore.refused += 1
                restore.reasons.append(str(reply.get("reason") or os.strerror(reply["errno"])))
                break
            after = reply["next"]
            await self._enter_all(reply["entries"])
            for told in reply["entries"]:
                restore.note(told)
        with self._store as store:
            store.put(_KEY, "")
            if restore.entries or restore.refused or restore.announced:
                insert_event(store.db, "afmTrashRestored", restore.detail())
        self._running = None
        restore.ended.set()

    async def _enter_all(self, entries: list[Message]) -> None:
        """Durable on return."""
        if not entries:
            return
        await self._take_over()  # the versions of restored files are known before they are fetched
        for told in entries:
            if told.get("ranges"):
                self._refetch(told["ino"], told["ranges"])
            elif told.get("entry") and told["parent"]:
                await self._enter(told["parent"], told["entry"])
        await self._sync_wal()

    def _refetch(self, ino: int, pieces: list[list[int]]) -> None:
        """Home has other bytes there than it had: what is cached of them is not believed, and what
        is under way is worthless."""
        inode = self._store.inode(ino)
        if inode is None:
            return
        with self._store:
            self._settlement.unmark_clean(inode, tuple((a, b) for a, b in pieces))
        self._content.truncated(ino)
        self._kernel.forget(ino)

    async def _enter(self, parent: int, row: list[Any]) -> None:
        """A name that came to a directory at home. One that was never looked into is read later."""
        await self._lister.settled(parent)  # what is being read may have been read before it came
        directory = self._store.inode(parent)
        if directory is None or directory.listed != LISTED:
            return
        name = row[0]
        if self._namespace.find(parent, name) is not None:
            return  # taken in before a restart
        with self._store as store:
            if self._lister.enter(directory, row):
                store.save(directory, nlink=directory.nlink + 1)
        self._kernel.forget_entry(parent, name)
        self._kernel.forget(parent)

    # -- emptying --------------------------------------------------------------------------------

    async def empty(self, job: int) -> Message | None:
        """Throw the trash of a job away, or of ALL; the gateway's answer, None if it takes longer
        and goes on in the background. AfmError if it can't be done."""
        assert self.nursery is not None
        if self._emptying:
            raise Refused("the trash is being emptied: its end is the event afmTrashEmptied")
        self._emptying = True
        send, receive = trio.open_memory_channel[Message](1)
        self.nursery.start_soon(self._empty, job, send)
        with trio.move_on_after(WAIT_S):
            reply = await receive.receive()
            if reply["errno"]:
                raise AfmError(f"trash: {reply['reason']}", errno=reply["errno"])
            return reply
        return None

    async def _empty(self, job: int, answer: trio.MemorySendChannel[Message]) -> None:
        try:
            reply = await self._ask("empty", job=job)
        finally:
            self._emptying = False
        if reply is None:
            reason = self._link.home.reason or "the gateway ended"
            reply = {"errno": errno.EIO, "reason": reason, "count": 0, "bytes": 0}
        if reply.get("count") or not reply["errno"]:
            detail = {key: reply.get(key) or 0 for key in ("count", "bytes")}
            detail |= {"job": job, "reason": reply.get("reason") or ""}
            try:
                with self._store as store:
                    insert_event(store.db, "afmTrashEmptied", detail)
            except (OSError, sqlite3.Error) as exc:
                log.error("the event afmTrashEmptied can't be kept: %s", exc)
        answer.send_nowait(reply)
