"""`afmctl DEVICE COMMAND [-j FILESET] [ARGUMENTS]`: the command line for administrators.

The commands and their syntax come from the table that the control file uses too. Exit status: 0,
done; 1, failed or refused, with the reason on standard error; 2, wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from afmfs.admin import find
from afmfs.admin.access import Access, Hung
from afmfs.admin.request import Failure, Request
from afmfs.admin.steer import run
from afmfs.cache.command.command_line import LATER, Command, later, unknown
from afmfs.cache.command.commands import TABLE, help_text
from afmfs.errors import UnknownCommand

_EPILOG = """\b
Examples:
  afmctl afmfs getstate
  afmctl afmfs flushPending -j sw1 --wait --timeout 60
  afmctl /mnt/sw1 cached src/main.c
  afmctl /var/lib/afmfs/sw1 queue

\b
Exit status: 0 done; 1 failed or refused, with the reason; 2 wrong usage.
Completion: eval "$(_AFMCTL_COMPLETE=bash_source afmctl)" (or zsh_source, fish_source).
"""


class Afmctl(click.Group):
    """The group of all commands, listed by what they are for."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """`afmctl help` needs no device, and a command in its place deserves a better answer."""
        if args[:1] == ["help"]:
            _print_help(args[1:], context)
        if args and args[0] in TABLE and len(args) == 1:
            raise click.UsageError(f"DEVICE comes first, as in: afmctl afmfs {args[0]}", context)
        return super().parse_args(context, args)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in LATER and args[0] not in self.commands:
            raise Failure(later(args[0]))
        if args[0] not in self.commands:
            raise click.UsageError(unknown(TABLE, args[0]), context)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for group in dict.fromkeys(command.group for command in TABLE.values()):
            members = [c for c in TABLE.values() if c.group == group]
            with formatter.section(group):
                formatter.write_dl([(c.syntax, c.summary) for c in members])


def _print_help(names: Sequence[str], context: click.Context) -> None:
    if not names:
        click.echo(context.get_help())
        context.exit(0)
    try:
        click.echo(help_text(names[0]), nl=False)
    except UnknownCommand as error:
        raise click.UsageError(str(error), context) from None
    context.exit(0)


def _complete_device(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    mounts = find.mounts()
    words = dict.fromkeys([*(m.device for m in mounts), *(m.point for m in mounts)])
    found = [CompletionItem(word) for word in words if word.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="dir")]


class _Command(click.Command):
    """A command of the table; its exit status for wrong usage is its own."""

    def __init__(self, command: Command, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._usage = command.usage

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(context, args)
        except click.UsageError as error:
            error.show()
            context.exit(self._usage)


def _click_command(command: Command) -> click.Command:
    """The command of the table as click knows commands."""
    parameters: list[click.Parameter] = [
        click.Option(["-j", "--fileset"], metavar="FILESET", help="where DEVICE has several")
    ]
    for flag, text in command.flags.items():
        parameters.append(click.Option([flag], is_flag=True, help=text))
    for option, (value, text) in command.values.items():
        waits = option == "--timeout" and "--wait" in command.flags
        kind = click.FloatRange(min=0) if waits else None
        many = option in command.repeats
        parameters.append(
            click.Option([option], metavar=value, type=kind, help=text, multiple=many)
        )
    for name in command.parameters:
        word, many = name.strip("[]"), "..." in name
        parameters.append(
            click.Argument(
                [_key(name)],
                metavar=word,
                required=not name.startswith("["),
                nargs=-1 if many else 1,
            )
        )
    examples = "".join(f"  afmctl afmfs {example}\n" for example in command.examples)
    return _Command(
        command,
        command.name,
        params=parameters,
        callback=lambda **values: _invoke(command, values),
        help=f"{command.summary}.\n\n{command.details}",
        epilog=f"\b\nExamples:\n{examples}",
    )


def _key(word: str) -> str:
    """What click calls the value of an option or a parameter."""
    return word.strip("-[].").replace("-", "_").lower()


def _arguments(command: Command, values: dict[str, Any]) -> Iterator[str]:
    for name in command.parameters:
        value = values[_key(name)]
        if isinstance(value, tuple):
            yield from value
        elif value is not None:
            yield value


def _invoke(command: Command, values: dict[str, Any]) -> None:
    context = click.get_current_context()
    if command.name == "help":
        _print_help([name for name in (values["command"],) if name], context.find_root())
    given = {option: values[_key(option)] for option in command.values}
    repeated = {option: given.pop(option) for option in command.repeats}
    timeout = given.pop("--timeout", None) if "--wait" in command.flags else None
    if timeout is not None and not values["wait"]:
        raise click.UsageError("--timeout is for --wait", context)
    parent: dict[str, Any] = context.find_root().params
    request = Request(
        command=command,
        device=parent["device"],
        fileset=values["fileset"] or parent["fileset"],
        arguments=tuple(_arguments(command, values)),
        flags=frozenset(flag for flag in command.flags if values[_key(flag)]),
        values={option: value for option, value in given.items() if value is not None},
        repeated={option: several for option, several in repeated.items() if several},
        timeout=timeout,
    )
    try:
        _run(request, context.obj or Access)  # tests bring an access of their own
    except Failure as failure:
        failure.show()
        context.exit(command.failure)
    except UnknownCommand as error:
        click.UsageError(str(error), context).show()
        context.exit(command.usage)


def _run(request: Request, connect: Callable[[], Access]) -> None:
    try:
        run(request, connect)
    except find.NotFound as error:
        raise Failure(str(error)) from None
    except Hung as error:
        raise Failure(f"{error.filename} does not answer") from None


main = Afmctl(
    name="afmctl",
    params=[
        click.Argument(["device"], shell_complete=_complete_device),
        click.Option(["-j", "--fileset"], metavar="FILESET", help="where DEVICE has several"),
    ],
    commands={name: _click_command(command) for name, command in TABLE.items()},
    help="Watch and steer afmfs filesets.\n\nDEVICE is a device's name, a mount point or, for"
    " getstate, queue, events, cached and check, the cache directory of a fileset that is not"
    " mounted.",
    epilog=_EPILOG,
    subcommand_metavar="COMMAND [-j FILESET] [ARGUMENTS]",
    callback=lambda **values: None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

if __name__ == "__main__":
    sys.exit(main(prog_name="afmctl"))
