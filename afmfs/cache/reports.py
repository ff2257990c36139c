"""Long read-only reports, as the mount process sees them: asked for, awaited without end, kept.

The gateway makes one at a time, in minutes or in hours; what it found comes as the descriptor of a
file without a name, which stays readable until the next report is asked for.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from afmfs.cache.queue_report import rfc3339
from afmfs.errors import Refused
from afmfs.gateway.protocol import Message, close_all
from afmfs.model.states import Link

if TYPE_CHECKING:
    from afmfs.cache.link import GatewayLink

_PIECE = 1 << 20
"""Bytes read at a time."""


@dataclass(slots=True)
class Report:
    """The report that was asked for last. `errno` is 0 while it runs, and if it is complete."""

    number: int
    kind: str
    started: str  # RFC 3339
    running: bool = True
    errno: int = 0
    reason: str = ""


class ReportDesk:
    def __init__(self, link: GatewayLink) -> None:
        self._link = link
        self._last: Report | None = None
        self._file: int | None = None
        link.takers["reported"] = self._take

    def start(self, kind: str, **options: Any) -> int:
        """Have a report made; its number. Refused if one is being made, or nobody can make it."""
        last = self._last
        if last is not None and last.running:
            raise Refused(f"report {last.number} ({last.kind}) is being made; it has to end first")
        home = self._link.home
        if home.link is not Link.UP:
            why = f" ({home.reason})" if home.reason else ""
            raise Refused(f"home can't be reached now{why}", errno=errno.EHOSTDOWN)
        number = last.number + 1 if last else 1
        self.close()
        self._last = Report(number, kind, rfc3339(time.time_ns()))
        self._link.post({"type": "report", "rid": number, "kind": kind, **options})
        return number

    def cancel(self) -> int:
        """Have the running report ended; its number. Refused if there is none."""
        last = self._last
        if last is None or not last.running:
            raise Refused("no report is being made")
        self._link.post({"type": "cancel_report", "rid": last.number})
        return last.number

    def _take(self, message: Message, fds: list[int]) -> None:
        """A report has ended. The descriptors that come with it are ours."""
        last = self._last
        if last is None or not last.running or message["rid"] != last.number:
            close_all(fds)
            return
        last.running, last.errno = False, message["errno"]
        last.reason = str(message.get("reason") or "")
        if fds and not last.errno:
            self._file = fds.pop(0)
        close_all(fds)

    def ended(self) -> None:
        """The gateway has ended, and with it what it was making."""
        last = self._last
        if last is not None and last.running:
            last.running, last.errno, last.reason = False, errno.EIO, "the gateway ended"

    def shown(self) -> dict[str, Any] | None:
        """As status.json has it; None before the first report."""
        last = self._last
        if last is None:
            return None
        fields = ("number", "kind", "started", "running", "errno", "reason")
        return {name: getattr(last, name) for name in fields}

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The lines of the last report, in pieces; none where it is not complete."""
        if self._file is None:
            return
        file, offset = os.dup(self._file), 0  # a reader keeps the one that it began with
        try:
            while piece := await trio.to_thread.run_sync(os.pread, file, _PIECE, offset):
                yield piece
                offset += len(piece)
        finally:
            os.close(file)

    def close(self) -> None:
        """Give up what is kept."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
