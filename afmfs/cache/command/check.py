"""Checking the cache itself: its databases, its blobs, and what they say of each other."""

from __future__ import annotations

from afmfs.cache.command.command_line import REPAIR, Command, Steered, Words
from afmfs.errors import Refused, UnknownCommand
from afmfs.model.findings import OPERATIONAL, USAGE


async def _check(fileset: Steered, words: Words) -> str:
    if "--cancel" in words.flags:
        if "--repair" in words.flags:
            raise UnknownCommand("--cancel stands alone")
        return f"check: report {fileset.cancel_report()} is being ended\n"
    if "--repair" in words.flags:
        raise Refused("check --repair is for a cache that is not mounted: unmount it first")
    number = fileset.start_check()
    return (
        f"check: report {number} is being made; read .afm/report when status.json says that it is"
        " not running\n"
    )


COMMANDS: tuple[Command, ...] = (
    Command(
        name="check",
        summary="Check the cache itself, and repair it where it is not mounted",
        group=REPAIR,
        handler=_check,
        flags={
            "--repair": "repair what can be without inventing data (not while mounted)",
            "--json": "one JSON object a line, the last one a summary (afmctl only)",
            "--cancel": "end the check that is being made at a mount",
        },
        details="Databases, names, block maps against blobs, the queue, versions. DEVICE is the"
        "\ncache directory of a fileset that is not mounted; a mounted one is checked beside its"
        "\nwork, read-only. What is cached and reads as zeros, where home has something else, is"
        "\nfound by `verify --data` alone. Exit status, as of fsck: 0 no findings; 1 all repaired;"
        "\n4 some left; 8 it can't be checked; 16 wrong usage; 32 interrupted.",
        examples=("check", "check --json"),
        unmounted=True,
        failure=OPERATIONAL,
        usage=USAGE,
    ),
)
