"""Long read-only reports, as the mount process sees them: asked for, awaited without end, kept.

One is made at a time, in minutes or in hours: by the gateway where it is about home, by a thread of
this process where it is about the cache. What was found is in a file without a name, which stays
readable until the next report is asked for.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from afmfs.cache.report.queue import rfc3339
from afmfs.errors import AfmError, Refused
from afmfs.gateway.protocol import Message, close_all
from afmfs.model.states import Link

if TYPE_CHECKING:
    from afmfs.cache.home.link import GatewayLink

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


Put = Callable[[dict[str, Any]], None]
"""Takes a row of a report."""


class Maker(Protocol):
    """What makes a report in a thread."""

    def run(self) -> None: ...
    def end(self) -> None: ...  # from another thread: it is to end soon


class ReportDesk:
    def __init__(self, link: GatewayLink) -> None:
        self._link = link
        self._last: Report | None = None
        self._file: int | None = None
        self._maker: Maker | None = None  # at work in this process
        self.nursery: trio.Nursery | None = None
        link.takers["reported"] = self._take

    def start(self, kind: str, **options: Any) -> int:
        """Have a report made; its number. Refused if one is being made, or nobody can make it."""
        self._admit()
        home = self._link.home
        if home.link is not Link.UP:
            why = f" ({home.reason})" if home.reason else ""
            raise Refused(f"home can't be reached now{why}", errno=errno.EHOSTDOWN)
        number = self._begin(kind).number
        self._link.post({"type": "report", "rid": number, "kind": kind, **options})
        return number

    def start_here(self, kind: str, directory: Path, maker: Callable[[Put], Maker]) -> int:
        """As `start`, of a report that a thread of this process makes: `maker` is told where its
        rows go. Its file is made in `directory`."""
        self._admit()
        assert self.nursery is not None
        report = self._begin(kind)
        self.nursery.start_soon(self._make, report, directory, maker)
        return report.number

    def _admit(self) -> None:
        last = self._last
        if last is not None and last.running:
            raise Refused(f"report {last.number} ({last.kind}) is being made; it has to end first")

    def _begin(self, kind: str) -> Report:
        number = self._last.number + 1 if self._last else 1
        self.close()
        self._last = Report(number, kind, rfc3339(time.time_ns()))
        return self._last

    async def _make(self, report: Report, directory: Path, maker: Callable[[Put], Maker]) -> None:
        with tempfile.TemporaryFile(dir=directory) as file:

            def put(row: dict[str, Any]) -> None:
                if "summary" in row:
                    row = {"report": report.number, **row}
                file.write(json.dumps(row).encode() + b"\n")

            self._maker = maker(put)
            try:
                await trio.to_thread.run_sync(self._maker.run, abandon_on_cancel=True)
                file.flush()
                self._file = os.dup(file.fileno())
            except (OSError, sqlite3.Error, AfmError) as exc:
                report.errno, report.reason = errno.EIO, str(exc)
            finally:
                self._maker.end()
                self._maker, report.running = None, False

    def cancel(self) -> int:
        """Have the running report ended; its number. Refused if there is none."""
        last = self._last
        if last is None or not last.running:
            raise Refused("no report is being made")
        if self._maker is not None:
            self._maker.end()
        else:
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
        if last is not None and last.running and self._maker is None:
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
