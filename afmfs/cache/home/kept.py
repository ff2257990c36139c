"""What has to be kept here before anything goes on, though the disk may not take it for long."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from afmfs.errors import Damaged

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S = 1.0


async def until_kept(call: Callable[[], Awaitable[T]], trouble: str) -> T:
    """Do it until it is done: a disk that is full has room again some time. `trouble` is said once.
    What is damaged stays undone till it is repaired, and the rest goes on."""
    said = False
    while True:
        try:
            return await call()
        except (OSError, sqlite3.Error, Damaged) as exc:
            if not said:
                log.error("%s: %s", trouble, exc)
            said = True
            await trio.sleep(RETRY_S)
