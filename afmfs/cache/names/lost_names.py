"""Names that a repair could not save, or that an old copy never had: home is read once more.

A directory is read once, so what home has under such a name would never be seen here. After such a
repair, and where a cache takes over its home from a newer copy of itself, home is asked what each
directory has, and what has no name here enters. Only while nothing is pending are home's names
those of the cache: else what is yet to be removed or renamed there would come back. What lost
entries had removed or renamed does come back.
"""

from __future__ import annotations

import logging

import trio

from afmfs.cache.content.kernel import KernelPages
from afmfs.cache.home.kept import until_kept
from afmfs.cache.home.link import GatewayLink
from afmfs.cache.names.listing import ROW, Lister, steps
from afmfs.cache.names.namespace import NAMES_LOST, Namespace
from afmfs.cache.store.inode import LISTED
from afmfs.cache.store.store import Store
from afmfs.gateway.protocol import close_all
from afmfs.model.entry import UNLINKED
from afmfs.model.states import Link

log = logging.getLogger(__name__)

PACE_S = 1.0
"""So often it is looked whether anything is still pending."""

_NEXT = (
    "SELECT ino FROM inode WHERE ino>? AND ino<>? AND listed=? AND mode & 61440 = 16384"
    " ORDER BY ino LIMIT 1"
)


class LostNames:
    def __init__(
        self,
        store: Store,
        namespace: Namespace,
        lister: Lister,
        link: GatewayLink,
        kernel: KernelPages,
        *,
        takes_over: bool,
    ) -> None:
        self._store, self._namespace, self._lister = store, namespace, lister
        self._link, self._kernel = link, kernel
        self._takes_over = takes_over
        self._last = 0  # directory
        self._found = 0

    async def run(self) -> None:
        """To be started with the mount."""
        if self._takes_over or self._store.get(NAMES_LOST):
            await until_kept(self._read_all, "names that were lost can't be taken in yet")

    async def _read_all(self) -> None:
        """After a crash all of it is done again: what is known by then does not enter twice."""
        with self._store as store:
            store.put(NAMES_LOST, 1)
        while row := self._store.execute(_NEXT, (self._last, UNLINKED, LISTED)).fetchone():
            if await self._read(row[0]):
                self._last = row[0]
            else:
                await trio.sleep(PACE_S)
        with self._store as store:
            store.put(NAMES_LOST, 0)
        log.info("%d names that were lost have been read from home again", self._found)

    async def _read(self, ino: int) -> bool:
        """Whether all names of the directory at home are known."""
        last = self._store.entries.last
        if not self._is_quiet():
            return False
        try:
            reply, fds = await self._link.request("list", ino=ino)
        except OSError:
            return False  # home is away
        try:
            if reply["errno"]:  # home has no such directory: a resync is to put that right
                return self._link.home.link is Link.UP
            return not reply["count"] or await self._enter(ino, fds[0], last)
        finally:
            close_all(fds)

    def _is_quiet(self) -> bool:
        store = self._store
        return (
            self._link.home.link is Link.UP
            and not store.counters.queue_length
            and not store.get("job")
            and not store.get("needs_resync")
        )

    async def _enter(self, ino: int, fd: int, last: int) -> bool:
        """Whether all entered: not if anything was changed after entry `last`, as what home has
        told may have been removed or renamed since."""
        for step in steps(fd):
            directory = self._store.inode(ino)
            if directory is None or self._store.entries.last != last:
                return directory is None
            new = [row for row in step if self._namespace.find(ino, row[0]) is None]
            if new:
                self._store.disk.enter(size=ROW * len(new))
                with self._store as store:
                    below = sum(self._lister.enter(directory, row) for row in new)
                    store.save(directory, nlink=directory.nlink + below)
                self._found += len(new)
                for row in new:
                    self._kernel.forget_entry(ino, row[0])
                self._kernel.forget(ino)
            await trio.lowlevel.checkpoint()
        return True
