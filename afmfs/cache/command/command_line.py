"""Command lines: what a command looks like, and how a line is taken apart.

A command is one line: its name and its arguments, quoted as a shell quotes; names that are not
UTF-8 travel as surrogates. Pure but for the handlers that a table brings along.
"""

from __future__ import annotations

import difflib
import errno
import math
import os
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from afmfs.cache.report.event import Event
from afmfs.cache.report.status import CachedReport, Status
from afmfs.cache.store.inode import Inode
from afmfs.errors import AfmError, UnknownCommand
from afmfs.model.entry import ROOT
from afmfs.model.states import State

if TYPE_CHECKING:
    from afmfs.cache.callback.callbacks import Callbacks
    from afmfs.cache.evict.evict import Evictions
    from afmfs.cache.home.trash import TrashDesk


class Steered(Protocol):
    """What the commands ask of a fileset."""

    @property
    def mount_point(self) -> str: ...  # absolute; '' where there is no mount

    @property
    def callbacks(self) -> Callbacks: ...

    @property
    def trash(self) -> TrashDesk: ...

    def status(self) -> Status: ...
    def touch(self) -> None: ...  # activates an Inactive fileset
    def flush_pending(self) -> int: ...  # the number through which it flushes
    def stop(self) -> None: ...
    def start(self) -> None: ...
    def resume_requeued(self) -> int: ...  # entries that are tried again
    @property
    def evictions(self) -> Evictions: ...

    async def resync(self, *, keep_uncached: bool) -> None: ...  # durable on return
    async def failover(self, target: str, *, target_only: bool) -> None: ...  # durable on return
    def start_report(self, kind: str, **options: Any) -> int: ...  # its number
    def start_check(self) -> int: ...  # the number of the report
    def cancel_report(self) -> int: ...  # its number; Refused if none is being made
    def set_auto_resync(self, *, on: bool) -> None: ...  # durable on return
    async def drop(self, number: int) -> None: ...  # Refused if there is none, or it is under way
    async def lookup(self, parent: int, name: bytes) -> Inode: ...
    def cached(self, ino: int) -> CachedReport: ...
    def events(self) -> Sequence[Event]: ...
    def queue_lines(self) -> AsyncGenerator[bytes, None]: ...


@dataclass(frozen=True, slots=True)
class Words:
    """A command line, taken apart."""

    command: Command
    arguments: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    values: Mapping[str, str] = field(default_factory=dict)
    repeated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


Handler = Callable[[Steered, Words], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    name: str
    summary: str
    group: str
    handler: Handler
    parameters: tuple[str, ...] = ()  # positional arguments, all required unless in brackets; the
    # last may be given several times if it ends with "..."
    flags: Mapping[str, str] = field(default_factory=dict)  # option without value: what it does
    values: Mapping[str, tuple[str, str]] = field(
        default_factory=dict
    )  # option: value's name, help
    repeats: frozenset[str] = frozenset()  # those of `values` that may be given several times
    details: str = ""
    examples: tuple[str, ...] = ()  # as afmctl takes them, after the device
    activates: bool = True
    unmounted: bool = False  # afmctl can answer it from a cache directory
    modes: frozenset[str] | None = None  # None: all
    not_in: frozenset[State] = frozenset()  # states in which it is refused
    needs_home: bool = False
    failure: int = 1  # exit status of afmctl where it fails, or is refused
    usage: int = 2  # and where the words make no such command
    resyncs: bool = False  # in NeedsResync it is a request that starts the automatic resync

    @property
    def syntax(self) -> str:
        options = [f"[{flag}]" for flag in self.flags]
        options += [
            f"[{option} {value}]{'...' if option in self.repeats else ''}"
            for option, (value, _) in self.values.items()
        ]
        return " ".join([self.name, *options, *self.parameters])

    @property
    def arity(self) -> tuple[int, float]:
        """Least and greatest number of arguments."""
        least = sum(not p.startswith("[") for p in self.parameters)
        many = any(p.rstrip("]").endswith("...") for p in self.parameters)
        return least, math.inf if many else len(self.parameters)


Table = Mapping[str, Command]

WATCH, STEER, REPAIR, HELP = "Watch", "Steer", "Repair", "Help"
"""The groups in which commands are listed."""

JSON = {"--json": "JSON"}
"""The flag of commands whose output a script may read."""

TIMEOUT = {"--timeout": ("S", "with --wait: give up after S seconds, with status 1")}
"""The value of commands that can be waited for. afmctl waits: here it is only checked."""


# -- parsing -------------------------------------------------------------------------------------


def parse(table: Table, line: str) -> Words:
    """Take a command line apart. UnknownCommand if it makes none."""
    try:
        name, *rest = shlex.split(line) or [""]
    except ValueError as error:
        raise UnknownCommand(f"can't read the command: {error}") from None
    return _sort(find(table, name), rest)


def find(table: Table, name: str) -> Command:
    """The command of that name. UnknownCommand, with close matches, if there is none."""
    command = table.get(name)
    if command is None and name in LATER:
        raise AfmError(later(name), errno=errno.EOPNOTSUPP)
    if command is None:
        raise UnknownCommand(unknown(table, name))
    return command


LATER = frozenset(
    {"expire", "unexpire", "failback", "prefetch", "checkDirty", "checkUncached"}
    | {"setlocal", "resetlocal"}
)
"""Words of AFM that mean nothing here yet."""


def later(name: str) -> str:
    """What to say of one of them."""
    return f"{name} is not supported yet"


def unknown(table: Table, name: str) -> str:
    """What to say of a name that is no command."""
    by_lower = {n.lower(): n for n in table}
    close = [by_lower[n] for n in difflib.get_close_matches(name.lower(), by_lower)]
    if not name:
        return "no command; `help` lists them"
    hint = f"did you mean {' or '.join(close)}?" if close else "`help` lists the commands"
    return f"unknown command {name!r}; {hint}"


def _sort(command: Command, rest: Sequence[str]) -> Words:
    """Sort words into options and arguments; `--` ends the options."""
    arguments: list[str] = []
    flags: set[str] = set()
    values: dict[str, str] = {}
    repeated: dict[str, tuple[str, ...]] = {}
    words, literal = iter(rest), False
    for word in words:
        option, equals, value = word.partition("=")
        if literal or not word.startswith("--"):
            arguments.append(word)
        elif word == "--":
            literal = True
        elif word in command.flags:
            flags.add(word)
        elif option in command.values:
            value = value if equals else next(words, "")
            if option in command.repeats and value:
                repeated[option] = (*repeated.get(option, ()), value)
            elif option in values:
                raise UnknownCommand(f"{option} is given twice; syntax: {command.syntax}")
            else:
                values[option] = value
        else:
            raise UnknownCommand(f"unknown option {word}; syntax: {command.syntax}")
    least, most = command.arity
    if not least <= len(arguments) <= most or not all(values.values()):
        raise UnknownCommand(f"wrong arguments; syntax: {command.syntax}")
    return Words(command, tuple(arguments), frozenset(flags), values, repeated)


def number(text: str, what: str) -> int:
    """A positive number among the arguments."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UnknownCommand(f"{what} is a number, not {text!r}")
    return int(text)


def check_timeout(words: Words) -> None:
    if "--timeout" in words.values:
        seconds(words.values["--timeout"])


def seconds(text: str) -> float:
    """The value of --timeout."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e9:
        raise UnknownCommand(f"--timeout takes seconds, not {text!r}")
    return value


# -- paths ---------------------------------------------------------------------------------------


def relative(path: str, mount_point: str) -> list[str]:
    """The names that lead from the fileset's root to `path`, `.` and `..` resolved as written.

    `path` is absolute below the mount point, or relative to the root. It may not lead out of it.
    """
    inside = os.path.normpath(path)
    if path.startswith("/"):
        base = os.path.normpath(mount_point) if mount_point else ""
        if base != "/" and inside != base and not inside.startswith(base + "/"):
            raise UnknownCommand(f"{path} is not below the mount point {mount_point}")
        inside = inside[len(base) :]
    names = [name for name in inside.split("/") if name not in ("", ".")]
    if ".." in names:
        raise UnknownCommand(f"{path} leads out of the fileset")
    return names


async def resolve(fileset: Steered, path: str) -> int:
    """The inode at `path`, following no symbolic link. AfmError with the errno of `lookup`."""
    if not path:
        raise AfmError("an empty path names nothing", errno=errno.ENOENT)
    ino = ROOT
    try:
        for name in relative(path, fileset.mount_point):
            ino = (await fileset.lookup(ino, os.fsencode(name))).ino
    except OSError as error:
        code = error.errno or errno.EIO
        raise AfmError(f"{path}: {os.strerror(code)}", errno=code) from error
    return ino
