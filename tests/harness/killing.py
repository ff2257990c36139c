"""kill -9 for a gateway that runs in threads: at the n-th thing that it does to the world.

A dead gateway does nothing any more: whatever its threads try to do at home, in its journal or on
its socket ends them instead. What it did before stays done, as after a kill of a process; so one
program can be killed at every one of its steps, and at the same one again.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway import protocol
from afmfs.gateway.gateway import Gateway
from afmfs.gateway.home import syscalls
from afmfs.gateway.state.journal import Journal
from tests.harness.engine import ThreadGateway

COUNTED = ("replay", "home")
"""Names of threads whose steps count: those that change home."""

END_SECONDS = 10.0

OURS = (*COUNTED, "fetch", "probe", "gateway", "report", "tick")


class Killed(BaseException):
    """The process ends here: nothing after it happens."""


Act = Callable[[], bool]
"""What happens at a step; True: the gateway dies of it."""


class Doom:
    """The life of one gateway. What is to happen is planned for it and for those that follow."""

    now: Doom | None = None
    _planned: list[tuple[int, Act]] = []
    _left = 0  # steps until the first of it
    _lock = threading.RLock()

    def __init__(self, on_death: Callable[[], None]) -> None:
        self.dead = False
        self._on_death = on_death

    @classmethod
    def plan(cls, acts: list[tuple[int, Act]]) -> None:
        """Each comes so many steps after the one before it."""
        with cls._lock:
            cls._planned = list(acts)
            cls._left = acts[0][0] if acts else 0

    @classmethod
    def spare(cls) -> None:
        """Nothing happens any more."""
        cls.plan([])

    def step(self, *, counts: bool) -> None:
        with self._lock:
            if not self.dead and counts and self._planned:
                Doom._left -= 1
                if self._left < 0:
                    self._act()
            if self.dead:
                raise Killed

    def _act(self) -> None:
        _, act = self._planned.pop(0)
        Doom._left = self._planned[0][0] if self._planned else 0
        with _unseen():
            if act():
                self.kill()

    def kill(self) -> None:
        with self._lock:
            if not self.dead:
                self.dead = True
                self._on_death()


_acting = threading.local()


@contextmanager
def _unseen() -> Iterator[None]:
    """What is done inside is not the gateway's doing."""
    _acting.now = True
    try:
        yield
    finally:
        _acting.now = False


def step() -> None:
    """A gateway's thread is about to do something that others can see."""
    name, doom = threading.current_thread().name, Doom.now
    if doom is not None and name.startswith(OURS) and not getattr(_acting, "now", False):
        doom.step(counts=name.startswith(COUNTED))


class MortalGateway(ThreadGateway):
    """A gateway in threads that can be killed."""

    def __init__(self, cache: Path, home: int, sock: socket.socket) -> None:
        self.doom = Doom.now = Doom(self._cut)
        super().__init__(cache, home, sock)
        self._gateway.crashed = self.doom.kill

    @property
    def gateway(self) -> Gateway:
        return self._gateway

    def _cut(self) -> None:
        """The kernel closes a dead process's socket; of one that only starts, its thread does."""
        with suppress(OSError, AttributeError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with suppress(Killed):
            try:
                with self._sock:
                    self._gateway.start()
                    while (found := self._receive()) and found[0]["type"] != "bye":
                        self._gateway.receive(*found)
            finally:
                if not self._gateway.stop(END_SECONDS):
                    faulthandler.dump_traceback()
                    raise AssertionError("a thread of the gateway does not end")
                if self._gateway._engine is None:
                    self._drop_journals()

    @staticmethod
    def _drop_journals() -> None:
        """Those that a gateway had opened when it was killed before it was anything else."""
        for journal in _opened.pop(threading.current_thread(), ()):
            with suppress(OSError, sqlite3.ProgrammingError):
                journal.close()

    def _receive(self) -> tuple[protocol.Message, list[int]] | None:
        found = protocol.receive(self._sock)
        if self.doom.dead:
            raise Killed
        return found

    def kill(self) -> None:
        self.doom.kill()


_AT_HOME = (
    "stat", "lstat", "open", "mkdir", "rmdir", "unlink", "link", "symlink", "readlink", "mknod",
    "rename", "replace", "utime", "chmod", "chown", "ftruncate", "pwrite", "fsync", "scandir",
    "listdir", "sendfile", "copy_file_range", "setxattr", "removexattr",
)  # fmt: skip
_SYSTEM_CALLS = ("renameat2", "syncfs")


@contextmanager
def mortal() -> Iterator[None]:
    """Inside, gateways in threads can be killed."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((os, _AT_HOME), (syscalls, _SYSTEM_CALLS)):
            for name in names:
                patch.setattr(module, name, _stepping(getattr(module, name)))
        patch.setattr(protocol, "send", _stepping(protocol.send))
        patch.setattr(Journal, "_transaction", _transaction)
        patch.setattr(Journal, "__init__", _noted(Journal.__init__))
        before = threading.excepthook
        patch.setattr(
            threading,
            "excepthook",
            lambda args: None if args.exc_type is Killed else before(args),
        )
        yield
        Doom.now, Refusals.names = None, frozenset()


def _stepping(call: Callable[..., Any]) -> Callable[..., Any]:
    changes_names = call.__name__ in _OF_NAMES

    def stepped(*words: Any, **named: Any) -> Any:
        step()
        if changes_names:
            Refusals.check(words)
        return call(*words, **named)

    return stepped


_OF_NAMES = ("mkdir", "rmdir", "unlink", "link", "symlink", "mknod", "rename", "renameat2")


class Refusals:
    """What home refuses: to make, move or remove anything of some names."""

    names: frozenset[bytes] = frozenset()
    code = errno.ENOSPC

    @classmethod
    def check(cls, words: tuple[Any, ...]) -> None:
        if not (cls.names and threading.current_thread().name.startswith(COUNTED)):
            return
        if any(isinstance(word, bytes) and word in cls.names for word in words):
            raise OSError(cls.code, os.strerror(cls.code))


@contextmanager
def closing_below(top: Path) -> Iterator[None]:
    """Afterwards nothing there is open that gateways had open when they were killed: it would have
    gone with their processes. Not while anything else goes on, which may use the numbers anew."""
    yield
    gc.collect()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{top}/"):
                os.close(int(fd))


_opened: dict[threading.Thread, list[Journal]] = {}


def _noted(make: Callable[..., None]) -> Callable[..., None]:
    def noted(self: Journal, *words: Any) -> None:
        make(self, *words)
        _opened[threading.current_thread()] = [self]

    return noted


_real_transaction = Journal._transaction


@contextmanager
def _transaction(self: Journal) -> Iterator[sqlite3.Connection]:
    """Killed before the commit: nothing of it has happened. Or just after it."""
    step()
    with _real_transaction(self) as db:
        yield db
        step()
    step()
