"""What must hold of a cache after a replay or a resync, whatever was done at home."""

from __future__ import annotations

from tests.harness.cache_state import Cached
from tests.harness.masks import differing
from tests.harness.oracle import Moment, Wrong


def check_cache_kept(before: Moment, after: Moment) -> None:
    """A job changes nothing in the cache, but for files of which nothing was cached: these follow
    home."""
    if before.cache.paths.keys() != after.cache.paths.keys():
        different = before.cache.paths.keys() ^ after.cache.paths.keys()
        raise Wrong(f"a job has changed names of the cache: {sorted(different)}")
    for ino, one in before.cache.inodes.items():
        now = after.cache.inodes.get(ino)
        if now is None:
            if one.names:
                raise Wrong(f"a job has removed {one} from the cache")
            continue
        if one.without_data and not one.resized and (one.size, one.mtime) != (now.size, now.mtime):
            _check_adopted(one, now, after)
            continue
        if one.facts() != now.facts():
            raise Wrong(f"a job has changed {one}: {one.facts()} to {now.facts()}")
        gone = differing(one.data, now.data, one.valid)
        gone += differing(one.valid, now.known, one.valid)
        gone = _less_own_nulls(gone, one, now, after)
        if gone:
            raise Wrong(f"{len(gone)} cached bytes from {gone[0]} on are gone: {one}")


def _less_own_nulls(gone: list[int], one: Cached, now: Cached, after: Moment) -> list[int]:
    """Of what is not cached any more: without the nulls of an earlier resync that were fetched
    since. Where a job makes more of the file null, all of its nulls are fetched again, as a read
    beside the job may have brought what was there before; home has the same nulls."""
    files = [after.home.tree.get(path) for path in after.cache.paths_at_home()[now.ino] | now.names]
    there = [found.data for found in files if found is not None and found.data is not None]

    def is_own_null(n: int) -> bool:
        ours = one.nulled[n] and now.nulled[n] and not one.dirty[n] and not now.known[n]
        at_home = bool(there) and all(n < len(data) and not data[n] for data in there)
        return bool(ours) and not one.data[n] and at_home

    return [n for n in gone if not is_own_null(n)]


def _check_adopted(one: Cached, now: Cached, after: Moment) -> None:
    paths = after.cache.paths_at_home()[now.ino] | now.names  # what is pending may move them
    versions = {(o.size, o.mtime) for p, o in after.home.tree.items() if p in paths}
    if one.pending and one.mtime == now.mtime:  # set here since: home's is not taken over
        versions = {(size, now.mtime) for size, _ in versions}
    if (now.size, now.mtime) not in versions:
        raise Wrong(f"neither the cache's nor home's: {one} became {now}")
