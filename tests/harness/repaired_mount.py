"""A real mount whose processes are killed, as a repair machine drives it."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.harness.cache_state import CacheState
from tests.harness.files import KernelFiles
from tests.harness.mounting import Mount
from tests.harness.repair_machine import AWAY, CRASH, Blow
from tests.harness.syscalls import look_anew

BLOCK = 4096

OPTIONS = (
    "block_size=4K", "async_delay=3600", "durable_interval=60", "auto_resync=off",
    "home_timeout=5", "life_timeout=5",
)  # fmt: skip
"""The gateway does nothing but what it is asked for."""

PATIENCE_S = 60.0
"""Nothing that is asked for takes so long, also on a busy machine; what does fails the test."""

WATCH_S = 300.0

STEP_S = 1e-4
"""What stands for a step of the gateway's work: when a blow comes is a matter of chance here."""

AWAY_S = 0.05
POLL_S = 0.005

READY = ("Active", "Inactive", "NeedsResync")


class RepairedMount:
    def __init__(self, base: Path, *options: str) -> None:
        self.home, self._away = base / "home", base / "passing"
        self.mount = Mount(self.home, base / "fs", *OPTIONS, *options, watch=WATCH_S)
        self.cache = self.mount.cache
        self.files = KernelFiles(self.mount.point)
        self.kills = 0  # of processes that worked
        self._target: str | None = str(self.home)
        self.start()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.mount.mount(self._target)
        self._target = "none"

    def stop(self) -> None:
        self.mount.unmount()

    def crash(self) -> None:
        self.mount.kill9("both")
        self.kills += 1

    def drop(self, handle: Any) -> None:
        with suppress(OSError):  # the mount that it was of is gone
            os.close(handle)

    def close(self) -> None:
        self.mount.terminate()

    # -- work ------------------------------------------------------------------------------------

    def flush(self, hit: list[Blow]) -> None:
        self._run(self._ask_flush, lambda: not self._pending or self._changed, hit)
        self.rest()

    def _ask_flush(self) -> None:
        if not self._changed:
            with suppress(OSError):  # EBUSY: that was found just now
                self._command("flushPending")

    @property
    def _pending(self) -> int:
        return int(self.mount.status()["queue_length"])

    @property
    def _changed(self) -> bool:
        return bool(CacheState(self.cache, BLOCK).needs_resync)

    def resync(self, how: str, hit: list[Blow]) -> None:
        self._run(*self._begin(how), hit)
        if how == "automatic":
            self._command("auto_resync off")
        self.rest()

    def _begin(self, how: str) -> tuple[Callable[[], None], Callable[[], bool]]:
        if how == "automatic":

            def ask() -> None:
                """Once home is there: before, nothing reaches the gateway."""
                self._wait(lambda: not self._changed or self._state == "NeedsResync", "up")
                if self._changed:
                    self._command("auto_resync on")
                    self._command("flushPending")

            return ask, lambda: self._idle() and not self._changed
        begun: list[bool] = []

        def begin() -> None:
            if not begun:
                begun.append(True)
                self._wait(lambda: self._state in READY, "ready for a resync")
                self._command("resync" if how == "manual" else "resync --keep-uncached")

        return begin, self._idle

    def _idle(self) -> bool:
        return self.mount.status()["job"] is None

    def _run(self, ask: Callable[[], None], done: Callable[[], bool], hit: list[Blow]) -> None:
        """Have something done under blows; it is asked for again after a crash."""
        ask()
        for step, what in hit:
            time.sleep(step * STEP_S)
            if what == CRASH:
                self.crash()
                self.start()
                ask()
            elif what == AWAY:
                os.rename(self.home, self._away)
                time.sleep(AWAY_S)
                os.rename(self._away, self.home)
            else:
                self._kill_gateway(self._gateway)
        self._wait(done, "done")

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, f"it is not {what}: {self.mount.status()}"
            time.sleep(POLL_S)

    @property
    def _gateway(self) -> psutil.Process | None:
        pid = self.mount.status()["gateway_pid"]
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid) if pid else None
        return None

    def _kill_gateway(self, gateway: psutil.Process | None) -> None:
        if gateway is not None:
            with suppress(psutil.NoSuchProcess):
                gateway.kill()
                self.kills += 1

    def interrupt(self, how: str, step: int, then: Callable[[], None]) -> bool:
        """The gateway stands still while home goes, and does nothing any more."""
        ask, done = self._begin(how)
        ask()
        time.sleep(step * STEP_S)
        if done():
            return False
        gateway = self._gateway
        if gateway is not None:
            gateway.suspend()
        then()
        self._kill_gateway(gateway)
        return not done()

    def finish(self) -> None:
        self._wait(self._idle, "done")
        self.rest()

    @property
    def _state(self) -> str:
        return str(self.mount.status()["state"])

    # -- rest ------------------------------------------------------------------------------------

    def rest(self) -> None:
        self._wait(self._rests, "at rest")
        self._forget_pages()

    def _rests(self) -> bool:
        """Whether neither process does anything, nor has anything to read."""
        status, mount = self.mount.status(), self.mount.process
        if mount is None or not status["gateway_pid"]:
            return False
        if self.home.exists() and not status["connected_since"]:
            return False
        pids = mount.pid, int(status["gateway_pid"])
        before = list(map(_turns, pids))
        time.sleep(POLL_S)
        return None not in before and before == list(map(_turns, pids))

    def _forget_pages(self) -> None:
        """Have the kernel ask for all that it may have kept of files: it is told of what changed
        under it soon after that, and not before."""
        cache = CacheState(self.cache, BLOCK)
        for path, one in cache.paths.items():
            with suppress(OSError):
                look_anew(self.files.at(path))
                if one.is_file:
                    fd = os.open(self.files.at(path), os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(fd)

    # -- commands --------------------------------------------------------------------------------

    def _command(self, line: str) -> None:
        (self.mount.point / ".afm/control").write_text(line)

    def is_clean(self) -> bool:
        return not self._pending and not self._changed

    def evict(self, path: bytes) -> None:
        with suppress(OSError):  # it has to stay
            self._command(shlex.join(["evict", "--file", os.fsdecode(path)]))

    def verify(self) -> list[dict[str, Any]]:
        self._command("verify --data")
        self._wait(lambda: not self.mount.status()["report"]["running"], "compared")
        lines = (self.mount.point / ".afm/report").read_bytes().splitlines()
        return [json.loads(line) for line in lines]


def _turns(pid: int) -> list[tuple[str, str]] | None:
    """How often each thread of a process was given and left a processor; None if any works."""
    found = []
    tasks = Path(f"/proc/{pid}/task")
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in sorted(tasks.iterdir()):
            fields = dict(
                line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
            )
            if not fields["State"].startswith("S"):
                return None
            found.append((task.name, fields["voluntary_ctxt_switches"]))
        return found
    return None
