"""Carrying out one command of afmctl: at a mount, through its control directory, or offline."""

from __future__ import annotations

import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterable

from afmfs.admin.access import Access
from afmfs.admin.check import check_mounted, check_offline
from afmfs.admin.evict import evict_command
from afmfs.admin.find import Fileset, Found, explain, find
from afmfs.admin.flush import flush_command
from afmfs.admin.offline import OfflineCache, open_cache
from afmfs.admin.request import Failure, Request, control, emit
from afmfs.admin.resync import failover_command, resync_command
from afmfs.admin.verify import verify_command
from afmfs.cache.command.commands import STATS
from afmfs.cache.command.trash import listed_job
from afmfs.cache.report.event import render_events
from afmfs.cache.report.status import Status, render_cached, render_json, render_state
from afmfs.cache.report.trash import render as render_trash
from afmfs.cache.report.write_stats import render_write_stats
from afmfs.errors import AfmError, UnknownCommand


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
        render = render_write_stats if STATS in request.flags else render_state
        emit(render(statuses))
    elif len(statuses) == 1:
        emit(render_json(statuses[0]))
    else:
        emit("[" + ",\n".join(render_json(s).rstrip() for s in statuses) + "]\n")
    for one in statuses:
        if one.trouble:  # the table is AFM's, and read by programs
            emit(f"{one.fileset}: {one.state}: {one.reason}\n", sys.stderr)


# -- at a mount ----------------------------------------------------------------------------------


def _at_mount(request: Request, fileset: Fileset, access: Access) -> None:
    mount, name = fileset.mount, request.command.name
    try:
        if name == "queue":
            _stream(access.chunks(mount.path("queue")))
        elif name == "resync":
            resync_command(request, mount, access)
        elif name == "evict":
            evict_command(request, mount, access)
        elif name == "verify":
            verify_command(request, mount, access)
        elif name == "check":
            check_mounted(request, mount, access)
        elif name == "failover":
            failover_command(request, mount, access)
        elif "--wait" in request.flags:
            flush_command(request, mount, access)
        else:
            emit(control(request, mount, access))
    except BrokenPipeError:  # whoever reads our output has seen enough
        raise
    except OSError as error:
        raise Failure(explain(error, mount)) from error


def _stream(chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


# -- a cache directory ---------------------------------------------------------------------------


def _offline(request: Request, path: str) -> None:
    if not request.command.unmounted:
        raise Failure(
            f"{path} is not mounted, and {request.command.name} needs the mount:"
            f" mount.afmfs none MOUNTPOINT -o cache={shlex.quote(path)}"
        )
    try:
        if request.command.name == "check":
            check_offline(request, path)
            return
        with open_cache(path) as cache:
            _read_offline(request, cache)
    except (BrokenPipeError, UnknownCommand):
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
    elif name == "trash":
        _list_trash(request, cache)
    elif name == "events":
        emit(render_events(cache.events(), as_json=request.as_json))
    else:
        path = request.arguments[0]
        emit(render_cached(path, cache.cached(path), as_json=request.as_json))


def _list_trash(request: Request, cache: OfflineCache) -> None:
    action, *rest = request.arguments
    if action != "list":
        raise AfmError(f"trash {action} needs the mount")
    emit(render_trash(cache.trash(listed_job(rest)), as_json=request.as_json))
