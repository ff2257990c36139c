"""Long read-only reports: one at a time, in a thread of its own, into a file without a name.

A report is made by an iterator of rows, which become JSON lines; the last row has the key
"summary". An empty row is a breath: nothing is written, but there the report can be stopped. So an
iterator that has long nothing to say yields empty rows every few hundred steps.

The file takes as much room as the report is long; memory stays flat. It goes to the mount process
as a descriptor, once it is complete; what was found before an error is thrown away.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from afmfs.errors import AfmError
from afmfs.gateway.protocol import Message

log = logging.getLogger(__name__)

Row = dict[str, Any]
Maker = Callable[[dict[str, Any]], Iterator[Row]]
"""From the options of a report, the message's other fields, to its rows. HomeAway, another AfmError
or an OSError ends the report with its errno and reason."""

Send = Callable[[Message, Sequence[int]], None]

RESERVE = 64 << 20
"""Bytes of the cache's disk that a report leaves to the databases; a tenth of a small disk."""

_STEP = 1 << 20
"""Bytes written between two looks at the disk's room."""


class Stopped(Exception):
    """The gateway ends."""


class Cancelled(AfmError):
    """Nobody wants it any more."""

    errno = errno.ECANCELED


class Reports:
    """`makers` by kind. `directory` is on the cache's disk, `send` sends a message with
    descriptors."""

    def __init__(self, makers: Mapping[str, Maker], directory: Path, send: Send) -> None:
        self._makers, self._directory, self._send = makers, directory, send
        self._lock = threading.Lock()
        self._running = ""  # the kind
        self._cancelled = 0  # the last one that nobody wants any more
        self._thread: threading.Thread | None = None
        self._stopping = False

    def submit(self, message: Message) -> None:
        """Begin the report that a "report" message asks for; the answer is "reported"."""
        rid, kind = message["rid"], message["kind"]
        maker = self._makers.get(kind)
        if maker is None:
            self._refuse(rid, errno.EINVAL, f"{kind!r} is no kind of report")
            return
        with self._lock:
            running = self._running
            if not running:
                self._running = kind
        if running:
            self._refuse(rid, errno.EBUSY, f"another report ({running}) is being made")
            return
        options = {k: v for k, v in message.items() if k not in ("type", "rid", "kind")}
        # A daemon: one that is stuck in a dead home must not keep the process.
        self._thread = threading.Thread(
            target=self._make, args=(rid, maker, options), name="report", daemon=True
        )
        self._thread.start()

    def cancel(self, rid: int) -> None:
        """End a report at its next row; it is answered with ECANCELED."""
        self._cancelled = rid

    def stop(self, within_s: float) -> bool:
        """End the running report at its next row; whether its thread has ended in time."""
        self._stopping = True
        thread = self._thread
        if thread is None:
            return True
        thread.join(within_s)
        return not thread.is_alive()

    def _refuse(self, rid: int, code: int, reason: str) -> None:
        self._send({"type": "reported", "rid": rid, "errno": code, "reason": reason}, ())

    def _make(self, rid: int, maker: Maker, options: dict[str, Any]) -> None:
        try:
            with _nameless(self._directory) as file:
                self._write(file, rid, maker(options))
                self._running = ""  # before the answer: who has it may ask for the next one
                self._send({"type": "reported", "rid": rid, "errno": 0}, (file.fileno(),))
            return
        except Stopped:
            return
        except AfmError as trouble:
            code, reason = trouble.errno, str(trouble)
        except OSError as exc:
            code, reason = exc.errno or errno.EIO, f"the report can't be written: {exc.strerror}"
        except Exception as exc:
            if self._stopping:
                return  # what it reads from is being closed
            log.exception("report: unexpected")
            code, reason = errno.EIO, f"unexpected: {exc}"
        self._running = ""
        self._refuse(rid, code, reason)

    def _write(self, file: IO[bytes], rid: int, rows: Iterator[Row]) -> None:
        checked = 0
        for row in rows:
            if self._stopping:
                raise Stopped
            if self._cancelled == rid:
                raise Cancelled("cancelled")
            if not row:
                continue
            if "summary" in row:
                row = {**row, "report": rid}  # who reads it can tell it from a later one
            file.write(json.dumps(row).encode() + b"\n")
            if file.tell() - checked > _STEP:
                checked = file.tell()
                _want_room(file)
        file.flush()


def _nameless(directory: Path) -> IO[bytes]:
    """A new file without a name, which goes with its last descriptor."""
    return tempfile.TemporaryFile("w+b", dir=directory)


def _want_room(file: IO[bytes]) -> None:
    """ENOSPC before the databases beside it run out of room."""
    disk = os.fstatvfs(file.fileno())
    if disk.f_bavail * disk.f_frsize < min(RESERVE, disk.f_blocks * disk.f_frsize // 10):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
