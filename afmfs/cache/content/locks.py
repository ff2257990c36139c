"""One lock for each inode that an operation holds over an await; none for all others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class InodeLocks:
    """Held only where an operation awaits between reading and changing an inode."""

    def __init__(self) -> None:
        self._locks: dict[int, trio.Lock] = {}
        self._users: dict[int, int] = {}

    def __contains__(self, ino: int) -> bool:
        """Whether an operation that does not await has to take the lock all the same."""
        return ino in self._locks

    @asynccontextmanager
    async def hold(self, ino: int) -> AsyncIterator[None]:
        lock = self._locks.setdefault(ino, trio.Lock())
        self._users[ino] = self._users.get(ino, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[ino] -= 1
            if not self._users[ino]:
                del self._users[ino], self._locks[ino]
