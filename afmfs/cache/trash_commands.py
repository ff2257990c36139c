"""What a resync moved aside at home: listed, brought back, thrown away."""

from __future__ import annotations

from afmfs.cache.command_line import Command

COMMANDS: tuple[Command, ...] = ()
