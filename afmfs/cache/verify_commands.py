"""Comparing the cache with home, changing nothing."""

from __future__ import annotations

from afmfs.cache.command_line import Command

COMMANDS: tuple[Command, ...] = ()
