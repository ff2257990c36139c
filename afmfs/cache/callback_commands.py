"""Programs that run when something happens."""

from __future__ import annotations

from afmfs.cache.command_line import Command

COMMANDS: tuple[Command, ...] = ()
