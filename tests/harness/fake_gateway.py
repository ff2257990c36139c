"""A gateway that says what the test has it say: the mount process's half alone, without home.

Only what a fileset needs to open is answered by itself; all that is said to it is kept.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from afmfs.cache.fileset import Fileset, open_fileset
from afmfs.cache.store.settings import prepare
from afmfs.gateway import protocol
from afmfs.gateway.protocol import Message
from afmfs.model.tunables import parse

HEAR_SECONDS = 10.0

_ROOT = {"mode": 0o40755, "uid": 0, "gid": 0, "nlink": 2, "size": 0, "ino": 2}
CONNECTED: Message = {
    "type": "connected",
    "properties": {"name_max": 255},
    "statvfs": {"bsize": 4096, "blocks": 10, "bfree": 5, "bavail": 5, "files": 9, "ffree": 9},
    "home_st": _ROOT | {"atime": 1, "mtime": 1, "ctime": 1},
}


class FakeGateway:
    """One process, as far as its mount can tell."""

    def __init__(self, office: Office, home: int, sock: socket.socket) -> None:
        self.home, self.pid = home, os.getpid()
        self.heard: list[Message] = []
        self.stuck = False  # it ends neither when asked nor when killed, nor with its socket
        self.ended = False
        self._office = office
        self._sock = trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(sock.fileno())))
        self._news = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._scope:
                with suppress(ConnectionError):  # the mount process is gone
                    while data := await self._sock.recv(protocol.LIMIT):
                        await self._take(protocol.decode(data))
                if self.stuck:
                    await trio.sleep_forever()
        finally:
            self._sock.close()
            self.ended = True

    async def _take(self, message: Message) -> None:
        self.heard.append(message)
        self._news.set()
        self._news = trio.Event()
        if message["type"] == "bye" and not self.stuck:
            self._scope.cancel()
        answer = self._office.answers.get(message["type"])
        if answer is not None:
            await self.say(**answer(message))

    async def say(self, *, fds: Sequence[int] = (), **message: Any) -> None:
        protocol.check(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        await self._sock.sendmsg([protocol.encode(message)], rights)

    def all(self, kind: str) -> list[Message]:
        return [message for message in self.heard if message["type"] == kind]

    async def hear(self, kind: str, count: int = 1) -> Message:
        """The `count`-th message of a kind, waited for."""
        with trio.fail_after(HEAR_SECONDS):
            while len(found := self.all(kind)) < count:
                await self._news.wait()
        return found[count - 1]

    def poll(self) -> int | None:
        return 0 if self.ended else None

    def kill(self) -> None:
        if not self.stuck:
            self._scope.cancel()


@dataclass
class Office:
    """Where gateways are started, and what they answer by themselves."""

    nursery: trio.Nursery
    answers: dict[str, Callable[[Message], Message]] = field(default_factory=dict)
    started: list[FakeGateway] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = trio.Event()
        self.answers = {
            "hello": lambda message: CONNECTED,
            "list": lambda message: {
                "type": "listed", "rid": message["rid"], "errno": 0, "count": 0
            },
        } | self.answers  # fmt: skip

    def start(self, cache: Path, home: int, sock: socket.socket) -> FakeGateway:
        gateway = FakeGateway(self, home, sock)
        self.started.append(gateway)
        self._news.set()
        self._news = trio.Event()
        self.nursery.start_soon(gateway.run)
        return gateway

    async def another(self, than: int) -> FakeGateway:
        """The newest, once more than so many were started."""
        with trio.fail_after(HEAR_SECONDS):
            while len(self.started) <= than:
                await self._news.wait()
        return self.gateway

    @property
    def gateway(self) -> FakeGateway:
        """The newest."""
        return self.started[-1]

    @asynccontextmanager
    async def fileset(self, base: Path, *options: str, **more: Any) -> AsyncIterator[Fileset]:
        """The fileset of the cache below `base`; of a home that nobody looks at."""
        given = parse([f"cache={base / 'cache'}", "fileset=sw1", *options])
        settings = prepare(more.get("target", str(base / "home")), base / "mnt", given)
        async with open_fileset(settings, self.start) as fileset:
            yield fileset


@asynccontextmanager
async def open_office() -> AsyncIterator[Office]:
    async with trio.open_nursery() as nursery:
        yield Office(nursery)
        nursery.cancel_scope.cancel()
