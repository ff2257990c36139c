"""Carrying out a command on the cache directory of a fileset that is not mounted."""

from __future__ import annotations

import shlex
import sqlite3

from afmfs.admin.check import check_offline
from afmfs.admin.offline import OfflineCache, open_cache
from afmfs.admin.request import Failure, Request, emit, stream
from afmfs.admin.state import show_state
from afmfs.cache.command.trash import listed_job
from afmfs.cache.report.event import render_events
from afmfs.cache.report.status import render_cached
from afmfs.cache.report.trash import render as render_trash
from afmfs.errors import AfmError, UnknownCommand


def unmounted_command(request: Request, path: str) -> None:
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
        show_state(request, [status])
    elif name == "queue":
        stream(cache.queue_lines())
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
