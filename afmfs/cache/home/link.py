"""The mount process's end of the socket to its gateway.

Starts the gateway, starts it again when it dies, and goes on without it. A request that needs home
has a deadline, and fails at once while home is known to be away: whoever waits in the kernel may
hold a lock that others need.
"""

from __future__ import annotations

import errno
import itertools
import logging
import math
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import trio

from afmfs.cache.home.home_view import HomeView
from afmfs.cache.names.namespace import failed
from afmfs.gateway import protocol
from afmfs.gateway.protocol import Message, close_all
from afmfs.model.states import Link as LinkState

log = logging.getLogger(__name__)

RESTART_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before a gateway that died is started again; the last one repeats."""


class GatewayProcess(Protocol):
    """What `subprocess.Popen` and the tests' stand-in have in common."""

    pid: int

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


StartGateway = Callable[[Path, int, socket.socket], GatewayProcess]
"""Starts the gateway of a cache and a home's number, which talks over the socket."""

GATEWAY_S = 3.0
"""How long a request waits for a gateway that is being started."""


ENDS_S = 2.0
"""How long a gateway that was asked to end may take before it is killed."""


def start_gateway(cache: Path, home: int, sock: socket.socket) -> GatewayProcess:
    """A gateway process that talks over `sock`; its command line names the cache."""
    words = ["--home", str(home), "--fd", str(sock.fileno())]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "afmfs.gateway.process", str(cache), *words],
        pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C at a terminal is for the mount process to handle
    )


class _Request:
    __slots__ = ("done", "fds", "orphaned", "reply")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: Message | None = None
        self.orphaned = False  # the gateway that was asked is gone
        self.fds: list[int] = []


class _Switch:
    """A change that is made between two gateways."""

    def __init__(self, change: Callable[[], Awaitable[None]]) -> None:
        self.change = change
        self.made = trio.Event()
        self.error: Exception | None = None


Handler = Callable[[Message], Awaitable[None]]
Taker = Callable[[Message, list[int]], None]


class GatewayLink:
    def __init__(
        self,
        start: Callable[[socket.socket], GatewayProcess],
        hello: Callable[[], Message],
        *,
        home_timeout_s: float,
        life_timeout_s: float,
    ) -> None:
        self._start, self._hello = start, hello
        self._home_timeout_s, self._life_timeout_s = home_timeout_s, life_timeout_s
        self.home = HomeView()
        self.changed = trio.Event()  # set, and replaced, when `home.link` changes
        self.handlers: dict[str, Handler] = {}
        self.takers: dict[str, Taker] = {}
        """Called at once, with the descriptors of the message, which are theirs to close."""
        self._rids = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._outbox, self._to_send = trio.open_memory_channel[Message](math.inf)
        self._sock: trio.socket.SocketType | None = None
        self.process: GatewayProcess | None = None
        self.stopping = False
        self.left_behind = False  # the last one is stuck at home and could not be ended
        self._switch: _Switch | None = None
        self._scope = trio.CancelScope()  # of what `run` waits for
        self._ending = ""  # how the last one ended
        self._held = False  # home is, by a gateway that was left behind: none can run yet

    # -- what the fileset asks -------------------------------------------------------------------

    def post(self, message: Message) -> None:
        """Send without an answer; dropped where no gateway runs (the next one is greeted anew)."""
        if self._sock is not None:
            self._outbox.send_nowait(message)

    async def request(self, kind: str, **fields: Any) -> tuple[Message, list[int]]:
        """Ask for something of home. EIO if it is away, or shows no sign of life in time.

        A gateway that dies over it is asked again when it is back. The caller closes the
        descriptors that come with the answer.
        """
        deadline = trio.current_time() + self._home_timeout_s
        while trio.current_time() < deadline:
            if self.home.link is LinkState.UNKNOWN:
                with trio.move_on_after(max(GATEWAY_S, self._life_timeout_s)):
                    await self.wait_known()
            if self.home.link is not LinkState.UP or self._sock is None:
                break
            request = await self._ask({"type": kind, **fields})
            if request.reply is not None:
                return request.reply, request.fds
            if not request.orphaned:
                break
        raise failed(errno.EIO)

    async def _ask(self, message: Message) -> _Request:
        rid, request = next(self._rids), _Request()
        self._requests[rid] = request
        try:
            self.post({**message, "rid": rid})
            await self._wait(request)
        finally:
            del self._requests[rid]
        return request

    async def _wait(self, request: _Request) -> None:
        """Until it is answered, or home has been silent for too long."""
        started = trio.current_time()
        patience = max(self._life_timeout_s, 4 * self.home.latency_s)
        with trio.move_on_at(started + self._home_timeout_s):
            while not request.done.is_set():
                silent_at = max(started, self.home.life) + patience
                with trio.move_on_at(silent_at):
                    await request.done.wait()
                    return
                if trio.current_time() >= max(started, self.home.life) + patience:
                    return

    async def wait_known(self) -> None:
        """Until the gateway has tried home for the first time."""
        while self.home.link is LinkState.UNKNOWN:
            await self.changed.wait()

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a gateway running until cancelled."""
        failures = -1
        while True:
            began = trio.current_time()
            try:
                with trio.CancelScope() as self._scope:
                    await self._serve_one()
            except OSError as exc:
                log.error("gateway: %s", exc)
                self._ending = f" ({exc})"  # or was not started at all
            if self.stopping:
                self._give_up()
                return
            if self._switch is not None:
                self._gone("the gateway is started anew")
                await self._make(self._switch)
                failures = -1
                continue
            failures = 0 if trio.current_time() - began > 60 else failures + 1
            pause = RESTART_S[min(failures, len(RESTART_S) - 1)]
            reason = f"the gateway process ended{self._ending}; started again in {pause:g} s"
            if not self._held:
                self._gone(reason)
                await self._handle({"type": "ended", "reason": reason})
            with trio.CancelScope() as self._scope:
                if self._switch is None:
                    await trio.sleep(pause)
            if self._switch is not None:
                await self._make(self._switch)

    async def switch(self, change: Callable[[], Awaitable[None]]) -> None:
        """Make a change between two gateways: the running one is ended, then it is made, then
        another is started. What `change` raises is raised here."""
        assert self._switch is None
        self._switch, scope = (switch := _Switch(change)), self._scope
        self.post({"type": "bye"})
        if self.process is not None:
            await _ends(self.process, ENDS_S)
        scope.cancel()
        await switch.made.wait()
        if switch.error is not None:
            raise switch.error

    async def _make(self, switch: _Switch) -> None:
        try:
            await switch.change()
        except Exception as exc:  # whoever asked for it handles it
            switch.error = exc
        self._switch = None
        switch.made.set()

    def _give_up(self) -> None:
        """No change is made any more."""
        if self._switch is not None:
            self._switch.error = failed(errno.EIO)
            self._switch.made.set()

    async def _serve_one(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = self._start(theirs)
        sock = trio.socket.from_stdlib_socket(ours)
        try:
            self._sock, self._held = sock, False
            self._outbox.send_nowait(self._hello())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_all, sock)
                await self._receive_all(sock, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._sock = None
            if self.home.link is LinkState.UP and not self.stopping:
                # No fault of home's: who asks now waits for the next one, as who has asked before.
                self._set_link(LinkState.UNKNOWN, "the gateway process ended", "")
            while True:  # what was meant for the gateway that is gone
                try:
                    self._to_send.receive_nowait()
                except trio.WouldBlock:
                    break
            sock.close()
            with trio.CancelScope(shield=True):
                await self.reap()

    async def _send_all(self, sock: trio.socket.SocketType) -> None:
        async for message in self._to_send:
            try:
                await sock.send(protocol.encode(message))
            except protocol.ProtocolError as exc:
                log.error("the gateway can't be told: %s", exc)
            except OSError:
                return  # the receiving side sees the end, too

    async def _receive_all(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                data, ancillary, _, _ = await sock.recvmsg(
                    protocol.LIMIT, socket.CMSG_SPACE(4 * protocol.MAX_FDS), socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionError:
                return
            fds = protocol.descriptors(ancillary)
            if not data:
                return
            self.home.life = trio.current_time()
            try:
                message = protocol.decode(data)
            except protocol.ProtocolError as exc:
                log.error("gateway: %s", exc)
                close_all(fds)
                continue
            try:
                self._take(message, fds, nursery)
            except Exception:
                self._unforeseen(message)

    def _take(self, message: Message, fds: list[int], nursery: trio.Nursery) -> None:
        kind = message["type"]
        if kind in ("fetched", "listed", "dropped"):
            request = self._requests.get(message["rid"])
            if request is None:
                close_all(fds)  # whoever asked has given up
            else:
                request.reply, request.fds = message, fds
                request.done.set()
            return
        if kind in self.takers:
            self.takers[kind](message, fds)
            return
        close_all(fds)
        self.home.take(message)
        match kind:
            case "connected":
                self._set_link(LinkState.UP, "", "")
            case "away":
                state = LinkState(message["state"].lower())
                self._held = bool(message.get("held"))
                self._set_link(state, message["reason"], message.get("hint") or "")
                self._fail_requests()
            case "refused":
                self._set_link(LinkState.UNMOUNTED, message["reason"], message["hint"])
                self._fail_requests()
        if kind in self.handlers:
            nursery.start_soon(self._handle, message)

    async def _handle(self, message: Message) -> None:
        """A message that can't be served now (the cache's disk is full, say) ends nothing."""
        try:
            await self.handlers[message["type"]](message)
        except (OSError, sqlite3.Error) as exc:
            log.error("%s: %s", message["type"], exc)
        except Exception:
            self._unforeseen(message)

    def _unforeseen(self, message: Message) -> None:
        """The mount goes on, and tries it with another gateway: this one waits for an answer."""
        log.exception("gateway: a %s message can't be dealt with", message["type"])
        self.kill()

    def _set_link(self, link: LinkState, reason: str, hint: str) -> None:
        self.home.link, self.home.reason, self.home.hint = link, reason, hint
        self.changed.set()
        self.changed = trio.Event()

    def _fail_requests(self) -> None:
        for request in self._requests.values():
            request.done.set()

    def _gone(self, reason: str) -> None:
        """Without a gateway nothing is known of home."""
        self.home.executing = 0
        self._set_link(LinkState.UNKNOWN, reason, "")
        for request in self._requests.values():
            request.orphaned = True
        self._fail_requests()

    async def stop(self) -> None:
        """End the gateway: asked first, killed after 2 s, left behind if stuck in a dead home."""
        self.stopping = True
        self.post({"type": "bye"})
        await self.reap()
        if self._switch is not None:  # it is being made; what it works on is closed next
            with trio.move_on_after(ENDS_S):
                await self._switch.made.wait()

    async def reap(self) -> None:
        process = self.process
        if process is None:
            return
        if not await _ends(process, ENDS_S):
            process.kill()
            await _ends(process, 1)
        status = process.poll()
        self._ending = f" with status {status}" if status else ""
        self.left_behind = status is None
        if status is None:
            log.error("gateway %d is stuck at home and is left behind", process.pid)
        self.process = None

    def kill(self) -> None:
        """End a gateway that holds up the cache; the next one starts by itself."""
        if self.process is not None:
            log.error("gateway %d is killed", self.process.pid)
            self.process.kill()


async def _ends(process: GatewayProcess, within_s: float) -> bool:
    """Whether a process ends in time. One that is stuck in a dead home can't be waited for."""
    with trio.move_on_after(within_s):
        while process.poll() is None:  # noqa: ASYNC110  # a process is not ours to make an event of
            await trio.sleep(0.01)
    return process.poll() is not None
