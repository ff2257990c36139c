"""Freeing cached blocks that home has as well."""

from __future__ import annotations

from afmfs.cache.command_line import Command

COMMANDS: tuple[Command, ...] = ()
