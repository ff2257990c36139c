"""Where the kernel believes files to end, put right where a version of home's was adopted.

What is appended goes to where the kernel believes the end to be: into the middle of what somebody
wrote at home, once that was adopted and is longer. Under its write-back cache it takes a size from
nobody but itself, and telling it to forget the inode does not change that; without, an open file
still goes by the old size until its attributes are next asked for. So

* a file that nobody has open becomes another one in the kernel's eyes, by a new generation of its
  inode. Who opens the old one is sent to look the name up again (ESTALE, which the kernel keeps to
  itself). Without the write-back cache forgetting the attributes is enough;
* of one that is open the kernel learns that it is longer, by its last byte. Until it knows, nothing
  is written over what is new at home;
* one that is open, and shorter, only becomes another at its last close. All pages are sent before
  that: nothing that was written is lost with the old one.
"""

from __future__ import annotations

import errno
import logging
import math
import sqlite3
from collections.abc import Awaitable, Callable

import trio

from afmfs.cache.content.kernel import KernelPages
from afmfs.cache.names.namespace import Namespace, failed
from afmfs.cache.store.store import Store

log = logging.getLogger(__name__)

AGAIN_S = 1.0
"""Between two attempts to read the last byte, while home can't be asked."""


class KernelSizes:
    """`keeps`: whether the kernel keeps sizes to itself, that is, has its write-back cache."""

    def __init__(
        self,
        store: Store,
        namespace: Namespace,
        kernel: KernelPages,
        is_open: Callable[[int], bool],
        read: Callable[[int, int, int], Awaitable[bytes | bytearray]],
        *,
        keeps: bool,
    ) -> None:
        self._store, self._namespace, self._kernel = store, namespace, kernel
        self._is_open, self._read, self._keeps = is_open, read, keeps
        self._generations: dict[int, int] = {}
        self._old: set[int] = set()  # the kernel may still have the former generation
        self._at_close: set[int] = set()
        self.doubtful: dict[int, tuple[int, int]] = {}  # inode -> bytes not to be written yet
        self._wanted = trio.Event()

    def generation(self, ino: int) -> int:
        """To be told with every entry."""
        return self._generations.get(ino, 0)

    # -- what happens to a file ------------------------------------------------------------------

    def adopted(self, ino: int, end: int) -> None:
        """Home's version is ours now, and the kernel is about to forget the other one. The file
        ended at `end` before. After the transaction."""
        inode = self._store.inode(ino)
        if inode is None:
            return
        if not self._is_open(ino):
            self._renew(ino)
            return
        self._at_close.add(ino)
        # Written back are whole pages, and they hold what was around the bytes that were written.
        first = 0 if self._keeps else min(end, self.doubtful.get(ino, (end, 0))[0])
        if inode.size > first:
            self.doubtful[ino] = first, inode.size
            self._wanted.set()

    def looked_up(self, ino: int) -> None:
        """The kernel gets the present generation."""
        if self._old:
            self._old.discard(ino)

    def check_open(self, ino: int) -> None:
        """ESTALE if the file may be opened under a former generation."""
        if ino in self._old:
            raise failed(errno.ESTALE)

    def check_write(self, ino: int, start: int, end: int) -> None:
        """EIO for what the kernel puts where it can't know yet that home has other bytes."""
        first, last = self.doubtful.get(ino, (0, 0))
        if start < last and end > first:
            log.warning(
                "inode %d: [%d, %d) was written before the kernel knew of home's version, which"
                " has bytes there: refused", ino, start, end,
            )  # fmt: skip
            raise failed(errno.EIO)

    def resized(self, ino: int, size: int) -> None:
        """What is beyond was given up by who set the size."""
        if ino in self.doubtful:
            first, last = self.doubtful[ino]
            self.doubtful[ino] = first, min(last, size)

    def closed(self, ino: int) -> None:
        """Nobody has the file open any more."""
        self.doubtful.pop(ino, None)
        if ino in self._at_close:
            self._at_close.discard(ino)
            self._renew(ino)

    def _renew(self, ino: int) -> None:
        if not self._keeps:
            return  # it believes what it is told at the next look
        self._generations[ino] = self.generation(ino) + 1
        self._old.add(ino)
        for parent, name in self._namespace.places(ino):
            self._kernel.forget_entry(parent, name)

    # -- telling the kernel that open files are longer -------------------------------------------

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            for ino in list(self.doubtful):
                await self._tell(ino)
            if self.doubtful:
                await trio.sleep(AGAIN_S)
                self._wanted.set()

    async def _tell(self, ino: int) -> None:
        """Forgotten before, it has no older page in which the byte would come; forgotten after, no
        page that was begun by the old size is left to be written."""
        known = self.doubtful.get(ino)
        await self._kernel.settle(math.inf)
        try:
            last = await self._last_byte(ino)
        except (OSError, sqlite3.Error) as exc:
            log.debug("inode %d: where it ends can't be told: %s", ino, exc)
            return
        if last:
            await self._kernel.extend(ino, *last)
            self._kernel.forget(ino)
            await self._kernel.settle(math.inf)
        if self.doubtful.get(ino) == known:  # else another version or size has come meanwhile
            self.doubtful.pop(ino, None)

    async def _last_byte(self, ino: int) -> tuple[int, bytes] | None:
        """It has to be the right one: for a moment it may be seen."""
        inode = self._store.inode(ino)
        if inode is None or not inode.size or ino not in self.doubtful:
            return None
        at = inode.size - 1
        byte = bytes(await self._read(ino, at, 1))
        return (at, byte) if byte else None
