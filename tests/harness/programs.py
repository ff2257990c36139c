"""Programs that tests have run, and how these tell of themselves: through FIFOs, without a wait
that is guessed."""

from __future__ import annotations

import os
import select
import textwrap
import time
from pathlib import Path

import trio

SECONDS = 20.0
"""A program that is started is heard of within this time."""


def script(path: Path, text: str) -> Path:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return path


class Fifo:
    """Lines of programs. With `lasting`, also of those that are started later; else the end is
    heard of, b'', when everybody who opened it for writing has ended."""

    def __init__(self, path: Path, *, lasting: bool = False) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, (os.O_RDWR if lasting else os.O_RDONLY) | os.O_NONBLOCK)
        self._rest = b""

    def close(self) -> None:
        os.close(self._fd)

    def take(self) -> bytes | None:
        """A whole line that was read already, or None."""
        if b"\n" not in self._rest:
            return None
        line, newline, self._rest = self._rest.partition(b"\n")
        return line + newline

    def _read(self) -> bool:
        """False at the end. To be called when there is something: without a writer, a FIFO that
        had none yet looks as if all had ended."""
        data = os.read(self._fd, 1 << 16)
        self._rest += data
        return bool(data)

    async def line(self) -> bytes:
        """The next line, waited for."""
        with trio.fail_after(SECONDS):
            while (found := self.take()) is None:
                await trio.lowlevel.wait_readable(self._fd)
                if not self._read():
                    return b""
        return found

    def line_now(self, seconds: float = SECONDS) -> bytes:
        """The same where no event loop runs."""
        end = time.monotonic() + seconds
        while (found := self.take()) is None:
            left = max(0.0, end - time.monotonic())
            there = select.select([self._fd], [], [], left)[0]
            assert there, f"nothing was written to {self.path} in {seconds:g} s"
            if not self._read():
                return b""
        return found

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is there now."""
        return b"\n" not in self._rest and not select.select([self._fd], [], [], 0)[0]
