"""The engine with a gateway in threads that can be killed, as a repair machine drives it."""

from __future__ import annotations

import faulthandler
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from afmfs.cache import life
from afmfs.cache.home import link
from afmfs.errors import Refused
from afmfs.gateway import gateway
from afmfs.gateway.home import contact
from afmfs.gateway.replay import backoff, replay
from afmfs.model.states import State
from tests.harness.engine import Engine
from tests.harness.files import EngineFiles
from tests.harness.killing import Doom, MortalGateway, Refusals, mortal
from tests.harness.repair_machine import AWAY, CRASH, KILL, Blow

OPTIONS = (
    "block_size=4K", "async_delay=3600", "durable_interval=60", "auto_resync=off",
    "home_timeout=5", "life_timeout=5", "flush_threads=1",
)  # fmt: skip
"""The gateway does nothing but what it is asked for, and one thing at a time: so the same program
is killed at the same step each time that it runs."""

PATIENCE_S = 60.0
"""Nothing that is asked for takes so long; what does fails the test."""

READY = (State.ACTIVE, State.INACTIVE, State.NEEDS_RESYNC)
"""In these a resync may be asked for. After a crash that takes a moment."""

AWAY_S = 0.02
POLL_S = 0.001


@contextmanager
def hurried() -> Iterator[None]:
    """Inside, gateways can be killed, and nobody waits before he tries again."""
    with mortal(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(contact, "RETRIES_S", (0.005,))
        patch.setattr(contact, "PROBE_S", 0.2)
        patch.setattr(replay, "BREAKS_S", (0.0, 0.01))
        patch.setattr(link, "RESTART_S", (0.0,))
        patch.setattr(backoff, "BACK_OFF_S", 300.0)  # only what is resumed is tried again
        patch.setattr(gateway, "TICK_S", 0.05)
        patch.setattr(life, "LATER_MOUNT_S", 0.3)
        yield


class RepairedEngine:
    def __init__(self, base: Path, *options: str) -> None:
        self.home, self._away = base / "home", base / "passing"
        self.engine = Engine(self.home, base, *OPTIONS, *options, gateway=MortalGateway)
        self.cache = self.engine.cache
        self.stopped = True
        self.start()

    @property
    def _fileset(self) -> Any:
        return self.engine.fileset

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.engine.start()
        self.stopped = False
        self.files = EngineFiles(self._fileset, self.engine.call)

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.engine.stop()

    def crash(self) -> None:
        """Both processes end here: nothing is put in order."""
        fileset, store = self._fileset, self._fileset._store
        if Doom.now is not None:
            Doom.now.kill()
        put = store.put
        store.put = lambda key, value: None if key == "clean" else put(key, value)
        fileset._open.clear()
        self.stop()

    def drop(self, handle: Any) -> None:
        """It went with the fileset."""

    def close(self) -> None:
        """Home refuses nothing to the next one, also after a program that failed."""
        Doom.spare()
        Refusals.names = frozenset()
        self.stop()

    # -- work ------------------------------------------------------------------------------------

    def flush(self, hit: list[Blow]) -> None:
        self._run(self._ask_flush, self._flushed, hit)
        self.rest()

    def _flushed(self) -> bool:
        """Or nothing more will be: also the normal queue waits for a job that is put off."""
        over = not self._pending or bool(self._changed) or self._is_stuck()
        return over or (bool(Refusals.names) and self._is_put_off())

    def _is_stuck(self) -> bool:
        """Whether home refuses all that is left."""

        async def stuck() -> bool:
            status = self._fileset.status()
            return bool(status.requeued) and status.settled_through >= status.last_entry

        return bool(Refusals.names) and self.engine.call(stuck)

    def refuse(self, names: Iterable[bytes], code: int) -> None:
        Refusals.names, Refusals.code = frozenset(names), code

    def distrust(self) -> None:
        async def distrust() -> None:
            message = {"type": "inconsistent", "reason": "said by the test", "path": "a"}
            await self._fileset._link.handlers["inconsistent"](message)

        self.engine.call(distrust)

    def waits(self) -> bool:
        async def waits() -> bool:
            return self._fileset.jobs.current is not None

        return self.engine.call(waits)

    def _is_put_off(self) -> bool:
        """Whether the job waits until what home has refused is due: it does so before anything is
        planned where names are in doubt, and at its end where only refused rows are left."""
        process = self._fileset._link.process
        engine = None if process is None or process.doom.dead else process.gateway._engine
        with suppress(sqlite3.ProgrammingError):  # it dies meanwhile, and its journal is closed
            return engine is not None and bool(engine.replay.jobs._is_early(time.time_ns()))
        return False

    def _resume(self) -> None:
        async def resume() -> None:  # in any state
            self._fileset._link.post({"type": "resume"})

        self.engine.call(resume)
        time.sleep(AWAY_S)

    def permit(self) -> None:
        Refusals.names = frozenset()

        def is_done() -> bool:
            """What was refused in the moment before is tried again as well."""
            if self._idle() and self._flushed():
                return True
            self._resume()
            return False

        self._ask_flush()
        self._resume()  # also where home was changed: the next resync settles it
        self._await(is_done, "done")
        self.rest()

    def _ask_flush(self) -> None:
        async def flush() -> int:
            return int(self._fileset.flush_pending())

        self.engine.call(flush)

    @property
    def _pending(self) -> int:
        return int(self._fileset._store.counters.queue_length)

    @property
    def _changed(self) -> str:
        async def changed() -> str:
            return str(self._fileset.needs_resync)

        return self.engine.call(changed)

    def resync(self, how: str, hit: list[Blow]) -> None:
        self._run(*self._begin(how), hit)
        if how == "automatic":
            self._command("auto_resync off")
        self.rest()

    def _begin(self, how: str) -> tuple[Callable[[], None], Callable[[], bool]]:
        if how == "automatic":

            def ask() -> None:
                if self._changed:
                    self._command("auto_resync on")
                    self._ask_flush()

            return ask, lambda: self._idle(also=lambda: not self._fileset.needs_resync)
        begun: list[bool] = []

        def begin() -> None:
            if not begun:
                begun.append(True)
                self._await(lambda: self._state in READY, "ready for a resync")
                self._command("resync" if how == "manual" else "resync --keep-uncached")

        return begin, self._idle

    def _idle(self, also: Callable[[], bool] = lambda: True) -> bool:
        """Whether there is no job, or one that can't go on as home refuses something; asked where
        nothing comes between two questions."""

        async def idle() -> bool:
            waits = bool(Refusals.names) and self._is_put_off()
            return (self._fileset.jobs.current is None or waits) and also()

        return self.engine.call(idle)

    def _run(self, ask: Callable[[], None], done: Callable[[], bool], hit: list[Blow]) -> None:
        """Have something done under blows; it is asked for again after a crash."""
        crashes: list[bool] = []

        def die() -> None:
            crashes.append(True)

        acts: dict[str, Callable[[], bool]] = {
            KILL: lambda: True,
            CRASH: lambda: die() or True,
            AWAY: self._pass_away,
        }
        Doom.plan([(step, acts[what]) for step, what in hit])
        try:
            ask()
            end = time.monotonic() + PATIENCE_S
            while crashes or not done():
                self._in_time(end, "done")
                if crashes:
                    crashes.clear()
                    self.crash()
                    self.start()
                    ask()
                elif self._away.exists():
                    time.sleep(AWAY_S)
                    os.rename(self._away, self.home)
                elif not Refusals.names and self._is_put_off():
                    self._resume()  # what was refused once: a resume does not outlive a gateway
                time.sleep(POLL_S)
        finally:
            Doom.spare()
            if self._away.exists():
                os.rename(self._away, self.home)

    def _pass_away(self) -> bool:
        """Home goes away, and comes back before long; the gateway lives on."""
        if not self._away.exists():
            os.rename(self.home, self._away)
        return False

    def interrupt(self, how: str, step: int, then: Callable[[], None]) -> bool:
        hit: list[bool] = []

        def act() -> bool:
            then()
            hit.append(True)
            return True

        ask, done = self._begin(how)
        Doom.plan([(step, act)])
        ask()
        self._await(lambda: bool(hit) or done(), "done")
        Doom.spare()
        return bool(hit) and not done()

    def finish(self) -> None:
        self._await(self._idle, "done")
        self.rest()

    @property
    def _state(self) -> State:
        async def state() -> State:
            return State(self._fileset.status().state)

        return self.engine.call(state)

    def _await(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            self._in_time(end, what)
            time.sleep(POLL_S)

    def _in_time(self, end: float, what: str) -> None:
        if time.monotonic() > end:
            faulthandler.dump_traceback()  # what each thread is waiting for
            raise AssertionError(f"it is not {what}: {self._fileset.status()}")

    def rest(self) -> None:
        self._await(self._rests, "at rest")

        async def handled() -> None:  # what the gateway has said last
            for _ in range(10):
                await trio.lowlevel.checkpoint()

        self.engine.call(handled)

    def _rests(self) -> bool:
        process = self._fileset._link.process
        if process is None or process.doom.dead or self._fileset._fetcher._flights:
            return False
        engine = process.gateway._engine
        if engine is None or engine.contact._probing is not None:
            return False
        if self.home.exists() and engine.contact._connection is None:
            return False
        return engine.replay._landing is None and not engine.progress.running

    # -- commands --------------------------------------------------------------------------------

    def _command(self, line: str) -> str:
        async def execute() -> str:
            return str(await self._fileset.execute(line))

        return self.engine.call(execute)

    def is_clean(self) -> bool:
        return not self._pending and not self._changed

    def evict(self, path: bytes) -> None:
        ino = self.files.walk(path, follow=True).ino

        async def evict() -> None:
            await self._fileset.evictions.evict([ino])

        with suppress(Refused):
            self.engine.call(evict)

    def verify(self) -> list[dict[str, Any]]:
        self._command("verify --data")
        self._await(lambda: not self._fileset.reports.shown()["running"], "compared")

        async def read() -> bytes:
            return b"".join([piece async for piece in self._fileset.report_lines()])

        return [json.loads(line) for line in self.engine.call(read).splitlines()]
