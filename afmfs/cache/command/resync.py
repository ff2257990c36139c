"""Resync and failover: what makes home agree with the cache again."""

from __future__ import annotations

from afmfs.cache.command.command_line import (
    REPAIR,
    STEER,
    TIMEOUT,
    Command,
    Steered,
    Words,
    check_timeout,
)
from afmfs.cache.report.status import Status
from afmfs.errors import Refused, UnknownCommand
from afmfs.model.states import State

_WAY_ON = {
    State.STOPPED: "`start` first",
    State.QUEUE_ONLY: "a job is being planned: wait for its end",
    State.RECOVERY: "wait for its end",
    State.FLUSH_ONLY: "home has not been reached since the mount: try again in a moment",
    State.DIRTY: "`flushPending --wait` first, or `resync --wait`, which does that by itself",
}


def admit_resync(status: Status) -> None:
    """Refused unless the fileset is Active or NeedsResync; one that nothing has touched since the
    mount becomes Active by the command itself."""
    if status.state in (State.ACTIVE, State.INACTIVE, State.NEEDS_RESYNC):
        return
    why = f" ({status.reason})" if status.reason else ""
    way_on = _WAY_ON.get(State(status.state), "wait for its end")
    if status.job is not None:
        way_on = "wait for its end"
    elif status.requeued:
        way_on = "have home permit what it refuses (`queue` lists it), or `drop` it, first"
    raise Refused(
        f"resync is refused while {status.fileset} is {status.state}{why}; {way_on}",
    )


async def _resync(fileset: Steered, words: Words) -> str:
    status = fileset.status()
    admit_resync(status)
    keep = "--keep-uncached" in words.flags
    check_timeout(words)
    if "--dry-run" in words.flags:
        number = fileset.start_report("dry-run", manual=True, keep_uncached=keep)
        return f"resync: to be read from .afm/report once it is made: report {number}\n"
    await fileset.resync(keep_uncached=keep)
    return f"afmctl: Performing resync of fileset: {status.fileset}\n"


async def _failover(fileset: Steered, words: Words) -> str:
    target = words.values.get("--new-target", "")
    check_timeout(words)
    if not target:
        raise UnknownCommand("failover: name the new home with --new-target TARGET")
    await fileset.failover(target, target_only="--target-only" in words.flags)
    return f"afmctl: Performing failover of fileset: {fileset.status().fileset}\n"


async def _auto_resync(fileset: Steered, words: Words) -> str:
    if words.arguments:
        if words.arguments[0] not in ("on", "off"):
            raise UnknownCommand(f"auto_resync is on or off, not {words.arguments[0]!r}")
        fileset.set_auto_resync(on=words.arguments[0] == "on")
    on = fileset.status().auto_resync
    what = "starts with the next request" if on else "has to be started by hand: `resync`"
    return f"auto_resync: {'on' if on else 'off'}; in NeedsResync a resync {what}\n"


COMMANDS: tuple[Command, ...] = (
    Command(
        name="resync",
        summary="Make home agree with the cache",
        group=REPAIR,
        handler=_resync,
        flags={
            "--dry-run": "say what would be done, changing nothing",
            "--keep-uncached": "leave uncached blocks as home has them",
            "--wait": "wait until it is done (afmctl only)",
            "--yes": "don't ask, even if something at home is nulled or replaced (afmctl only)",
            "--json": "with --dry-run: a JSON object a line (afmctl only)",
        },
        values=TIMEOUT,
        details="Pushes all cached data and all metadata, in the background. Uncached blocks of"
        "\npartly cached files become null bytes at home; evicted files stay as they are. What home"
        "\nalone holds is moved to its trash first, and no new name at home is removed or undone."
        "\nWhere anything at home would be nulled or replaced it asks first; not at a terminal it"
        "\nis refused then, unless --yes is given. With --wait, what is pending is flushed first.",
        examples=("resync -j sw1 --wait", "resync --dry-run"),
        modes=frozenset({"sw"}),
        needs_home=True,
    ),
    Command(
        name="failover",
        summary="Give the fileset a new home, or its home a new address",
        group=REPAIR,
        handler=_failover,
        flags={
            "--target-only": "it is the same home at another address: nothing is compared",
            "--wait": "wait until all is at the new home (afmctl only)",
        },
        values={
            "--new-target": ("TARGET", "the path of the new home; also the present one, if wiped"),
            **TIMEOUT,
        },
        details="Everything cached goes to the new home, in the background, but for what is there"
        "\nalready with the same size and mtime, as `rsync -a` leaves it, together with what is"
        "\npending. What neither the cache nor the new home has is listed by `verify`.",
        examples=("failover -j sw1 --new-target /srv/new-home --wait",),
        modes=frozenset({"sw"}),
    ),
    Command(
        name="auto_resync",
        summary="Say whether a resync starts by itself where home was changed",
        group=STEER,
        handler=_auto_resync,
        parameters=("[on|off]",),
        details="On unless said otherwise, and remembered by the cache. In NeedsResync the next"
        "\nfetch, reading of a directory or new change starts it.",
        examples=("auto_resync off",),
    ),
)
