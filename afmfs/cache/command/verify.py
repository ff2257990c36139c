"""Comparing the cache with home, changing nothing."""

from __future__ import annotations

from typing import Any

from afmfs.cache.command.command_line import WATCH, Command, Steered, Words, resolve
from afmfs.errors import UnknownCommand


async def _verify(fileset: Steered, words: Words) -> str:
    if "--cancel" in words.flags:
        if words.arguments or "--data" in words.flags:
            raise UnknownCommand("--cancel stands alone")
        return f"verify: report {fileset.cancel_report()} is being ended\n"
    options: dict[str, Any] = {"data": "--data" in words.flags}
    if words.arguments:
        options["ino"] = await resolve(fileset, words.arguments[0])
    number = fileset.start_report("verify", **options)
    return (
        f"verify: report {number} is being made; read .afm/report when status.json says that it"
        " is not running\n"
    )


COMMANDS: tuple[Command, ...] = (
    Command(
        name="verify",
        summary="Compare the cache with home, changing nothing",
        group=WATCH,
        handler=_verify,
        parameters=("[PATH]",),
        flags={
            "--data": "compare the bytes of cached blocks too",
            "--json": "one JSON object a line, the last one a summary (afmctl only)",
            "--cancel": "end the report that is being made",
        },
        details="Names, types, sizes, times, modes, owners and link targets, of all that the cache"
        "\nknows, or of PATH and what is below it. What is pending is no difference. Paths are"
        "\nhome's. afmctl waits for the report, prints the differences, and exits with 1 if there"
        "\nare any but new names at home, with 2 where it fails.",
        examples=("verify", "verify --data --json src"),
        needs_home=True,
        failure=2,
    ),
)
