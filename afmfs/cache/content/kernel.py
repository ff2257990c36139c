"""What the kernel keeps of a file, forgotten where the content changed under it.

The kernel may wait, while it forgets pages, for requests that the event loop is answering. So it is
told from a thread, with no lock held and no request waiting for it but for a bounded time.
"""

from __future__ import annotations

from typing import Protocol

import trio


class Invalidator(Protocol):
    """The kernel's caches. To be called from a thread, with no lock held."""

    def invalidate_inode(self, ino: int) -> None: ...
    def invalidate_entry(self, parent: int, name: bytes) -> None: ...
    def extend(self, ino: int, offset: int, data: bytes) -> None: ...


class KernelPages:
    """Inodes whose pages and attributes the kernel is to forget, and names of which it may
    believe that they don't exist."""

    def __init__(self) -> None:
        self.invalidator: Invalidator | None = None
        self._inos: dict[int, None] = {}
        self._entries: dict[tuple[int, bytes], None] = {}
        self._wanted, self._told = trio.Event(), trio.Event()
        self._asked = self._done = 0

    def forget(self, ino: int) -> None:
        """Soon; after the transaction that changed the file."""
        self._inos[ino] = None
        self._asked += 1
        self._wanted.set()

    def forget_entry(self, parent: int, name: bytes) -> None:
        """Soon; after the transaction that brought the name."""
        self._entries[parent, name] = None
        self._asked += 1
        self._wanted.set()

    async def settle(self, within_s: float) -> None:
        """Until what was asked for is forgotten, or the time is up."""
        asked = self._asked
        with trio.move_on_after(within_s):
            while self._done < asked:
                await self._told.wait()

    async def extend(self, ino: int, offset: int, data: bytes) -> None:
        """Have the kernel know that the file reaches to the end of these bytes of it."""
        if self.invalidator is not None:
            await trio.to_thread.run_sync(
                self.invalidator.extend, ino, offset, data, abandon_on_cancel=True
            )

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            asked, inos, entries = self._asked, list(self._inos), list(self._entries)
            self._inos.clear()
            self._entries.clear()
            self._wanted = trio.Event()
            await trio.to_thread.run_sync(self._tell, inos, entries, abandon_on_cancel=True)
            self._done = asked
            self._told.set()
            self._told = trio.Event()

    def _tell(self, inos: list[int], entries: list[tuple[int, bytes]]) -> None:
        if self.invalidator is None:
            return
        for parent, name in entries:
            self.invalidator.invalidate_entry(parent, name)
        for ino in inos:
            self.invalidator.invalidate_inode(ino)
