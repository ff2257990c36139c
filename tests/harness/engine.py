"""The engine without FUSE: a fileset on a trio thread of its own, called from a test's thread."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from afmfs.cache.fileset import Fileset, StartGateway, open_fileset
from afmfs.cache.home.link import start_gateway
from afmfs.cache.store.settings import prepare
from afmfs.gateway import protocol
from afmfs.gateway.gateway import Gateway
from afmfs.model.tunables import MountOptions, parse
from tests.harness.checking import assert_sound

T = TypeVar("T")

CALL_SECONDS = 60.0
"""No call of a test takes so long; one that does fails it."""


class ThreadGateway:
    """A gateway in threads of this process: what the second process costs to start is saved."""

    def __init__(self, cache: Path, home: int, sock: socket.socket) -> None:
        self.pid = os.getpid()
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))
        self._gateway = Gateway(cache, home, lambda m, fds: protocol.send(self._sock, m, fds))
        self._gateway.crashed = lambda: self._sock.shutdown(socket.SHUT_RDWR)
        self._thread = threading.Thread(target=self._serve, name="gateway")
        self._thread.start()

    def _serve(self) -> None:
        with self._sock:
            self._gateway.start()
            while (found := protocol.receive(self._sock)) and found[0]["type"] != "bye":
                self._gateway.receive(*found)
            assert self._gateway.stop(CALL_SECONDS), "a thread of the gateway does not end"

    def poll(self) -> int | None:
        return None if self._thread.is_alive() else 0

    def kill(self) -> None:
        raise AssertionError("a gateway in threads can't be killed, and did not end by itself")


class Engine:
    """One cache; `start` and `stop` may alternate. Everything else runs between them."""

    def __init__(
        self, home: Path, base: Path, *options: str, gateway: StartGateway = start_gateway
    ) -> None:
        self.home, self.cache, self.point = home, base / "cache", base / "mnt"
        self.options: MountOptions = parse([f"cache={self.cache}", *options])
        self.fileset: Fileset
        self._gateway = gateway
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.checks = True  # after each stop; not for a test that damages the cache

    def start(self) -> None:
        self._ready.clear()
        self._token = None
        self._thread = threading.Thread(target=self._run, name="engine")
        self._thread.start()
        assert self._ready.wait(CALL_SECONDS), "the fileset does not open"
        self._raise_error()

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._end = trio.Event()
        settings = prepare(str(self.home), self.point, self.options)
        async with open_fileset(settings, self._gateway) as fileset:
            self.fileset = fileset
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await self._end.wait()

    def stop(self) -> None:
        """A clean stop; what is pending stays pending."""
        if self._thread is None:
            return
        if self._token is not None:  # else it was refused, and the thread ends by itself
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._end.set)
        self._thread.join(CALL_SECONDS)
        assert not self._thread.is_alive(), "the fileset does not close"
        self._thread = None
        self._raise_error()
        if self.checks:
            assert_sound(self.cache)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function there; its result or error is the caller's."""

        async def bounded() -> T:
            with trio.fail_after(CALL_SECONDS):
                return await function()

        return trio.from_thread.run(bounded, trio_token=self._token)

    def flush(self) -> None:
        """Everything queued is at home on return."""

        async def flush() -> int:
            return self.fileset.flush_pending()

        async def length() -> int:
            return self.fileset.status().queue_length

        self.call(flush)
        end = time.monotonic() + CALL_SECONDS
        while self.call(length):
            assert time.monotonic() < end, f"not flushed: {self.fileset.status()}"
            time.sleep(0.005)
