"""What a process writes, as the kernel sees it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

STRACE = shutil.which("strace")

_DELAY = "newfstatat,utimensat"
_NUMBER = r"(?:NULL|\[?(\d+)\]?(?: => \[\d+\])?)"
_COPY = re.compile(rf"(\d+) +copy_file_range\(\d+<.*>, .*, \d+<(.*)>, {_NUMBER}, .*\) += (\d+)$")
_SEND = re.compile(rf"(\d+) +sendfile(?:64)?\(\d+<(.*)>, \d+<.*>, {_NUMBER}, .*\) += (\d+)$")
_WRITE = re.compile(r"(\d+) +pwrite64\(\d+<(.*)>, .*, \d+, (\d+)\) += (\d+)$")


class Write(NamedTuple):
    thread: int
    path: str
    offset: int
    size: int


@contextmanager
def traced(pid: int, log: Path, home: Path) -> Iterator[list[Write]]:
    """What the process writes below `home` inside the block, in this order; the list is complete
    after it. Every look at home takes 3 ms: that makes a home slow enough for threads to pay."""
    assert STRACE is not None
    calls = "copy_file_range,sendfile,pwrite64,write,pwritev,pwritev2,splice"
    command = [STRACE, "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={calls},{_DELAY}"]
    command += ["-e", f"inject={_DELAY}:delay_exit=3000", "-p", str(pid)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found: list[Write] = []
    try:
        line = process.stderr.readline()
        if "not permitted" in line:
            pytest.skip("may not trace the gateway")
        assert "attached" in line, line
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    found += [write for write in _writes(log.read_text()) if write.path.startswith(f"{home}/")]


def _writes(text: str) -> Iterator[Write]:
    unfinished: dict[str, str] = {}
    for line in text.splitlines():
        thread, _, rest = line.partition(" ")
        if rest.lstrip().startswith(("+++", "---")) or line.endswith("<detached ...>"):
            continue  # a thread has ended, a signal has come, the block is left
        if line.endswith("<unfinished ...>"):
            unfinished[thread] = line.removesuffix(" <unfinished ...>")
            continue
        if " resumed>" in rest:
            line = unfinished.pop(thread) + rest.partition(" resumed>")[2]
        for pattern in (_COPY, _SEND, _WRITE):
            if match := pattern.match(line):
                thread, path, offset, size = match.groups()
                yield Write(int(thread), path, int(offset), int(size))
                break
        else:
            name = line.split()[1].partition("(")[0]
            assert name in ("write", *_DELAY.split(",")) or "= -1" in line or "= ?" in line, line
