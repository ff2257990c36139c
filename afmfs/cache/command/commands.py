"""The table of commands, for `.afm/control` and afmctl alike.

A command is checked against the fileset's state and handed to a method of the fileset. What is
refused raises, with the errno that write(2) shall answer:

EINVAL     unknown or malformed
EBUSY      not in this state
EPERM      not in this mode
EHOSTDOWN  needs a home that is away

A command never waits for the queue: whoever writes to a file of a mount can't be interrupted.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import aclosing

from afmfs.cache.command import callback as callback_commands
from afmfs.cache.command import check as check_commands
from afmfs.cache.command import evict as evict_commands
from afmfs.cache.command import resync as resync_commands
from afmfs.cache.command import trash as trash_commands
from afmfs.cache.command import verify as verify_commands
from afmfs.cache.command.command_line import (
    HELP,
    JSON,
    REPAIR,
    STEER,
    TIMEOUT,
    WATCH,
    Command,
    Steered,
    Table,
    Words,
    check_timeout,
    find,
    number,
    parse,
    resolve,
)
from afmfs.cache.report.event import render_events
from afmfs.cache.report.status import Status, render_cached, render_json, render_state
from afmfs.cache.report.write_stats import render_write_stats
from afmfs.errors import AfmError, Refused
from afmfs.model.states import AWAY, State

STATS = "--write-stats"

QUEUE_LINES = 1000
"""Entries in the reply to `queue`; `.afm/queue` has them all."""


async def execute(fileset: Steered, line: str) -> str:
    """Execute a command line; the reply, whose first line is the command that it answers.

    Raises AfmError; its errno is for write(2), its text for the reply (`refusal`).
    """
    words = parse(TABLE, line)
    admit(words.command, fileset.status())
    if words.command.activates:
        fileset.touch()
    try:
        return reply(line, await words.command.handler(fileset, words))
    except OSError as error:
        code = error.errno or errno.EIO
        raise AfmError(f"{words.command.name}: {os.strerror(code)}", errno=code) from error


def reply(line: str, text: str) -> str:
    """What a reader of the control file gets: the command it answers, then the text."""
    return f"{heading(line)}\n{text}"


def refusal(line: str, error: AfmError) -> str:
    """The reply to a refused command."""
    return reply(line, f"{error}\n")


def heading(line: str) -> str:
    """A command as one line, whatever is in its arguments."""
    return line.strip().replace("\n", "\\n")


def admit(command: Command, status: Status) -> None:
    """Refuse a command that the fileset's mode, state or home doesn't allow now."""
    why = f": {status.reason}" if status.reason else ""
    if command.modes is not None and status.mode not in command.modes:
        allowed = ", ".join(sorted(command.modes))
        raise Refused(
            f"{command.name} is for filesets of mode {allowed}, {status.fileset} is {status.mode}",
            errno=errno.EPERM,
        )
    if status.state in command.not_in:
        raise Refused(f"{command.name} is refused while {status.fileset} is {status.state}{why}")
    if command.resyncs and status.state == State.NEEDS_RESYNC and not status.auto_resync:
        raise Refused(
            f"{command.name} is refused while {status.fileset} is {status.state}{why}: `resync`"
            " first, or have it start by itself: `auto_resync on`"
        )
    if command.needs_home and status.state in AWAY:
        raise Refused(
            f"{command.name} needs home, which is away ({status.state}{why})",
            errno=errno.EHOSTDOWN,
        )


# -- handlers ------------------------------------------------------------------------------------


async def _getstate(fileset: Steered, words: Words) -> str:
    status = fileset.status()
    if "--json" in words.flags:
        return render_json(status)
    return render_write_stats([status]) if STATS in words.flags else render_state([status])


async def _flush(fileset: Steered, words: Words) -> str:
    check_timeout(words)
    return f"flushPending: through {fileset.flush_pending()}\n"


async def _stop(fileset: Steered, words: Words) -> str:
    fileset.stop()
    return "stop: nothing is replayed until `start`, not after a new mount either\n"


async def _start(fileset: Steered, words: Words) -> str:
    fileset.start()
    return "start: the queue goes on\n"


async def _resume(fileset: Steered, words: Words) -> str:
    tried = fileset.resume_requeued()
    return f"resumeRequeued: {tried} {'entry is' if tried == 1 else 'entries are'} tried again\n"


async def _queue(fileset: Steered, words: Words) -> str:
    found: list[str] = []
    async with aclosing(fileset.queue_lines()) as entries:
        async for line in entries:
            if len(found) == QUEUE_LINES:
                found.append(json.dumps({"more": "there are more entries, see .afm/queue"}) + "\n")
                break
            found.append(line.decode())
    return "".join(found)


async def _drop(fileset: Steered, words: Words) -> str:
    entry = number(words.arguments[0], "the ID of an entry")
    await fileset.drop(entry)
    return f"drop: entry {entry} is gone and will never reach home\n"


async def _cached(fileset: Steered, words: Words) -> str:
    path = words.arguments[0]
    report = fileset.cached(await resolve(fileset, path))
    return render_cached(path, report, as_json="--json" in words.flags)


async def _events(fileset: Steered, words: Words) -> str:
    return render_events(fileset.events(), as_json="--json" in words.flags)


async def _help(fileset: Steered, words: Words) -> str:
    return help_text(words.arguments[0] if words.arguments else "")


def help_text(name: str = "") -> str:
    """Help on one command, or the list of all, grouped. UnknownCommand if there is none."""
    if name:
        return _help_on(find(TABLE, name))
    width = max(len(c.syntax) for c in TABLE.values())
    found: list[str] = []
    for group in dict.fromkeys(c.group for c in TABLE.values()):
        found.append(f"{group}:")
        members = [c for c in TABLE.values() if c.group == group]
        found += [f"  {c.syntax.ljust(width)}  {c.summary}" for c in members]
    return "\n".join(found) + "\n"


def _help_on(command: Command) -> str:
    options = [*command.flags.items()]
    options += [(f"{option} {value}", text) for option, (value, text) in command.values.items()]
    found = [command.syntax, "", command.summary + "."]
    found += [command.details] * bool(command.details)
    found += ["", *(f"  {option.ljust(14)} {text}" for option, text in options)] * bool(options)
    return "\n".join(found) + "\n"


# -- the table -----------------------------------------------------------------------------------

_COMMANDS = (
    Command(
        name="getstate",
        summary="Show the state, the gateway and the queue's length",
        group=WATCH,
        handler=_getstate,
        flags={
            "--json": "everything that is known, as in .afm/status.json",
            STATS: "what is written to home: how much, how fast, and what is left",
        },
        details="The state follows from what is pending and where home is. Where somebody should"
        " look, the reason is on standard error; --json always has it.",
        examples=("getstate", "getstate -j sw1 --json", "getstate --write-stats"),
        activates=False,
        unmounted=True,
    ),
    Command(
        name="queue",
        summary="List what is pending, one JSON object a line",
        group=WATCH,
        handler=_queue,
        details="With number, operation, paths, age and state; requeued entries with their error.",
        examples=("queue",),
        unmounted=True,
    ),
    Command(
        name="cached",
        summary="Say how much of a file is cached",
        group=WATCH,
        handler=_cached,
        parameters=("PATH",),
        flags=JSON,
        details="uncached, partial or cached, with bytes and blocks. PATH is absolute below the"
        "\nmount point, or relative to the fileset's root.",
        examples=("cached src/main.c", "cached --json /mnt/sw1/src/main.c"),
        unmounted=True,
    ),
    Command(
        name="events",
        summary="List what happened, newest last",
        group=WATCH,
        handler=_events,
        flags={"--json": "one JSON object a line"},
        examples=("events",),
        unmounted=True,
    ),
    Command(
        name="flushPending",
        summary="Replay everything pending now, without waiting for its age",
        group=STEER,
        handler=_flush,
        flags={"--wait": "wait until all of it is at home (afmctl only)"},
        values=TIMEOUT,
        details="Answers with the number of the newest entry that it covers. With --wait afmctl"
        "\nends with status 1 and the reason once what is left can't go. When it ends with 0 and"
        "\nnothing newer was queued, the state is Active.",
        examples=("flushPending --wait --timeout 60",),
        not_in=frozenset({State.STOPPED}),
        resyncs=True,
        needs_home=True,
    ),
    Command(
        name="stop",
        summary="Stop replaying; changes go on being queued",
        group=STEER,
        handler=_stop,
        details="Lasts over mounts, until `start`. May be said twice, and in any state.",
        examples=("stop",),
    ),
    Command(
        name="start",
        summary="Replay again after `stop`",
        group=STEER,
        handler=_start,
        details="May be said twice, and in any state.",
        examples=("start",),
    ),
    Command(
        name="resumeRequeued",
        summary="Try the entries that home refused again now",
        group=REPAIR,
        handler=_resume,
        details="They are tried again by themselves too, at growing intervals.",
        examples=("resumeRequeued",),
        not_in=frozenset({State.STOPPED}),
        resyncs=True,
        needs_home=True,
    ),
    Command(
        name="drop",
        summary="Remove one entry from the queue: its change will never reach home",
        group=REPAIR,
        handler=_drop,
        parameters=("ID",),
        details="Cache and home differ from then on. The only way in which anything pending is"
        "\ngiven up. Refused while the entry is under way.",
        examples=("drop 4711",),
    ),
    Command(
        name="help",
        summary="Explain the commands, or one of them",
        group=HELP,
        handler=_help,
        parameters=("[COMMAND]",),
        examples=("help flushPending",),
        unmounted=True,
    ),
)

_ALL = (
    *_COMMANDS,
    *resync_commands.COMMANDS,
    *trash_commands.COMMANDS,
    *verify_commands.COMMANDS,
    *evict_commands.COMMANDS,
    *check_commands.COMMANDS,
    *callback_commands.COMMANDS,
)

TABLE: Table = {command.name: command for command in _ALL}
