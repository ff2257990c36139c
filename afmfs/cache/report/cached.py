"""How much of one object is cached, from its row and its block map."""

from __future__ import annotations

from collections.abc import Sequence

from afmfs.cache.content.validity import Validity
from afmfs.cache.home.nulls import Nulled
from afmfs.cache.report.status import NULLED_SHOWN, CachedReport, cached_state
from afmfs.cache.store.inode import LISTED, UNREAD, Inode
from afmfs.model import blocks


def cached_report(
    inode: Inode,
    validity: Validity,
    *,
    dirty: bool,
    lost: int | None,
    nulled: Sequence[Nulled],
) -> CachedReport:
    """The report on `inode`. `dirty`: a pending entry concerns it; `lost`: the resync that found
    that home does not have it any more.

    A directory counts as one block, cached once all its names have been read. Everything else but a
    regular file is cached by being known.
    """
    if inode.is_file:
        total = blocks.count(inode.size, validity.block)
        have, have_bytes = validity.cached_blocks(inode)
        state, size = cached_state(have, total), inode.size
        if state == "uncached" and validity.valid(inode, 0, size):
            state = "partial"  # some bytes of a block, no whole one
        if lost is not None and state == "uncached":
            state = "lost"
    else:
        total = have = have_bytes = size = 0
        state = "cached"
    if inode.is_dir:
        total, have = 1, int(inode.listed == LISTED)
        state = "cached" if have else "uncached" if inode.listed == UNREAD else "partial"
    return CachedReport(
        state=state,
        size=size,
        cached_bytes=have_bytes,
        blocks=total,
        cached_blocks=have,
        block_size=validity.block,
        dirty=dirty,
        lost=lost,
        nulled_bytes=sum(one.end - one.start for one in nulled),
        nulled=nulled[:NULLED_SHOWN],
    )
