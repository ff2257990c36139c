"""Programs that run when something happens: their commands."""

from __future__ import annotations

import json

from afmfs.cache.command.command_line import JSON, STEER, WATCH, Command, Steered, Words, seconds
from afmfs.errors import UnknownCommand
from afmfs.model.callback import EVENTS, TIMEOUT_S, VARIABLES, Callback, checked


async def _add(fileset: Steered, words: Words) -> str:
    missing = [name for name in ("--command", "--event") if name not in words.values]
    if missing:
        raise UnknownCommand(f"addcallback needs {' and '.join(missing)}")
    callback = checked(
        words.arguments[0],
        words.values["--command"],
        words.values["--event"],
        words.values.get("--parms", ""),
        seconds(words.values["--timeout"]) if "--timeout" in words.values else TIMEOUT_S,
    )
    await fileset.callbacks.add(callback)
    return f"addcallback: {callback.id} runs at {', '.join(callback.events)}\n"


async def _delete(fileset: Steered, words: Words) -> str:
    ids = list(dict.fromkeys(one for word in words.arguments for one in word.split(",") if one))
    await fileset.callbacks.delete(ids)
    return f"delcallback: {', '.join(ids)} {'is' if len(ids) == 1 else 'are'} gone\n"


async def _list(fileset: Steered, words: Words) -> str:
    found = fileset.callbacks.listing()
    if "--json" in words.flags:
        return "".join(json.dumps(one.to_dict()) + "\n" for one in found)
    return "".join(map(_text, found))


def _text(callback: Callback) -> str:
    """As AFM's mmlscallback has it."""
    fields = {
        "command": callback.command,
        "event": ",".join(callback.events),
        "parms": callback.parms,
        "timeout": f"{callback.timeout:g}",
    }
    lines = [f"       {key:<13} = {value}".rstrip() for key, value in fields.items()]
    return "\n".join([callback.id, *(line.replace("\n", "\\n") for line in lines)]) + "\n"


def _listed(table: dict[str, str], mark: str = "") -> str:
    width = max(map(len, table)) + len(mark)
    return "\n".join(f"  {(mark + key).ljust(width)}  {text}" for key, text in table.items())


COMMANDS: tuple[Command, ...] = (
    Command(
        name="addcallback",
        summary="Have a program run when something happens",
        group=STEER,
        handler=_add,
        parameters=("ID",),
        values={
            "--command": ("PATH", "the program: absolute, and writable for its owner alone"),
            "--event": ("E[,E]", "the events, see below"),
            "--parms": ("WORDS", "its arguments, with %variables; see below"),
            "--timeout": ("S", f"it is ended after S seconds ({TIMEOUT_S:g})"),
        },
        details="The program runs without a shell, as the user who mounted, one run after the"
        "\nother; it holds up nothing. It and all that leads to it have to belong to root or to"
        "\nthat user, and nobody else may be able to write it. Lasts over mounts."
        f"\n\n\b\nEvents:\n{_listed(EVENTS)}"
        "\n\n\b\nVariables, also in the environment (%eventName is AFM_EVENT_NAME):"
        f"\n{_listed(VARIABLES, '%')}",
        examples=(
            "addcallback notify --command /usr/local/sbin/notify --event afmHomeDisconnected"
            ' --parms "%eventName %filesetName %reason"',
        ),
    ),
    Command(
        name="delcallback",
        summary="Have programs run no more",
        group=STEER,
        handler=_delete,
        parameters=("ID...",),
        details="All of them or, where one is not known, none.",
        examples=("delcallback notify",),
    ),
    Command(
        name="lscallback",
        summary="List the programs that run when something happens",
        group=WATCH,
        handler=_list,
        flags=JSON,
        details="--json: one JSON object a line.",
        examples=("lscallback",),
    ),
)
