"""`resync` and `failover`: asking before something at home is replaced, waiting for the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import click
from rich.filesize import decimal

from afmfs.admin import job, report
from afmfs.admin.access import Access
from afmfs.admin.find import Mount, read_status
from afmfs.admin.flush import Limit, flush_and_wait
from afmfs.admin.job import counted
from afmfs.admin.report import Row
from afmfs.admin.request import Failure, Request, control, emit
from afmfs.cache.command.commands import TABLE
from afmfs.model.states import State

CHANGES = ("aside", "nulled")
"""Figures of a dry run that have to be consented to; what is replaced is moved aside first."""


def resync_command(request: Request, mount: Mount, access: Access) -> None:
    limit = Limit.of(request.timeout)
    waits = "--wait" in request.flags
    if "--dry-run" in request.flags:
        _show(request, _dry_run(request, mount, access))
        return
    if waits:
        _make_ready(request, mount, access, limit)
    if "--yes" not in request.flags:
        _consent(_dry_run(request, mount, access))
    emit(control(request, mount, access))
    if waits:
        number = read_status(mount, access).last_job
        emit("resync: " + job.render_summary(job.wait_for("resync", number, mount, access, limit)))


def failover_command(request: Request, mount: Mount, access: Access) -> None:
    limit, values = Limit.of(request.timeout), dict(request.values)
    target = values.get("--new-target", "")
    if target and "://" not in target:  # relative to where we are, not to where the mount is
        values["--new-target"] = os.path.abspath(target)
    emit(control(replace(request, values=values), mount, access))
    if "--wait" in request.flags and "--target-only" not in request.flags:
        number = read_status(mount, access).last_job
        event = job.wait_for("failover", number, mount, access, limit)
        emit("failover: " + job.render_summary(event))


def _make_ready(request: Request, mount: Mount, access: Access, limit: Limit) -> None:
    """What is pending goes first, and so does a resync that runs already, but for one whose place
    the new one takes."""
    flush = replace(request, command=TABLE["flushPending"], flags=frozenset(), values={})
    while True:
        status = read_status(mount, access)
        if status.state == State.NEEDS_RESYNC:
            return
        if status.job is not None:
            job.await_end(status.job.kind, status.job.id, mount, access, limit)
        elif status.state == State.DIRTY:
            flush_and_wait(flush, mount, access, limit)
        else:
            return


# -- the dry run ---------------------------------------------------------------------------------


def _dry_run(request: Request, mount: Mount, access: Access) -> Iterator[Row]:
    """What the resync would do, an object a row; the summary comes last."""
    flags = request.flags & {"--keep-uncached"} | {"--dry-run"}
    text = control(replace(request, flags=flags, values={}), mount, access)
    yield from report.rows("resync", int(text.split()[-1]), mount, access)


def _show(request: Request, rows: Iterator[Row]) -> None:
    for row in rows:
        if request.as_json:
            emit(json.dumps(row) + "\n")
        else:
            emit(render_summary(row["summary"]) if "summary" in row else render_row(row))


def _consent(rows: Iterator[Row]) -> None:
    """Ask, where something at home would be replaced. Failure if nobody consents."""
    summary = next(row["summary"] for row in rows if "summary" in row)
    if not any(summary.get(name) for name in CHANGES):
        return
    parts = []
    if summary["aside"]:
        size = decimal(summary["aside_bytes"])
        parts.append(f"move {counted(summary['aside'], 'entry')} ({size}) into home's trash")
    if summary["nulled"]:
        size = decimal(summary["nulled_bytes"])
        parts.append(f"fill {size} of {counted(summary['nulled'], 'file')} with null bytes")
    what = f"this would {' and '.join(parts)}"
    if not _at_terminal():
        raise Failure(f"resync: {what}: look with --dry-run, consent with --yes")
    if not click.confirm(f"resync: {what}. Go on?", err=True):
        raise Failure("resync: nothing was done")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def render_row(row: Row) -> str:
    """One object: what is done, its path, and what home alone holds of it."""
    parts = [decimal(row["bytes"])] if "bytes" in row else []
    parts += [f"moves {_line(a['path'])} aside: {a['why']}" for a in row.get("aside", ())]
    if "null_bytes" in row:
        parts.append(f"nulls {decimal(row['null_bytes'])}")
    if "reason" in row:
        parts.append(str(row["reason"]))
    text = f" ({'; '.join(parts)})" if parts else ""
    return f"{row['do']:<6} {_line(row['path'])}{text}\n"


def _line(path: str) -> str:
    """A path that stays on its line."""
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in path
    )


def render_summary(summary: Row) -> str:
    """The figures of a dry run, a line each; what is nought is left out."""
    lines = [
        f"push    {counted(summary['pushed'], 'object')}, {decimal(summary['pushed_bytes'])};"
        f" {summary['made']:,} of them new at home"
    ]
    for word, figure, noun, size, text in (
        ("replace", "replaced", "object", "", "whose place at home is taken by something else"),
        ("aside", "aside", "entry", "aside_bytes", "moved into home's trash"),
        (
            "null",
            "nulled",
            "file",
            "nulled_bytes",
            "filled with null bytes where nothing is cached",
        ),
        ("adopt", "adopted", "file", "", "of which nothing is cached, as home has them"),
        ("lost", "lost", "file", "", "neither here nor at home"),
        ("remove", "removed", "name", "", "that was removed here and is pending"),
    ):
        if summary.get(figure):
            sized = f", {decimal(summary[size])}" if size else ""
            lines.append(f"{word:<7} {counted(summary[figure], noun)}{sized}, {text}")
    return "\n".join(lines) + "\n"
