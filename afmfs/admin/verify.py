"""`verify`: the report of a comparison, awaited and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from afmfs.admin.access import Access
from afmfs.admin.find import Mount
from afmfs.admin.report import rows
from afmfs.admin.request import Failure, Request, control, emit, inside
from afmfs.errors import UnknownCommand

Row = dict[str, Any]

DIFFERENT = 1
"""Exit status where cache and home differ."""

_WIDTH = len("unrepresentable")
_MOST_RANGES = 4


def verify_command(request: Request, mount: Mount, access: Access) -> None:
    """Exits with DIFFERENT if there are differences; Failure where they can't be told."""
    if request.arguments:
        request = replace(request, arguments=(inside(request.arguments[0], mount, access),))
    if "--cancel" in request.flags:
        emit(control(request, mount, access))
        return
    text = control(request, mount, access)
    number = int(text.partition(" report ")[2].split()[0])
    try:
        differ = _show(request, number, mount, access)
    except KeyboardInterrupt:
        with suppress(Failure, UnknownCommand, OSError):  # ended by itself, or nobody answers
            control(replace(request, arguments=(), flags=frozenset({"--cancel"})), mount, access)
        raise
    if differ:
        raise click.exceptions.Exit(DIFFERENT)


def _show(request: Request, number: int, mount: Mount, access: Access) -> bool:
    """Print the report as it is read; whether there are differences."""
    found = False
    for n, row in enumerate(rows("verify", number, mount, access)):
        if request.as_json:
            emit(json.dumps(row) + "\n")
        elif "summary" in row:
            emit(("\n" if n else "") + render_summary(row["summary"]))
        else:
            if not n:
                emit(f"{'Difference':{_WIDTH}} Path\n{'-' * _WIDTH} {'-' * 4}\n")
            emit(render_difference(row))
        found |= row.get("difference", "extra") != "extra"
    return found


# -- text ----------------------------------------------------------------------------------------


def render_difference(row: Row) -> str:
    """One difference as one line, whatever is in its names."""
    kind = row["difference"]
    path = "an inode without a name" if row["path"] is None else plain(row["path"])
    detail = _DETAILS.get(kind, _both)(row)
    return f"{kind:{_WIDTH}} {path}{': ' if detail else ''}{detail}\n"


def render_summary(summary: Row) -> str:
    counts = ("file", summary["files"]), ("directory", summary["directories"])
    text = ", ".join(_count(n, noun) for noun, n in (*counts, ("other", summary["others"])))
    if summary["bytes_compared"]:
        text += f"; {_count(summary['bytes_compared'], 'byte')} compared"
    kinds = dict(sorted(summary["differences"].items()))
    extra = kinds.pop("extra", 0)
    found = _count(sum(kinds.values()), "difference") if kinds else "no differences"
    if kinds:
        found += f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
    if extra:
        found += f", {_count(extra, 'new name')} at home"
    return f"{text}\n{found}\n"


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def plain(text: str) -> str:
    """Text that stays in its line: a name may hold a newline. Bytes pass as they are."""
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text
    )


def _both(row: Row) -> str:
    return f"{plain(str(row['cache']))} in the cache, {plain(str(row['home']))} at home"


def _times(row: Row) -> str:
    return f"{_time(row['cache'])} in the cache, {_time(row['home'])} at home"


def _time(time_ns: int) -> str:
    seconds, ns = divmod(time_ns, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{ns:09} s"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns:09}Z"


def _data(row: Row) -> str:
    ranges = [f"{start}-{end}" for start, end in row["ranges"]]
    more = ", ..." if len(ranges) > _MOST_RANGES else ""
    shown = ", ".join(ranges[:_MOST_RANGES])
    return f"{_count(row['bytes'], 'byte')} in blocks that differ, at {shown}{more}"


def _nulled(row: Row) -> str:
    text = f"bytes {row['start']}-{row['end']} are null at home since job {row['job']}"
    return f"{text}; what was there is in its trash" if row["trash"] is not None else text


_DETAILS: dict[str, Callable[[Row], str]] = {
    "missing": lambda row: "",
    "mtime": _times,
    "version": lambda row: "another file, as long and as old",
    "data": _data,
    "nulled": _nulled,
    "lost": lambda row: f"home has lost it and nothing is cached, as job {row['job']} found",
    "unrepresentable": lambda row: f"home can't hold it: {row['op']}, {row['errno']}",
    "in doubt": lambda row: plain(row["reason"]),
    "extra": lambda row: f"a new name at home ({row['home']})",
}
