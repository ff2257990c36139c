"""`check`: of a cache directory, here and now; of a mounted one, by its mount process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from afmfs.admin.access import Access
from afmfs.admin.find import Mount
from afmfs.admin.report import rows
from afmfs.admin.request import Failure, Request, control, emit
from afmfs.admin.spinner import spinner
from afmfs.admin.verify import plain
from afmfs.cache.check.report import finding_row, summary_row
from afmfs.cache.check.run import Mending, look
from afmfs.cache.store.lock import CacheLock
from afmfs.errors import Refused, UnknownCommand
from afmfs.model.findings import CANCELLED, CLEAN, UNCORRECTED, Finding

Row = dict[str, Any]


def check_offline(request: Request, cache: str) -> None:
    """Exits with a status of fsck(8). Refused, OSError or sqlite3.Error where it can't be done."""
    if "--cancel" in request.flags:
        raise UnknownCommand("--cancel is for the check of a mounted cache")
    lock = _lock(Path(cache))
    mending = "--repair" in request.flags
    try:
        with spinner("check: databases, names, blobs and the queue are looked at") as turn:

            def told(finding: Finding, repaired: bool) -> None:
                _show(request, finding_row(finding, repaired=repaired), mending=mending)

            if mending:
                tally = Mending(Path(cache), told, turn).run()
            else:
                tally = look(Path(cache), told, turn)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(CANCELLED) from None
    finally:
        lock.close()
    _show(request, summary_row(tally), mending=mending)
    if tally.status != CLEAN:
        raise click.exceptions.Exit(tally.status)


def _lock(cache: Path) -> CacheLock:
    """The cache's lock. Refused while a mount has it."""
    try:
        return CacheLock(cache, mounts=False)
    except Refused as error:
        who = str(error).partition(" is in use")[2].partition(":")[0]
        raise Refused(f"it is in use{who}: unmount it first") from None


def check_mounted(request: Request, mount: Mount, access: Access) -> None:
    """As `check_offline`, by a report of the mount process."""
    if "--repair" in request.flags:
        raise Failure(
            f"{mount.point} is mounted, and only a cache that is not can be repaired:"
            f" umount {mount.point}"
        )
    text = control(request, mount, access)
    if "--cancel" in request.flags:
        emit(text)
        return
    number = int(text.partition(" report ")[2].split()[0])
    try:
        wrong = _show_all(request, rows("check", number, mount, access))
    except KeyboardInterrupt:
        with suppress(Failure, UnknownCommand, OSError):  # ended by itself, or nobody answers
            control(replace(request, flags=frozenset({"--cancel"})), mount, access)
        raise click.exceptions.Exit(CANCELLED) from None
    if wrong:
        raise click.exceptions.Exit(UNCORRECTED)


def _show_all(request: Request, lines: Iterable[Row]) -> bool:
    wrong = False
    for row in lines:
        _show(request, row, mending=False)
        wrong |= "summary" not in row
    return wrong


def _show(request: Request, row: Row, *, mending: bool) -> None:
    if request.as_json:
        emit(json.dumps(row) + "\n")
    elif "summary" in row:
        emit(render_summary(row["summary"], mending=mending))
    else:
        emit(render_finding(row, mending=mending))


def render_finding(row: Row, *, mending: bool) -> str:
    """One finding as one line, whatever is in its names."""
    where = f"{plain(row['path'])}: " if row["path"] is not None else ""
    if not where and row["ino"] is not None:
        where = f"inode {row['ino']}: "
    if not mending:
        after = f"--repair: {row['repair']}"
    else:
        done = "repaired" if row["repaired"] else "not repaired"
        after = f"{done}: {row['repair'].removeprefix('nothing: ')}"
    return f"{row['severity']:5} {row['kind']}: {where}{plain(row['text'])}; {after}\n"


def render_summary(summary: Row, *, mending: bool) -> str:
    total = sum(summary["found"].values())
    if not total and not summary["left"]:
        return "no findings\n"
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(summary["found"].items()))
    text = f"{total} finding{'s' * (total != 1)} ({kinds})" if total else "no new findings"
    if mending:
        text += f"; {summary['repaired']} repaired, {summary['left']} left"
    if summary["lost"]:
        text += f"; something that was only here is lost in {summary['lost']} of them"
    return text + "\n"
