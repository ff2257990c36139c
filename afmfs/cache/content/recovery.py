"""What is done with a cache before it is served, in this order (crash-rules.md, "Recovery").

0. The queue is compared with its counters (`lost_entries`).
1. Outcomes that the gateway recorded are taken over.
2. After a stop that may have lost writes, what was marked valid since the last durable point is no
   longer believed, and what may have been overwritten since is sent again. Steps 1 and 2 are one
   transaction (recovery-is-one): power lost between them would leave a changed block that counts
   as clean.
3. Numbers go on beyond every number that may have been used (`Numbers`, in the store).
4. Half-read directories and inodes without a name are cleared away.

What was in flight is the gateway's to settle, when home can be reached.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afmfs.cache.content import leftovers
from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.durable import syncfs
from afmfs.cache.content.validity import Validity
from afmfs.cache.home import lost_entries
from afmfs.cache.home.retire import Retirement
from afmfs.cache.names.listing import discard
from afmfs.cache.names.namespace import Namespace
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store, must
from afmfs.model import ranges
from afmfs.model.entry import IN_PLACE, UNLINKED, Op
from afmfs.model.ranges import Ranges

log = logging.getLogger(__name__)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def mount_id(path: Path) -> int:
    """A number that no two mounts share (statx's unique mount id), 0 where the kernel has none.

    A cache whose disk was gone and came back is on another mount, without a reboot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "statx"):
        return 0
    at_fdcwd, mnt_id_unique = -100, 0x4000
    buffer = (ctypes.c_uint8 * 256)()
    if libc.statx(at_fdcwd, os.fsencode(path), 0, mnt_id_unique, ctypes.byref(buffer)):
        return 0
    mask = int.from_bytes(buffer[0:4], "little")
    return int.from_bytes(buffer[144:152], "little") if mask & mnt_id_unique else 0


def may_have_lost_writes(setting: Callable[..., Any], cache: Path) -> bool:
    """Whether the last stop may have lost what was written after the last durable point.

    Not so after a clean stop, nor after a kill on the same boot and mount: the page cache survives.
    """
    if setting("clean", 0) or setting("boot_id") is None:
        return False
    here = (boot_id(), mount_id(cache))
    return here[1] == 0 or (setting("boot_id"), setting("mount_id")) != here


class Recovery:
    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        validity: Validity,
        namespace: Namespace,
        retirement: Retirement,
    ) -> None:
        self._store, self._blobs, self._validity = store, blobs, validity
        self._namespace, self._retirement = namespace, retirement

    def run(self) -> bool:
        """Make the cache fit to be served; whether the last stop was unclean. Durable on return."""
        store = self._store
        unclean = not store.get("clean", 0) and store.get("boot_id") is not None
        lost = may_have_lost_writes(store.get, store.path.parent)
        # Before anything is retired, which the counters follow.
        self._retirement.unsure = lost_entries.check(store)
        sound = self._retirement.is_sound()  # if not, the gateway sets it aside
        if lost:
            store.entries.reserve()  # for what is sent again
        with store:
            overwritten = self._overwritten() if lost else set()
            while sound and self._take_over_some():
                pass
            if lost:
                log.warning("the last stop may have lost writes: what was cached since the last"
                            " durable point is fetched again")  # fmt: skip
                self._disbelieve(overwritten)
            pool = leftovers.pool_of(store)
            if unclean:  # numbers beyond are not used again; lost rows may have had any of them
                stop = store.entries.last + 1 if lost else pool.stop
                leftovers.note(store, range(pool.start, stop))
            leftovers.begin(store)
            store.put("clean", 0)
            store.put("boot_id", boot_id())
            store.put("mount_id", mount_id(store.path.parent))
        self._blobs.discard_empty(pool)
        # Bytes that a kill left undurable are now built upon: a blob that is cut on its first
        # opening must not meet an older row after a power loss.
        syncfs(self._blobs.root_descriptor)
        store.sync_wal()
        store.entries.reserve()
        store.inos.reserve()
        self._clear_half_read()
        self._reap_nameless()  # queues removals, which need numbers
        store.sync_wal()
        return unclean

    def _take_over_some(self) -> bool:
        outcomes = self._retirement.read()
        if outcomes:
            self._retirement.retire(outcomes)
            self._retirement.seq = outcomes[-1][0]
        return bool(outcomes)

    def _overwritten(self) -> set[int]:
        """Inodes with an in-place entry, judged before outcomes are taken over
        (recovery-takes-over)."""
        rows = self._store.execute(
            "SELECT DISTINCT ino FROM queue WHERE op=? AND flags & ?", (Op.WRITE, IN_PLACE)
        )
        return {ino for (ino,) in rows}

    def _disbelieve(self, overwritten: set[int]) -> None:
        """What was marked since the last durable point, piece by piece: what else the files have
        was durable before (clean-drop-per-block)."""
        store, durable = self._store, int(self._store.get("durable_entry", 0))
        fetched = store.execute("SELECT ino, start, end FROM fresh").fetchall()
        for ino, start, end in fetched:
            self._drop(ino, start, end)  # drop-clean
        store.execute("DELETE FROM fresh")
        rows = store.execute(
            'SELECT ino, start, "end", id FROM queue WHERE op=? AND id>? AND NOT flags & ?'
            " ORDER BY id",
            (Op.WRITE, durable, IN_PLACE),
        ).fetchall()
        for ino, start, end, number in rows:  # drop-fresh-dirty
            inode = store.inode(ino)
            if inode and number > inode.synced:
                self._drop(ino, start, min(end, inode.home_valid))
                self._zero(inode, max(start, inode.home_valid), end)
        changed = self._changed(durable)
        unsure, unheld = self._retirement.unsure, self._unheld()
        for ino, dirty in self._dirty(overwritten | changed).items():
            if ino in overwritten and ino not in unheld:
                self._send_again(ino, dirty)
            if not unsure and ino not in unheld:  # else `home_valid` does not say what home has
                self._drop_beyond(ino, dirty)
        self._restore(changed | {ino for ino, *_ in fetched}, durable)

    def _changed(self, durable: int) -> set[int]:
        """Inodes whose content was changed since the last durable point."""
        rows = self._store.execute(
            "SELECT DISTINCT ino FROM queue WHERE id>? AND op IN (?,?)",
            (durable, Op.WRITE, Op.SIZE),
        )
        return {ino for (ino,) in rows}

    def _unheld(self) -> set[int]:
        """Inodes of whose content the cache has the only copy, for good."""
        rows = self._store.execute("SELECT ino FROM unrepresentable WHERE op<=?", (int(Op.SIZE),))
        return {ino for (ino,) in rows}

    def _restore(self, inos: set[int], durable: int) -> None:
        """Blobs that were made or grew since the last durable point may have lost that; all else
        that is missing was damaged. What counts as valid in them is zeros."""
        for inode in filter(None, map(self._store.inode, inos)):
            if inode.is_file and inode.gen:
                self._blobs.restore(inode, may_be_missing=inode.gen > durable)

    def _dirty(self, inos: set[int]) -> dict[int, Ranges]:
        """The bytes that pending entries cover, of each of `inos`."""
        found: dict[int, list[tuple[int, int]]] = {ino: [] for ino in inos}
        if inos:
            for ino, start, end in self._store.execute(
                'SELECT ino, start, "end" FROM queue WHERE op=?', (Op.WRITE,)
            ):
                if ino in inos:
                    found[ino].append((start, end))
        return {ino: ranges.union(pieces) for ino, pieces in found.items()}

    def _drop(self, ino: int, start: int, end: int) -> None:
        inode = self._store.inode(ino)
        if inode is None or start >= min(end, inode.size):
            return
        before = self._validity.cached_blocks(inode)[1]
        self._validity.unmark(inode, start, min(end, inode.size))
        self._store.counters.cached_bytes += self._validity.cached_blocks(inode)[1] - before

    def _zero(self, inode: Inode, start: int, end: int) -> None:
        """Dirty bytes beyond `home_valid` that may be lost become zeros, valid and dirty
        (recovery-zeros): what home may have got of them is overwritten by the entry that stays, and
        nothing from before a truncation shows. A generation that is younger than the last durable
        point never held anything older: its bytes are what was written, or zeros."""
        if inode.gen > int(self._store.get("durable_entry", 0)):
            return
        end = min(end, inode.size)
        fd = self._blobs.descriptor(inode) if start < end else None
        if fd is not None:
            length = os.fstat(fd).st_size
            for low in range(start, min(end, length), 1 << 20):
                os.pwrite(fd, bytes(min(end, length, low + (1 << 20)) - low), low)

    def _send_again(self, ino: int, dirty: Ranges) -> None:
        """A file with an in-place entry may have been overwritten where no entry tells
        (in-place-mark): what counts as clean is sent to home. The blob has what was written there
        last, or before, and both are this file's. Fetched again instead, it would be lost where
        home is away, is a new one that does not have it yet, or was changed."""
        inode = self._store.inode(ino)
        if inode is None or not inode.is_file or not inode.nlink:
            return
        for start, end in ranges.gaps(dirty, 0, min(inode.size, inode.home_valid)):
            for low, high in self._validity.valid(inode, start, end):
                number = self._store.append(Op.WRITE, inode, start=low, end=high, flags=IN_PLACE)
                self._store.save(inode, changed=number)

    def _drop_beyond(self, ino: int, dirty: Ranges) -> None:
        """Beyond `home_valid`, what nothing pending covers is zeros at home. The blob may hold what
        was written there by an entry that is lost, or cut off by a truncation that the blob has
        lost: it is not believed, and so reads as zeros here too."""
        inode = self._store.inode(ino)
        if inode is not None and inode.is_file:
            for start, end in ranges.gaps(dirty, inode.home_valid, inode.size):
                self._drop(ino, start, end)

    def _clear_half_read(self) -> None:
        rows = self._store.execute("SELECT ino FROM inode WHERE listed=1").fetchall()
        for (ino,) in rows:
            discard(self._store, must(self._store.inode(ino), ino))

    def _reap_nameless(self) -> None:
        """What was unlinked while open, and never closed."""
        rows = self._store.execute(
            "SELECT ino FROM inode WHERE nlink=0 UNION SELECT ino FROM dentry WHERE parent=?",
            (UNLINKED,),
        ).fetchall()
        for (ino,) in rows:
            self._namespace.reap(must(self._store.inode(ino), ino))
