"""What is done when the queue has lost entries: the second line behind it.

The counters tell that rows are missing, as they are kept in the transactions that add and retire
them. What the rows said is gone; but each inode has the numbers of its last change and of its last
retired entry, and where they differ all that is cached of it is sent again, by a recovery
(afmfs/model/resync.py). Names that were removed or moved by lost entries stay at home.
"""

from __future__ import annotations

import logging

import trio

from afmfs.cache.evict.usage import may_be_evicted
from afmfs.cache.job.jobs import RECOVERY, Job, put_job, stored_job
from afmfs.cache.store.store import Store
from afmfs.model.entry import Op

log = logging.getLogger(__name__)

STEP = 1024
"""Inodes looked at in one go; other requests are answered between two."""


def check(store: Store) -> int:
    """The entry up to which a job has to make up for what the queue has lost, now or before; 0 if
    it has lost none.

    If any are missing, or the counters are wrong in another way, they are corrected and such a job
    is stored, in one transaction. A job that was under way begins anew, under another number: what
    it has planned, and which names it may believe, is another matter now.
    """
    counters, found = store.counters, _found(store)
    if (counters.queue_length, counters.bytes_pending) == found:
        old = stored_job(store)
        return old.bound if old is not None and old.missing else 0
    missing = counters.queue_length - found[0]
    reason = f"{missing} entries of the queue were lost"
    if missing <= 0:
        reason = "the queue does not hold the entries that were counted"
    log.error("%s: every changed object is compared with home", reason)
    with store:
        count(store)
        return make_up_for(store, max(missing, 1), reason).bound


def _found(store: Store) -> tuple[int, int]:
    """Entries in the queue, and bytes that they cover."""
    rows, data = store.execute(
        'SELECT count(*), total(CASE op WHEN ? THEN "end" - start END) FROM queue', (Op.WRITE,)
    ).fetchone()
    return rows, int(data)


def count(store: Store) -> None:
    """Count the queue anew, in the caller's transaction."""
    store.counters.queue_length, store.counters.bytes_pending = _found(store)


def make_up_for(store: Store, missing: int, reason: str) -> Job:
    """Store a job that makes up for lost entries, in the caller's transaction."""
    old = stored_job(store)
    return put_job(
        store,
        old.kind if old else RECOVERY,
        bound=store.entries.last,
        manual=old is not None and old.manual,
        keep_uncached=old is not None and old.keep_uncached,
        reason=f"{old.reason}; {reason}" if old and old.reason else reason,
        doubt=old.doubt if old else 0,
        missing=missing + (old.missing if old else 0),
    )


async def retire(store: Store, bound: int) -> None:
    """The job is done: what lost entries up to `bound` have changed is at home, and dirty no more.

    In steps; done again after a crash, it does the rest.
    """
    waiting = {
        ino
        for row in store.execute("SELECT ino, ino2 FROM queue WHERE id<=?", (bound,))
        for ino in row
    }
    last = 0
    while rows := store.execute(
        "SELECT ino, changed>retired AND changed<=? FROM inode WHERE ino>? ORDER BY ino LIMIT ?",
        (bound, last, STEP),
    ).fetchall():
        last = rows[-1][0]
        lost = [ino for ino, is_lost in rows if is_lost and ino not in waiting]
        if lost:
            with store:
                for ino in lost:
                    inode = store.inode(ino)
                    if inode is not None and inode.retired < inode.changed <= bound:
                        store.save(inode, retired=inode.changed)
                        may_be_evicted(store, [inode])
        await trio.lowlevel.checkpoint()
