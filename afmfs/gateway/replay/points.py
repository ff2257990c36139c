"""Durable points of the cache, as the gateway asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from afmfs.gateway.protocol import Message


class Stopped(Exception):
    """The gateway ends."""


class Points:
    """Asked by one thread, answered by others. `about` tells what the cache is to remember with
    each: how far the journal is, and what may be executed from then on."""

    def __init__(
        self, send: Callable[[Message], None], about: Callable[[], dict[str, Any]]
    ) -> None:
        self._send, self._about = send, about
        self._changed = threading.Condition()
        self._asked = 0
        self._answers: dict[int, bool] = {}
        self._ending = False

    def make(self) -> bool:
        """Ask for a durable point and wait for it; whether it was made. Stopped if the gateway
        ends."""
        with self._changed:
            self._asked += 1
            rid = self._asked
        self._send({"type": "point", "rid": rid} | self._about())
        with self._changed:
            while rid not in self._answers:
                if self._ending:
                    raise Stopped
                self._changed.wait()
            return self._answers.pop(rid)

    def done(self, rid: int, ok: bool) -> None:
        """The mount process has made it, or can't."""
        with self._changed:
            self._answers[rid] = ok
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
