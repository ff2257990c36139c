"""One mount, from its options to its end: settings, fileset, kernel session, and a clean stop."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyfuse3
import trio
from pyfuse3 import FileNameT, InodeT

from afmfs.errors import AfmError, Refused
from afmfs.model.tunables import MountOptions
from mount import background, mountpoint, turns
from mount.background import LOG_NAME, Parent
from mount.control import ControlDirectory
from mount.operations import Operations

if TYPE_CHECKING:
    from afmfs.cache.fileset import Fileset
    from afmfs.cache.store.lock import CacheLock
    from afmfs.cache.store.settings import Settings

log = logging.getLogger(__name__)

OK, SYSTEM, INTERNAL, INTERRUPTED, FAILED = 0, 2, 4, 8, 32  # mount(8)'s exit codes

STOP_LIMIT = 9.0  # s from the wish to stop to the end of the process, whatever hangs
ANSWER_LIMIT = 2.0  # s of these for the kernel's dirty pages, and again for requests under way
MOST_REQUESTS = 1000  # at once; those that wait for home must not keep out the others


class Engine(Protocol):
    """Where settings and fileset come from: the real ones, or a test's."""

    def prepare(self, target: str | None, mountpoint: Path, options: MountOptions) -> Settings: ...

    def open_fileset(self, settings: Settings) -> AbstractAsyncContextManager[Fileset]: ...


class RealEngine:
    """The engine of this package, imported late: its errors reach whoever mounts."""

    def prepare(self, target: str | None, mountpoint: Path, options: MountOptions) -> Settings:
        from afmfs.cache.store.settings import prepare

        return prepare(target, mountpoint, options)

    def open_fileset(self, settings: Settings) -> AbstractAsyncContextManager[Fileset]:
        from afmfs.cache.fileset import open_fileset

        return open_fileset(settings)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    target: str | None  # None: what the cache remembers
    point: Path
    options: MountOptions
    verbose: bool = False


def in_foreground(request: Request, engine: Engine) -> int:
    """Mount and serve until unmounted. Returns an exit code of mount(8)."""
    background.log_to_stderr(verbose=request.verbose)
    code, message = _run(request, engine, lambda _settings: None, lambda: None)
    if message:
        os.write(2, f"mount.afmfs: {message}\n".encode("utf-8", "surrogateescape"))
    return code


def in_background(request: Request, engine: Engine) -> int:
    """Mount; return when the mount serves (0) or has failed."""

    def child(parent: Parent) -> int:
        def prepared(settings: Settings) -> None:
            background.log_to_file(settings.cache, verbose=request.verbose)
            # Before the gateway starts: it would keep the terminal, or somebody's pipe, open.
            background.leave_terminal(settings.cache)

        code, message = _run(request, engine, prepared, lambda: parent.report(OK))
        if message and logging.getLogger().handlers:
            log.error("%s", message)
        parent.report(code, message)
        return code

    return background.in_background(child)


def _run(
    request: Request,
    engine: Engine,
    prepared: Callable[[Settings], None],
    serving: Callable[[], None],
) -> tuple[int, str]:
    """Exit code and, where it failed, a sentence for whoever mounts."""
    try:
        background.allow_many_files()
        os.umask(0o077)  # should the cache's directory be opened to others by mistake
        settings = engine.prepare(request.target, request.point, request.options)
        prepared(settings)
        background.stacks_on_request()
        trio.run(_serve, request, settings, engine, serving)
    except BaseException as error:
        return _explain(error)
    log.info("unmounted")
    return OK, ""


def _explain(error: BaseException) -> tuple[int, str]:
    error = _foremost(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, AfmError):
        log.debug("refused", exc_info=error)
        return FAILED, str(error)
    if isinstance(error, sqlite3.Error):
        log.debug("a database fails", exc_info=error)
        return SYSTEM, f"the cache's databases can't be used: {error}"
    log.critical("the mount ends", exc_info=error)
    if isinstance(error, OSError):
        return SYSTEM, str(error)
    return INTERNAL, f"internal error: {error!r}"


_FORESEEN = (KeyboardInterrupt, AfmError, sqlite3.Error, OSError)


def _foremost(error: BaseException) -> BaseException:
    """The one that tells most, of several tasks that failed together; a bug is never hidden."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    each = [_foremost(one) for one in error.exceptions]
    strange = [one for one in each if not isinstance(one, _FORESEEN)]
    if strange:
        return error if len(each) > 1 else strange[0]
    return min(each, key=lambda one: [isinstance(one, kind) for kind in _FORESEEN].index(True))


async def _serve(
    request: Request, settings: Settings, engine: Engine, serving: Callable[[], None]
) -> None:
    stop = Stop(request.point, settings.lock)
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.at_signals)
        # Torn down in reverse: the kernel's session ends first, so that no request comes any more.
        async with engine.open_fileset(settings) as fileset:
            pages = KernelCache()
            fileset.invalidator = pages
            operations = _begin_session(request, settings, fileset)
            stop.mounted = True
            nursery.start_soon(_announce, operations.serving, fileset, settings, serving)
            try:
                await stop.answer_requests()
            except BaseException:
                pages.close()
                pyfuse3.close(unmount=False)  # a crash leaves the mount point dead: see mountpoint
                raise
            pages.close()
            pyfuse3.close(unmount=True)
            stop.mounted = False
        nursery.cancel_scope.cancel()


async def _announce(
    begun: trio.Event, fileset: Fileset, settings: Settings, serving: Callable[[], None]
) -> None:
    await begun.wait()
    fileset.serving()
    log.info(
        "%s is mounted at %s, its home is %s",
        settings.fileset,
        settings.mountpoint,
        settings.target,
    )
    serving()


def _begin_session(request: Request, settings: Settings, fileset: Fileset) -> Operations:
    tunables = settings.tunables
    control = ControlDirectory(fileset, os.getuid())
    operations = Operations(fileset, control, xattrs=tunables.xattrs, writeback=tunables.writeback)
    words = mountpoint.fuse_options(settings.device, request.options)
    try:
        pyfuse3.init(operations, os.fspath(request.point), words)
    except RuntimeError as error:
        also = ", and user_allow_other in /etc/fuse.conf for allow_other" if os.getuid() else ""
        raise Refused(
            f"FUSE does not mount at {request.point}. It needs a /dev/fuse that you may open{also};"
            f" its own words are above, or at the end of {settings.cache / LOG_NAME}"
        ) from error
    return operations


class Stop:
    """How a mount ends: umount(8), a signal, or the limit of time that both set going.

    The first signal is a wish for a clean stop, the second for a fast one. Either way what is
    pending is safe in the cache and goes on at the next mount.
    """

    def __init__(self, point: Path, lock: CacheLock | None) -> None:
        self._point, self._lock = point, lock
        self._requests: trio.CancelScope | None = None
        self._readiness: turns.Readiness | None = None
        self._limit: threading.Thread | None = None
        self.mounted = False

    async def at_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                task_status.started()
                async for number in signals:
                    log.info("%s", signal.Signals(number).name)
                    if self._limit is not None:
                        self._end("a second signal")
                    self._set_limit()
                    if self._requests is None:
                        raise KeyboardInterrupt
                    nursery.start_soon(self._finish)

    async def _finish(self) -> None:
        # What the kernel has taken for us (write-back cache, mappings) and not handed over yet
        # would go with the connection.
        with trio.move_on_after(ANSWER_LIMIT):
            await trio.to_thread.run_sync(
                mountpoint.write_back, self._point, abandon_on_cancel=True
            )
            if self._readiness is not None:
                await self._readiness.quiet()  # syncfs has sent the pages, and waits for none
        self._wind_up()
        pyfuse3.terminate()

    async def answer_requests(self) -> None:
        """Serve the kernel until it or a signal ends it; then the process ends within the limit."""
        with trio.CancelScope() as self._requests, turns.saved() as self._readiness:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._at_end_of_connection, self._readiness)
                try:
                    await pyfuse3.main(max_tasks=MOST_REQUESTS)
                except* ConnectionAbortedError:
                    log.warning("the connection to the kernel was aborted")
                nursery.cancel_scope.cancel()
        self._set_limit()

    async def _at_end_of_connection(self, readiness: turns.Readiness) -> None:
        await readiness.ended()
        self._wind_up()  # requests that wait for home are nobody's any more

    def _wind_up(self) -> None:
        self._set_limit()
        if self._requests is not None:
            self._requests.deadline = trio.current_time() + ANSWER_LIMIT

    def _set_limit(self) -> None:
        if self._limit is None:
            self._limit = threading.Thread(target=self._wait, name="stop limit", daemon=True)
            self._limit.start()
            self._tell_of_end()

    def _tell_of_end(self) -> None:
        if self._lock is None:
            return
        try:
            self._lock.ending()
        except OSError as error:  # whoever mounts next does not wait, but is told who has it
            log.warning("the lock does not tell of the end: %s", error)

    def _wait(self) -> None:
        time.sleep(STOP_LIMIT)
        self._end(f"the clean stop took more than {STOP_LIMIT:g} s")

    def _end(self, reason: str) -> None:
        log.warning("ending at once: %s", reason)
        if self.mounted:
            try:
                mountpoint.detach(self._point)
            except AfmError as error:
                log.warning("%s", error)
        logging.shutdown()
        os._exit(SYSTEM)


class KernelCache:
    """The fileset's way to make the kernel forget. Call it from a thread, with no lock held: it may
    wait for requests that the event loop is answering."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True

    def invalidate_inode(self, ino: int) -> None:
        """Forget the pages and attributes of an inode."""
        self._tell(lambda: pyfuse3.invalidate_inode(InodeT(ino)))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Forget what is known of a name, also that it does not exist."""
        self._tell(lambda: pyfuse3.invalidate_entry(InodeT(parent), FileNameT(name)))

    def extend(self, ino: int, offset: int, data: bytes) -> None:
        """Bytes of a file, which reaches to their end at least."""
        self._tell(lambda: pyfuse3.notify_store(InodeT(ino), offset, data))

    def close(self) -> None:
        """The session ends: no call may reach it any more."""
        # A call that waits for a request which is no longer answered ends with the session.
        self._open = False
        if self._lock.acquire(timeout=0.5):
            self._lock.release()

    def _tell(self, call: Callable[[], None]) -> None:
        with self._lock:
            if not self._open:
                return
            try:
                call()
            except OSError as error:
                # ENOENT: it knew nothing of it. The others: the session has ended meanwhile.
                if error.errno != errno.ENOENT:
                    log.warning("invalidation: %s", error)
