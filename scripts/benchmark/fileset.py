"""A mounted fileset, and samples of what working in it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Seen:
    """Samples of one phase; seconds, and MiB."""

    operation: list[float] = field(default_factory=list)
    state: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)


class Fileset:
    def __init__(self, base: Path) -> None:
        self.home, self.point, self.cache = base / "home", base / "mnt", base / "cache"
        self.numbers = iter(range(1 << 40))

    @contextmanager
    def mounted(self) -> Iterator[subprocess.Popen[bytes]]:
        """Nothing is replayed by its age."""
        options = f"cache={self.cache},async_delay=3600"
        words = ["-m", "mount", str(self.home), str(self.point), "-f", "-o", options]
        with subprocess.Popen([sys.executable, *words]) as process:
            try:
                while not os.path.ismount(self.point):
                    assert process.poll() is None, "the mount failed"
                    time.sleep(0.01)
                yield process
            finally:
                subprocess.run(["umount", str(self.point)], check=False)
                process.wait(30)

    def know_all(self) -> int:
        """Read every directory; how many files there are."""
        return sum(len(names) for _, _, names in os.walk(self.point))

    def control(self, line: str) -> None:
        fd = os.open(self.point / ".afm/control", os.O_WRONLY)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.point / ".afm/status.json").read_bytes())
        return found

    def sample(self, seen: Seen) -> None:
        path = self.point / f"new{next(self.numbers)}"
        start = time.perf_counter()
        path.write_bytes(b"x" * 100)
        middle = time.perf_counter()
        (self.point / ".afm/state").read_bytes()
        seen.operation.append(middle - start)
        seen.state.append(time.perf_counter() - middle)

    def weigh(self, seen: Seen) -> None:
        for name, words in (("mount", "-m mount"), ("gateway", "afmfs.gateway.process")):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    pages = int((process / "statm").read_text().split()[1])
                except OSError:
                    continue
                if words in line and str(self.cache) in line:
                    seen.memory.setdefault(name, []).append(
                        pages * os.sysconf("SC_PAGE_SIZE") / 2**20
                    )
