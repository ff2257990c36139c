"""Resync and failover: what makes home agree with the cache again."""

from __future__ import annotations

from afmfs.cache.command_line import Command

COMMANDS: tuple[Command, ...] = ()
