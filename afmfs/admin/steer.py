"""Carrying out one command of afmctl: at a mount, through its control directory, or offline."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import click

from afmfs.admin.access import Access, Reply
from afmfs.admin.find import Fileset, Found, Mount, explain, find, read_status
from afmfs.admin.offline import OfflineCache, open_cache
from afmfs.admin.progress import progress
from afmfs.admin.wait import AWAY_SECONDS, pauses, wait
from afmfs.cache.command_line import Command, relative
from afmfs.cache.event_report import render_events
from afmfs.cache.status import Status, render_cached, render_json, render_state
from afmfs.errors import AfmError, UnknownCommand


class Failure(click.ClickException):
    """The command failed or was refused: exit status 1."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        emit(f"afmctl: {self.message}\n", sys.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    command: Command
    device: str
    fileset: str | None = None
    arguments: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    values: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None  # seconds, of --wait

    @property
    def as_json(self) -> bool:
        return "--json" in self.flags


def emit(text: str, stream: Any = None) -> None:
    """Print text in which surrogates stand for bytes."""
    stream = stream or sys.stdout
    stream.flush()
    stream.buffer.write(os.fsencode(text))
    stream.flush()


def run(request: Request, connect: Callable[[], Access] = Access) -> None:
    """Carry out a request. Failure, NotFound or UnknownCommand says why not."""
    with connect() as access:
        found = find(request.device, request.fileset, access)
        if found.cache is not None:
            _offline(request, found.cache)
        elif request.command.name == "getstate":
            _getstate(request, found)
        else:
            _at_mount(request, _single(found), access)


def _single(found: Found) -> Fileset:
    """The one fileset that is meant."""
    if not found.filesets:
        raise Failure("; ".join(found.silent.values()))
    if len(found.filesets) + len(found.silent) > 1:
        names = ", ".join(f.status.fileset for f in found.filesets)
        raise UnknownCommand(f"several filesets there, name one with -j: {names}")
    return found.filesets[0]


def _getstate(request: Request, found: Found) -> None:
    """Every fileset that answers; those that don't are named, and make the command fail."""
    if found.filesets:
        _show_state(request, [f.status for f in found.filesets])
    if found.silent:
        raise Failure("; ".join(found.silent.values()))


def _show_state(request: Request, statuses: list[Status]) -> None:
    """One fileset as JSON is the object of its status.json, several are a list of them."""
    if not request.as_json:
        emit(render_state(statuses))
    elif len(statuses) == 1:
        emit(render_json(statuses[0]))
    else:
        emit("[" + ",\n".join(render_json(s).rstrip() for s in statuses) + "]\n")


# -- at a mount ----------------------------------------------------------------------------------


def _at_mount(request: Request, fileset: Fileset, access: Access) -> None:
    mount, name = fileset.mount, request.command.name
    try:
        if name == "queue":
            _stream(access.chunks(mount.path("queue")))
        elif "--wait" in request.flags:
            _flush_and_wait(request, mount, access)
        else:
            emit(_control(request, mount, access))
    except BrokenPipeError:  # whoever reads our output has seen enough
        raise
    except OSError as error:
        raise Failure(explain(error, mount)) from error


def _stream(chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


def _control(request: Request, mount: Mount, access: Access) -> str:
    """The text of the reply to a command. Refusal or UnknownCommand if it is refused."""
    arguments = request.arguments
    if request.command.name == "cached":
        arguments = (_inside(arguments[0], mount, access),)
    options = sorted(request.flags - {"--wait"})
    options += [f"{option}={value}" for option, value in request.values.items()]
    line = shlex.join([request.command.name, *options, "--", *arguments])
    if not arguments:
        line = shlex.join([request.command.name, *options])
    reply = access.command(mount.path("control"), line + "\n")
    if reply.errno == errno.EINVAL:  # the words make no command: wrong usage
        raise UnknownCommand(reply.text.strip() or os.strerror(reply.errno))
    if reply.errno:
        raise Refusal(reply, mount)
    return reply.text


class Refusal(Failure):
    """The mount refused the command."""

    def __init__(self, reply: Reply, mount: Mount) -> None:
        self.errno = reply.errno
        super().__init__(reply.text.strip() or f"{mount.point}: {os.strerror(reply.errno)}")


def _inside(path: str, mount: Mount, access: Access) -> str:
    """PATH relative to the fileset's root: the mount may know itself by another mount point."""
    try:
        names = relative(path, mount.point)
    except UnknownCommand:
        head, tail = os.path.split(path.rstrip("/"))
        names = relative(os.path.join(access.realpath(head), tail), mount.point)
    return "/".join(names) or "."


# -- flushPending --wait -------------------------------------------------------------------------


class _Clock:
    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _flush_and_wait(request: Request, mount: Mount, access: Access) -> None:
    clock = _Clock()
    started = clock.now()
    patience = min(AWAY_SECONDS, AWAY_SECONDS if request.timeout is None else request.timeout)
    text = _flush(lambda: _control(request, mount, access), patience, clock)
    through = int(text.rstrip().rpartition(" ")[2])
    left = None if request.timeout is None else max(0.0, request.timeout - (clock.now() - started))
    with progress(through) as show:
        found = wait(lambda: read_status(mount, access), through, left, clock, show)
    if not found.ok:
        raise Failure(f"flushPending: {found.text}")
    emit(text)


def _flush(ask: Callable[[], str], patience: float, clock: _Clock) -> str:
    """Ask for the flush; while home is away ask again, as it may have just come back."""
    started = clock.now()
    for pause in pauses():
        try:
            return ask()
        except Refusal as refusal:
            left = started + patience - clock.now()
            if refusal.errno != errno.EHOSTDOWN or left <= 0:
                raise
            clock.sleep(min(pause, left))
    raise AssertionError("pauses never end")


# -- a cache directory ---------------------------------------------------------------------------


def _offline(request: Request, path: str) -> None:
    if not request.command.unmounted:
        raise Failure(
            f"{path} is not mounted, and {request.command.name} needs the mount:"
            f" mount.afmfs none MOUNTPOINT -o cache={shlex.quote(path)}"
        )
    try:
        with open_cache(path) as cache:
            _read_offline(request, cache)
    except BrokenPipeError:
        raise
    except (OSError, sqlite3.Error, AfmError) as error:
        raise Failure(f"{path}: {error}") from error


def _read_offline(request: Request, cache: OfflineCache) -> None:
    name = request.command.name
    if name == "getstate":
        status = cache.status()
        if request.fileset not in (None, status.fileset):
            raise Failure(f"no fileset {request.fileset!r} there, but: {status.fileset}")
        _show_state(request, [status])
    elif name == "queue":
        _stream(cache.queue_lines())
    elif name == "events":
        emit(render_events(cache.events(), as_json=request.as_json))
    else:
        path = request.arguments[0]
        emit(render_cached(path, cache.cached(path), as_json=request.as_json))
