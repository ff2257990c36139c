"""Resync and failover: what makes home agree with the cache again."""

from __future__ import annotations

from afmfs.cache.command_line import REPAIR, Command, Steered, Words
from afmfs.cache.status import Status
from afmfs.errors import Refused
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
    raise Refused(
        f"resync is refused while {status.fileset} is {status.state}{why}; {way_on}",
    )


async def _resync(fileset: Steered, words: Words) -> str:
    status = fileset.status()
    admit_resync(status)
    await fileset.resync(keep_uncached="--keep-uncached" in words.flags)
    return f"afmctl: Performing resync of fileset: {status.fileset}\n"


COMMANDS: tuple[Command, ...] = (
    Command(
        name="resync",
        summary="Make home agree with the cache",
        group=REPAIR,
        handler=_resync,
        flags={
            "--keep-uncached": "leave uncached blocks as home has them",
            "--wait": "wait until it is done (afmctl only)",
            "--yes": "don't ask, even if something at home is nulled or replaced (afmctl only)",
        },
        details="Pushes all cached data and all metadata, in the background. Uncached blocks of"
        "\npartly cached files become null bytes at home; evicted files stay as they are. What home"
        "\nalone holds is moved to its trash first, and no new name at home is removed or undone.",
        examples=("resync -j sw1 --wait",),
        modes=frozenset({"sw"}),
        needs_home=True,
    ),
)
