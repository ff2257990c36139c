"""The gateway as one object: messages in, messages out, threads in between.

It is the same within a process of its own (process.py) and beside a test's mount process: `send` is
all that it needs of the world. The first message says hello; nothing runs before it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from afmfs.errors import is_damage, is_full
from afmfs.gateway.fetch import Fetches
from afmfs.gateway.home.connection import Era
from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.scout import Scout
from afmfs.gateway.protocol import Message, ProtocolError, check, close_all
from afmfs.gateway.replay.landing import REACHED
from afmfs.gateway.replay.replay import Replay
from afmfs.gateway.report.dry_run import DryRun
from afmfs.gateway.report.reports import Maker, Reports
from afmfs.gateway.report.verify import Verify
from afmfs.gateway.state.journal import AlreadyRunning, Journal
from afmfs.gateway.state.journal_file import Known
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View
from afmfs.gateway.threads import Threads
from afmfs.gateway.trash.parts import Parts
from afmfs.gateway.trash.requests import TrashRequests
from afmfs.gateway.trash.restore import Restorer
from afmfs.model import remedies

log = logging.getLogger(__name__)

TICK_S = 0.5
STATUS_TICKS = 4
"""Ticks between two status messages that nothing but time has caused."""

Send = Callable[[Message, Sequence[int]], None]


class Gateway:
    """Raises nothing after `start`: what goes wrong is told to `send`, or ends it (`crashed`)."""

    def __init__(self, cache: Path, home_number: int, send: Send) -> None:
        self._cache, self._number, self._send_out = cache, home_number, send
        self._engine: _Engine | Scout | None = None
        self._stopping = threading.Event()
        self.crashed: Callable[[], None] = lambda: None
        """Called in the thread that can't go on."""

    def start(self) -> None:
        """Ready for the first message."""
        self._spawn(self._tick, "tick")

    def receive(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Take a message of the mount process. ProtocolError if it makes no sense."""
        close_all(fds)  # no message to a gateway carries any
        check(message)
        if message["type"] == "hello":
            self._begin(message)
        elif self._engine is None:
            raise ProtocolError(f"{message['type']!r} before hello")
        else:
            self._engine.take(message)

    def _begin(self, hello: Message) -> None:
        if self._engine is not None:
            raise ProtocolError("a second hello")
        if hello.get("survey"):
            self._engine = scout = Scout(hello, lambda message: self.send(message))
            self._spawn(scout.contact.run, "probe")
            return
        directory = self._cache / "gateway" / str(self._number)
        try:
            journal = Journal(directory, _known(hello))
        except AlreadyRunning as exc:
            # one that nothing could end, as it is stuck in a home that hangs
            reason = f"{exc}: an earlier mount's, stuck at home; {remedies.SERVER}"
            self.send({"type": "away", "state": "Disconnected", "reason": reason, "held": True})
            self.crashed()
            return
        except (OSError, sqlite3.Error) as exc:
            reason = f"the gateway's journal can't be opened: {exc}"
            self.send({"type": "away", "state": "Disconnected", "reason": reason})
            self.crashed()
            return
        self._engine = engine = _Engine(self._cache, directory, journal, hello, self.send)
        engine.replay.introduce()
        self._spawn(engine.contact.run, "probe")
        self._spawn(engine.replay.run, "replay")

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """To the mount process; if that is gone, its end of the socket tells."""
        try:
            self._send_out(message, fds)
        except OSError as exc:
            log.debug("a %s message is not sent: %s", message["type"], exc)

    def _spawn(self, run: Callable[[], None], name: str) -> None:
        def guarded() -> None:
            try:
                run()
            except Exception as exc:
                if not self._stopping.is_set():
                    # A full disk is no defect, and is met again and again as long as it lasts.
                    log.error("%s: can't go on: %s", name, exc, exc_info=not is_full(exc))
                    self._tell_damage(exc)
                    self.crashed()

        # Daemons: one that is stuck in a dead home must not keep the process.
        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        if self._engine is not None:
            self._engine.running.append(thread)

    def _tell_damage(self, exc: Exception) -> None:
        """Tell if it is cache.db that can't be read: a damaged journal the next gateway deals
        with."""
        if not isinstance(self._engine, _Engine) or not is_damage(exc):
            return
        if self._engine.journal.is_sound():
            self.send({"type": "harm", "reason": f"cache.db: {exc}", "database": True})

    def _tick(self) -> None:
        ticks = 0
        while not self._stopping.wait(TICK_S):
            if self._engine is not None:
                ticks += 1
                self._engine.tick(ticks)

    def stop(self, within_s: float = 1.0) -> bool:
        """End after the running operation; whether all threads ended in time, and the journal is
        closed."""
        self._stopping.set()
        engine = self._engine
        return engine is None or engine.stop(within_s)


class _Engine:
    """Everything that exists once hello was said."""

    def __init__(
        self, cache: Path, directory: Path, journal: Journal, hello: Message, send: Send
    ) -> None:
        def say(message: Message) -> None:
            send(message, ())

        tunables = hello["tunables"]
        xattrs = bool(tunables.get("xattrs", False))
        self.running: list[threading.Thread] = []
        self.journal = journal
        self.view = View(cache, hello["block_size"])
        self.view.harmed = lambda text: say({"type": "harm", "reason": text, "database": False})
        self.progress = Progress(journal)
        self.threads = Threads(int(tunables.get("flush_threads", 4)))
        self.contact = Contact(
            hello,
            say,
            lambda call_s: self.threads.learn(6 * call_s),
            Era(journal.get(REACHED) or 0),
        )
        self.replay = Replay(
            self.view, journal, self.progress, self.contact, self.threads, say, hello
        )
        self.contact.up_again = self._up_again
        self.contact.put_back = self.replay.put_back
        self.fetches = Fetches(
            self.view, self.progress, self.contact, send, self.replay.report,
            self.replay.due, self.replay.astray,
            with_xattrs=xattrs,
        )  # fmt: skip
        replay = self.replay
        parts = Parts(
            journal=journal, book=replay.book, view=self.view, progress=self.progress,
            contact=self.contact, due=replay.due, tell=replay.steps.say_outcomes,
        )  # fmt: skip
        restorer = Restorer(parts, with_xattrs=xattrs)
        self.trash = TrashRequests(
            journal, replay.book, self.contact, replay.priority, restorer, say
        )
        self.reports = Reports(self._makers(cache, directory), directory, send)

    def _up_again(self) -> None:
        """What home refused while it was going away, or had not come back wholly, is due again."""
        self.journal.resume(time.time_ns())
        self.replay.wake()

    def _makers(self, cache: Path, directory: Path) -> dict[str, Maker]:
        """What makes each kind of report."""
        due, book, work = self.replay.due, self.replay.book, self.replay.site.work
        return {
            "verify": Verify(self.view, self.progress, self.contact, cache, directory, due),
            "dry-run": DryRun(self.view, self.contact, book, work).rows,
        }

    def tick(self, ticks: int) -> None:
        self.contact.tick()
        if ticks % STATUS_TICKS == 0:
            self.replay.send_status()

    def take(self, message: Message) -> None:
        replay = self.replay
        match message["type"]:
            case "report":
                self.reports.submit(message)
            case "cancel_report":
                self.reports.cancel(message["rid"])
            case "restore" | "empty":
                self.trash.submit(message)
            case "fetch" | "list":
                self.fetches.submit(message)
            case "point_done":
                replay.point_done(message["rid"], message["ok"])
            case "wake":
                replay.wake()
            case "flush":
                replay.flush(message["through"])
            case "resume":
                replay.resume()
            case "run":
                replay.run_state(stopped=message["stopped"], needs_resync=message["needs_resync"])
            case "job":
                replay.take_job(message["job"])
            case "job_taken":
                replay.job_taken(message["id"])
            case "forget":
                try:
                    self.journal.forget(message["seq"])
                except sqlite3.OperationalError as exc:  # a full disk; it is said again
                    log.debug("outcomes can't be forgotten yet: %s", exc)
            case "journal_known":
                replay.journal_known(message["id"])
            case "drop":
                replay.drop(message["rid"], message["id"])
            case "bye":
                self.replay.stop()
            case other:
                raise ProtocolError(f"{other!r} is not for a gateway")

    def stop(self, within_s: float) -> bool:
        self.replay.stop()
        self.contact.stop()
        self.fetches.stop()
        reported = self.reports.stop(within_s)
        self.threads.close()
        for thread in self.running:
            thread.join(within_s)
        if not (reported and self.trash.stop()) or any(
            thread.is_alive() for thread in self.running
        ):
            return False
        self.view.close()
        self.journal.close()
        return True


def _known(hello: Message) -> Known | None:
    """The journal that the cache works with, where it says so."""
    said = hello.get("journal")
    return None if said is None else Known(said["id"], said["turn"], said["seq"])


def exit_now(code: int) -> None:
    """End the process at once: a thread may be stuck in home for ever."""
    logging.shutdown()
    os._exit(code)
