"""Freeing cached blocks that home has as well."""

from __future__ import annotations

import json
from typing import NamedTuple

from afmfs.cache.command.command_line import JSON, STEER, Command, Steered, Words, resolve
from afmfs.errors import AfmError, Refused, UnknownCommand
from afmfs.model.selection import parse_size, select

MOST_PATHS = 200
"""Paths of one command: whoever writes to the control file can't be interrupted."""


class Told(NamedTuple):
    """What became of one path. `kept` says why it stays, or is ''."""

    path: str
    freed: int  # bytes
    kept: str


async def _evict(fileset: Steered, words: Words) -> str:
    if "--list-file" in words.values:
        raise UnknownCommand("--list-file is for afmctl, which reads the file")
    limited = "--safe-limit" in words.values
    if limited == ("--file" in words.repeated):
        raise UnknownCommand("evict takes one of --file, --list-file and --safe-limit")
    return await (_down_to if limited else _files)(fileset, words)


async def _down_to(fileset: Steered, words: Words) -> str:
    if words.arguments:
        raise UnknownCommand(f"--safe-limit takes no path, but {words.arguments[0]!r} is there")
    try:
        limit = parse_size(words.values["--safe-limit"])
        selection = select(words.values.get("--order", ""), words.repeated.get("--filter", ()))
    except ValueError as error:
        raise UnknownCommand(f"evict: {error}") from None
    run = fileset.evictions.start(limit, selection)
    if "--json" in words.flags:
        return json.dumps(fileset.evictions.shown()) + "\n"
    return f"evict: down to {run.limit} bytes, in the background; its end is an event\n"


async def _files(fileset: Steered, words: Words) -> str:
    paths = [*words.repeated["--file"], *words.arguments]
    if len(paths) > MOST_PATHS:
        raise UnknownCommand(f"evict takes at most {MOST_PATHS} paths at a time")
    if "--order" in words.values or "--filter" in words.repeated:
        raise UnknownCommand("--order and --filter are for --safe-limit")
    found = await _evict_paths(fileset, paths)
    if len(found) == 1 and found[0].kept:
        raise Refused(f"evict: {found[0].path}: {found[0].kept}")
    if "--json" in words.flags:
        return "".join(json.dumps(one._asdict()) + "\n" for one in found)
    return render(found)


async def _evict_paths(fileset: Steered, paths: list[str]) -> list[Told]:
    """Evict the files at `paths`. What one of several can't be found for is said beside it."""
    places: dict[str, int] = {}
    missing: dict[str, str] = {}
    for path in paths:
        try:
            places[path] = await resolve(fileset, path)
        except AfmError as error:
            if len(paths) == 1:
                raise
            missing[path] = str(error).removeprefix(f"{path}: ")
    evicted = {
        one.ino: one for one in await fileset.evictions.evict(list(dict.fromkeys(places.values())))
    }
    await fileset.evictions.settle()
    told: list[Told] = []
    for path in dict.fromkeys(paths):
        one = evicted.pop(places[path], None) if path in places else None
        told.append(Told(path, one.freed if one else 0, one.kept if one else missing.get(path, "")))
    return told


def render(found: list[Told]) -> str:
    """What stays, a line each, and the sums."""
    kept = [one for one in found if one.kept]
    freed = [one.freed for one in found if one.freed]
    lines = [f"{one.path}: {one.kept}" for one in kept]
    stay = f", {len(kept)} stay as they are" if kept else ""
    files = "1 file" if len(freed) == 1 else f"{len(freed)} files"
    return "\n".join([*lines, f"evict: {files}, {sum(freed)} bytes freed{stay}"]) + "\n"


COMMANDS: tuple[Command, ...] = (
    Command(
        name="evict",
        summary="Free cached blocks that home has as well",
        group=STEER,
        handler=_evict,
        parameters=("[PATH...]",),
        flags=JSON,
        values={
            "--file": ("PATH", "this file; may be given several times, or followed by more"),
            "--list-file": ("FILE", "the files named in FILE, one a line (afmctl only)"),
            "--safe-limit": ("BYTES", "any files, until at most BYTES (10G, 500M) are cached"),
            "--order": (
                "LRU|SIZE",
                "with --safe-limit: least recently used (the default), or biggest first",
            ),
            "--filter": (
                "ATTR=VALUE",
                "with --safe-limit: FILENAME=PATTERN, MINFILESIZE=SIZE,"
                " MAXFILESIZE=SIZE; all that are given must hold",
            ),
        },
        repeats=frozenset({"--file", "--filter"}),
        details="Names and attributes stay, the next read fetches again. Files with pending changes"
        "\nare never evicted, nor any while home is away, was changed, or a job runs. With"
        "\n--safe-limit it runs in the background; afmctl waits for its end.",
        examples=(
            "evict --file videos/old.mp4",
            "evict --safe-limit 10G --order SIZE --filter 'FILENAME=*.iso'",
        ),
        needs_home=True,
    ),
)
