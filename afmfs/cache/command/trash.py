"""What a resync moved aside at home: listed, brought back, thrown away."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from afmfs.cache.command.command_line import JSON, REPAIR, Command, Steered, Words, number, relative
from afmfs.cache.report.trash import ALL, render
from afmfs.errors import AfmError, Refused, UnknownCommand
from afmfs.model.states import AWAY

if TYPE_CHECKING:
    from afmfs.cache.home.trash import Restore


async def _trash(fileset: Steered, words: Words) -> str:
    action, *rest = words.arguments
    handler = {"list": _list, "restore": _restore, "empty": _empty}.get(action)
    if handler is None:
        raise UnknownCommand(f"trash takes list, restore or empty, not {action!r}")
    if action != "list":
        status = fileset.status()
        if status.state in AWAY:
            raise Refused(
                f"trash {action} needs home, which is away ({status.state})",
                errno=errno.EHOSTDOWN,
            )
    if "--all" in words.flags and (action != "empty" or rest):
        raise UnknownCommand("--all is for `trash empty`, in the place of an ID")
    return await handler(fileset, words, rest)


def listed_job(rest: Sequence[str]) -> int | None:
    """The job that `trash list` is about, None: all; from the words after it."""
    if len(rest) > 1:
        raise UnknownCommand("trash list takes an ID, or nothing")
    return number(rest[0], "the ID of a resync") if rest else None


async def _list(fileset: Steered, words: Words, rest: list[str]) -> str:
    job = listed_job(rest)
    return render(await fileset.trash.listing(job), as_json="--json" in words.flags)


async def _restore(fileset: Steered, words: Words, rest: list[str]) -> str:
    if not rest:
        raise UnknownCommand("trash restore takes an ID, and a path; `trash list` shows them")
    job, path = number(rest[0], "the ID of a resync"), None
    if len(rest) == 2:
        path = "/".join(relative(rest[1], fileset.mount_point)) or None
    done = await fileset.trash.restore(job, path)
    if "--json" in words.flags:
        return json.dumps({"ended": done.ended.is_set(), **done.detail()}) + "\n"
    return _told(done)


def _told(done: Restore) -> str:
    """What came back so far. AfmError where nothing did."""
    if not done.ended.is_set():
        what = "in the background; its end is the event afmTrashRestored"
        return f"trash restore {done.job}: {done.entries} entries so far, goes on {what}\n"
    if not done.entries:
        reasons = "".join(f"\n{reason}" for reason in done.reasons)
        if done.refused:
            raise Refused(f"trash restore {done.job}: nothing was restored{reasons}")
        what = "nothing" if done.path is None else f"no {done.path!r}"
        raise AfmError(f"trash: there is {what} of ID {done.job} to restore", errno=errno.ENOENT)
    lines = [f"restored {name}" for name in done.names]
    lines += [f"and {done.entries - len(done.names)} more"] * (done.entries > len(done.names))
    lines += [f"not restored: {reason}" for reason in done.reasons]
    more = done.refused - len(done.reasons)
    lines += [f"and {more} more were not restored"] * (more > 0)
    return "".join(line.replace("\n", "\\n") + "\n" for line in lines)


async def _empty(fileset: Steered, words: Words, rest: list[str]) -> str:
    if ("--all" in words.flags) == bool(rest) or len(rest) > 1:
        raise UnknownCommand("trash empty takes an ID, or --all")
    job = number(rest[0], "the ID of a resync") if rest else ALL
    done = await fileset.trash.empty(job)
    if "--json" in words.flags:
        counts = {key: done[key] for key in ("count", "bytes")} if done else {}
        return json.dumps({"ended": done is not None, **counts}) + "\n"
    if done is None:
        return "trash empty: goes on in the background; its end is the event afmTrashEmptied\n"
    entries = "1 entry" if done["count"] == 1 else f"{done['count']} entries"
    return f"trash empty: {entries}, {done['bytes']} bytes are gone for good\n"


COMMANDS: tuple[Command, ...] = (
    Command(
        name="trash",
        summary="List, bring back or throw away what a resync moved aside at home",
        group=REPAIR,
        handler=_trash,
        parameters=("list|restore|empty", "[ID]", "[PATH]"),
        flags={**JSON, "--all": "with empty: of every resync"},
        details="What home alone held and a resync replaced or nulled is in home's"
        "\n.afm/.afmtrash/ID/NUMBER, ID being the resync's number. `restore` brings all of it back,"
        "\nor what is at PATH or below: bytes that were made null go back into their file, all else"
        "\nto NAME.restored-ID beside what has its name now. `empty` destroys it for good.",
        examples=("trash list", "trash restore 3 reports/2024.ods", "trash empty 3"),
        modes=frozenset({"sw"}),
        unmounted=True,
    ),
)
