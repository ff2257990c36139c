"""`evict`: paths in several commands, and waiting for the end of what runs down to a limit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.filesize import decimal

from afmfs.admin.access import Access
from afmfs.admin.find import Mount, read_status
from afmfs.admin.flush import Clock
from afmfs.admin.job import counted
from afmfs.admin.progress import eviction_progress
from afmfs.admin.request import Failure, Request, control, emit, inside
from afmfs.admin.wait import pauses
from afmfs.errors import UnknownCommand

_PATHS, _BYTES = 50, 16 << 10
"""Most paths of one command, and what they may be long, quoted: the control file takes 32 KiB."""

_LONGEST_LIST = 256 << 20

_ONE_OF = ("--file", "--list-file", "--safe-limit")


def evict_command(request: Request, mount: Mount, access: Access) -> None:
    given = [o for o in _ONE_OF if o in request.values or o in request.repeated]
    if len(given) != 1:
        raise UnknownCommand("evict takes one of --file, --list-file and --safe-limit")
    if given == ["--safe-limit"]:
        _wait(request, mount, access)
        return
    if request.arguments and given == ["--list-file"]:
        raise UnknownCommand("--list-file takes no further paths")
    if given == ["--list-file"]:
        paths = _listed(request.values["--list-file"])
    else:
        paths = [*request.repeated["--file"], *request.arguments]
    _evict(request, [inside(path, mount, access) for path in paths], mount, access)


def _listed(name: str) -> list[str]:
    """The paths in a file, one a line, or each ended by a NUL; - is the standard input."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_LONGEST_LIST + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(_LONGEST_LIST + 1)
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from error
    if len(data) > _LONGEST_LIST:
        raise Failure(f"{name}: longer than {decimal(_LONGEST_LIST)}: is it a list of paths?")
    paths = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(path) for path in paths if path]


def _evict(request: Request, paths: Sequence[str], mount: Mount, access: Access) -> None:
    if len(paths) == 1:
        emit(control(_about(request, paths), mount, access))
        return
    told: list[dict[str, Any]] = []
    for some in _batches(paths):
        text = control(_about(request, some, "--json"), mount, access)
        told += map(json.loads, text.splitlines())
        if request.as_json:
            emit(text)
    kept = [one for one in told if one["kept"]]
    if not request.as_json:
        emit("".join(f"{one['path']}: {one['kept']}\n" for one in kept), sys.stderr)
        freed = [one["freed"] for one in told if one["freed"]]
        emit(f"evict: {counted(len(freed), 'file')}, {decimal(sum(freed))} freed\n")
    if kept:
        raise Failure(f"evict: {counted(len(kept), 'file')} not evicted")


def _about(request: Request, paths: Sequence[str], *flags: str) -> Request:
    """The request for the control file."""
    first, *others = paths
    return replace(
        request, flags=request.flags | {*flags}, arguments=tuple(others),
        values={k: v for k, v in request.values.items() if k != "--list-file"},
        repeated={**request.repeated, "--file": (first,)},
    )  # fmt: skip


def _batches(paths: Sequence[str]) -> Iterator[list[str]]:
    """One command each."""
    batch: list[str] = []
    size = 0
    for path in paths:
        length = 4 * len(os.fsencode(path)) + 3  # each byte a quote, at worst
        if batch and (len(batch) == _PATHS or size + length > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += length
    if batch:
        yield batch


def _wait(request: Request, mount: Mount, access: Access) -> None:
    """Start it, and see it to its end. Interrupted, it goes on by itself."""
    asking = replace(request, flags=request.flags | {"--json"})
    run = json.loads(control(asking, mount, access))
    clock, number = Clock(), run["number"]
    with eviction_progress(run["limit"]) as show:
        for pause in pauses():
            status = read_status(mount, access)
            run = status.eviction
            if run is None or run["number"] != number:
                raise Failure("evict: the mount was started anew meanwhile; say it again")
            if not run["running"]:
                break
            show(status)
            clock.sleep(pause)
    if request.as_json:
        emit(json.dumps(run) + "\n")
    else:
        passed = f", {counted(run['kept'], 'file')} passed over" if run["kept"] else ""
        emit(
            f"evict: {counted(run['files'], 'file')}, {decimal(run['bytes'])} freed{passed};"
            f" {decimal(status.cached_bytes)} cached\n"
        )
    if run["reason"]:
        raise Failure(f"evict: the limit is not reached: {run['reason']}")
