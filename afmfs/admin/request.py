"""What afmctl was asked to do, and how a mount is asked: command, reply, refusal."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import click

from afmfs.admin.access import Access, Reply
from afmfs.admin.find import Mount
from afmfs.cache.command.command_line import Command, relative
from afmfs.errors import UnknownCommand


class Failure(click.ClickException):
    """The command failed or was refused: exit status 1."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        emit(f"afmctl: {self.message}\n", sys.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    command: Command
    device: str
    fileset: str | None = None
    arguments: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    values: Mapping[str, str] = field(default_factory=dict)
    repeated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timeout: float | None = None  # seconds, of --wait

    @property
    def as_json(self) -> bool:
        return "--json" in self.flags


def emit(text: str, stream: Any = None) -> None:
    """Print text in which surrogates stand for bytes. A terminal gets nothing that it would obey:
    anybody may name a file at home."""
    stream = stream or sys.stdout
    if stream.isatty():
        text = visible(text)
    stream.flush()
    stream.buffer.write(os.fsencode(text))
    stream.flush()


def stream(chunks: Iterable[bytes]) -> None:
    """Print bytes as they are."""
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


def visible(text: str) -> str:
    """Text with escapes for what can't be seen."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(c: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(c))


def control(request: Request, mount: Mount, access: Access) -> str:
    """The text of the reply to a command. Refusal or UnknownCommand if it is refused."""
    arguments = request.arguments
    if request.command.name == "cached":
        arguments = (inside(arguments[0], mount, access),)
    options = sorted(request.flags - {"--wait"})
    options += [f"{option}={value}" for option, value in request.values.items()]
    for option, several in request.repeated.items():
        options += [f"{option}={value}" for value in several]
    line = shlex.join([request.command.name, *options, "--", *arguments])
    if not arguments:
        line = shlex.join([request.command.name, *options])
    reply = access.command(mount.path("control"), line + "\n")
    if reply.errno == errno.EINVAL:  # the words make no command: wrong usage
        raise UnknownCommand(reply.text.strip() or os.strerror(reply.errno))
    if reply.errno:
        raise Refusal(reply, mount)
    return reply.text


class Refusal(Failure):
    """The mount refused the command."""

    def __init__(self, reply: Reply, mount: Mount) -> None:
        self.errno = reply.errno
        super().__init__(reply.text.strip() or f"{mount.point}: {os.strerror(reply.errno)}")


def inside(path: str, mount: Mount, access: Access) -> str:
    """PATH relative to the fileset's root: the mount may know itself by another mount point."""
    try:
        names = relative(path, mount.point)
    except UnknownCommand:
        head, tail = os.path.split(path.rstrip("/"))
        names = relative(os.path.join(access.realpath(head), tail), mount.point)
    return "/".join(names) or "."
