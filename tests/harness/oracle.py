"""What must hold of a home and a cache after a replay or a resync, given what was there before.

All of it is said of plain dictionaries (`HomeState`, `CacheState`); no code of the engine is asked.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence, Set
from typing import NamedTuple

from afmfs.model.permissions import Permissions, give_more
from tests.harness.cache_state import ATTR, REMOVE, Cached, CacheState
from tests.harness.home_state import HomeObject, HomeState, Name, Zone
from tests.harness.masks import differing


class Moment(NamedTuple):
    """Both sides while nobody works."""

    home: HomeState
    cache: CacheState


class Wrong(AssertionError):
    """Something that had to hold does not."""


# -- nothing of home is lost -----------------------------------------------------------------------


def check_nothing_lost(before: Moment, after: Moment, *, replay: bool) -> None:
    """Whatever home held is still there, in its place or in the trash, or the cache has it.

    A plain replay removes and replaces under the names that it was told to; a resync does not.
    """
    pending = before.cache.pending_names
    for one in before.home.kept():
        names = {name for _, name in one.names}
        if replay and names & pending:
            continue
        now = after.home.objects.get(one.ino)
        if now is None or not (now.zones - {Zone.SCRATCH}):
            _check_may_be_gone(one, before, pending)
        elif not one.same_content(now):
            _check_may_be_written(one, now, before, replay=replay)
        if now is not None:
            for name in one.names.keys() - now.names.keys():
                _check_may_be_renamed(one, now, name, before, after)


def _check_may_be_gone(one: HomeObject, before: Moment, pending: set[bytes]) -> None:
    names = {name for _, name in one.names}
    if stat.S_ISDIR(one.mode):
        # An empty directory goes where the cache has removed or replaced it.
        if before.home.children(one.ino) or not names & pending:
            raise Wrong(f"a directory is gone from home: {one}")
        return
    if Zone.SCRATCH in one.zones:
        return  # half of our own work, made anew
    if stat.S_ISREG(one.mode):
        _check_may_be_written(one, None, before, replay=False)
        return
    raise Wrong(f"it is gone from home: {one}")


def _check_may_be_written(
    one: HomeObject, now: HomeObject | None, before: Moment, *, replay: bool
) -> None:
    """A file's bytes may go where the cache has what came in their place."""
    if not stat.S_ISREG(one.mode):
        raise Wrong(f"it is another thing now: {one}")
    if Zone.SCRATCH in one.zones:
        return  # half of our own work, made anew
    cached = before.cache.by_home_ino().get(one.ino) or _passed_for(one, before.cache)
    if cached is None or not cached.is_file:
        raise Wrong(f"a file of somebody else was overwritten: {one}")
    if cached.pushing:
        return  # half pushed: nobody can tell whose bytes these are
    data, present = one.data or b"", (now.data or b"") if now is not None else b""
    if present.startswith(data):
        return
    known_version = _is_known(one, cached)
    if replay and not known_version:
        known_version = _may_pass(one, cached)
    lost = [
        n
        for n, byte in enumerate(data)
        if not (n < len(present) and present[n] == byte)
        and not _is_superseded(n, byte, cached, known_version=known_version)
    ]
    if lost:
        raise Wrong(
            f"{len(lost)} bytes from {lost[0]} on that home alone held are lost: {one}; the cache"
            f" has {cached}, {'the same' if known_version else 'another'} version"
        )


def _is_known(one: HomeObject, cached: Cached) -> bool:
    return any((v.size, v.mtime, v.ino) == (one.size, one.mtime, one.ino) for v in cached.versions)


def _may_pass(one: HomeObject, cached: Cached) -> bool:
    """Whether a version that is not known may pass for the known one: as long, and nothing that is
    cached and clean says otherwise."""
    if all(version.size != one.size for version in cached.versions):
        return False
    data = one.data or b""
    return all(
        cached.data[n] == data[n]
        for n in range(min(cached.size, one.size))
        if cached.valid[n] and not cached.dirty[n]
    )


def _passed_for(one: HomeObject, cache: CacheState) -> Cached | None:
    """A file whose known version another one at home may have passed for."""
    files = (cached for cached in cache.inodes.values() if cached.is_file)
    return next((cached for cached in files if _may_pass(one, cached)), None)


def _is_superseded(n: int, byte: int, cached: Cached, *, known_version: bool) -> bool:
    inside = n < cached.size and cached.known[n]
    if known_version:
        return inside or n >= cached.home_valid
    return bool(inside) and cached.data[n] == byte


def _check_may_be_renamed(
    one: HomeObject, now: HomeObject, name: Name, before: Moment, after: Moment
) -> None:
    """A name of home may go only where the cache has something of that name, or had it and
    removed it."""
    zone, path = one.names[name]
    if zone is not Zone.TREE or name[1] in before.cache.pending_names:
        return
    if path in before.cache.paths or path in after.cache.paths:
        return
    if any(path in paths for paths in before.cache.paths_at_home().values()):
        return  # the cache has moved a directory above it
    above = before.cache.by_home_ino().get(name[0])
    if above is not None and (above.ino, name[1]) in {(p, n) for p, n, _ in before.cache.dentries}:
        return  # somebody had moved that directory, and a pending change has moved it on
    raise Wrong(f"a name was taken away at home: {path!r} of {one}; now {now}")


# -- home agrees -----------------------------------------------------------------------------------


def check_agrees(before: Moment, after: Moment) -> None:
    """All that the cache holds is at home, under every name, and names of one are one there."""
    home, cache = after.home, after.cache
    if cache.job or cache.needs_resync or cache.queue:
        raise Wrong(f"{cache.job=}, {cache.needs_resync=}, {cache.queue=} after a resync")
    pending = {e.ino for e in before.cache.queue if e.op == ATTR}
    theirs = before.cache.by_home_ino().keys() | cache.by_home_ino().keys()
    for path, one in cache.paths.items():
        found = home.tree.get(path)
        if _is_lost(path, one, found, theirs):
            continue
        if found is None:
            raise Wrong(f"{path!r} is missing at home: {one}")
        if found.kind != one.kind:
            raise Wrong(f"{path!r} is of another type at home: {found}; the cache has {one}")
        _check_object(path, one, found, pending=one.ino in pending)
    for one in cache.inodes.values():
        twins = {home.tree[path].ino for path in one.names if path in home.tree}
        if len(twins) > 1 and not one.lost:
            raise Wrong(f"names of one file are of several at home: {one}")
    _check_apart(after)


def _is_lost(path: bytes, one: Cached, found: HomeObject | None, theirs: Set[int]) -> bool:
    """Nothing of it is cached, and home has no such file, or another one of the cache (`theirs`)
    there, or one that is closed to who may open ours; or no such directory, which was never read.
    """
    if not one.lost or not (one.without_data or one.unread):
        return False
    if found is None or found.kind != one.kind or found.ino in theirs:
        return True
    if not give_more(Permissions(one.mode, *one.owner), Permissions(found.mode, *found.owner)):
        raise Wrong(f"{path!r} counts as lost, and is there: {found}; the cache has {one}")
    return True


def _check_object(path: bytes, one: Cached, found: HomeObject, *, pending: bool) -> None:
    """`pending`: changes of its attributes were."""
    if one.is_file:
        if one.size != found.size:
            raise Wrong(f"{path!r} has {found.size} bytes at home, {one.size} in the cache")
        data = found.data or b""
        wrong = differing(one.data, data, one.known)
        if wrong:
            raise Wrong(
                f"{path!r}: {len(wrong)} cached bytes from {wrong[0]} on differ at home: {one}"
            )
    if one.target != found.target:
        raise Wrong(f"{path!r} leads to {found.target!r} at home, not {one.target!r}")
    if one.mtime != found.mtime:
        raise Wrong(f"{path!r}: mtime {found.mtime} at home, {one.mtime} in the cache: {one}")
    if one.without_data and not pending:
        return
    if one.owner != found.owner or (one.mode != found.mode and not stat.S_ISLNK(one.mode)):
        raise Wrong(f"{path!r}: {found} at home, {one} in the cache")


def _check_apart(after: Moment) -> None:
    """Different files of the cache are different files at home."""
    seen: dict[int, Cached] = {}
    for path, one in after.cache.paths.items():
        found = after.home.tree.get(path)
        if found is None or one.lost or stat.S_ISDIR(one.mode):
            continue
        other = seen.setdefault(found.ino, one)
        if other is not one:
            raise Wrong(f"one file at home for two of the cache: {found}; {one} and {other}")


def check_xattrs(after: Moment) -> None:
    """Where they are enabled: those of the cache are at home."""
    for path, one in after.cache.paths.items():
        found = after.home.tree.get(path)
        if found is None or one.without_data:
            continue
        lacking = {key for key in one.xattrs if found.xattrs.get(key) != one.xattrs[key]}
        if lacking:
            raise Wrong(f"{path!r}: {sorted(lacking)} differ at home: {one}")


def check_names(after: Moment, foreign: set[Name], strangers: Set[int] = frozenset()) -> None:
    """What the cache has removed or renamed away is not at home: whatever it does not have there
    was made or moved there by somebody else (`foreign`: such names), or holds what was. `strangers`
    are objects that the cache has never known, wherever they are: put in the place of a file that
    is exchanged, one of them is moved to the other name, and kept there."""
    strange = {
        path
        for path, one in after.home.tree.items()
        if one.ino in strangers
        or any(name in foreign for name, (_, where) in one.names.items() if where == path)
    }
    for path in after.home.tree:
        if path in after.cache.paths or _below(path, strange):
            continue
        if any(_below(other, {path}) for other in strange):
            continue
        if any(_below(path, {top}) for top in _unread(after.cache)):
            continue
        raise Wrong(f"{path!r} is left at home, where the cache has no such name")


def _below(path: bytes, tops: set[bytes]) -> bool:
    return path in tops or any(path.startswith(top + b"/") for top in tops)


def _unread(cache: CacheState) -> list[bytes]:
    return [path for path, one in cache.paths.items() if one.unread]


# -- what only home has ----------------------------------------------------------------------------


def check_gaps(before: Moment, after: Moment, *, nulls: bool) -> None:
    """Uncached bytes of partial files are null where that is the rule (`nulls`), else as home had
    them where its version was the known one; files with nothing cached are as they were."""
    for one in before.cache.inodes.values():
        now = after.cache.inodes.get(one.ino)
        if not one.is_file or not one.names or now is None or now.lost:
            continue
        known, was = _versions(one, before)
        if one.without_data:
            _check_untouched(one, [*known, *was], after)
        elif nulls:
            _check_null(one, after, known)
        elif not one.pushing:
            _check_null_or_same(one, known, [*was, *_leaving(one, before)], after)


def _leaving(one: Cached, before: Moment) -> list[HomeObject]:
    """The known version under names that are to be removed: it may get another one first."""
    tree, paths = before.home.tree, before.cache.paths_at_home()[one.ino]
    return [tree[p] for p in paths if p in tree and _is_known(tree[p], one)]


def _versions(one: Cached, before: Moment) -> tuple[list[HomeObject], list[HomeObject]]:
    """What is in the file's place at home: the known version, and others, but for those that are
    other files of the cache."""
    theirs, tree = before.cache.by_home_ino(), before.home.tree
    going = {e.name for e in before.cache.queue if e.op == REMOVE and e.ino == one.ino}
    paths = before.cache.paths_at_home()[one.ino]
    there = [tree[p] for p in paths if p in tree and p.split(b"/")[-1] not in going]
    files = [found for found in there if found.data is not None]
    known = [found for found in files if _is_known(found, one)]
    return known, [f for f in files if f not in known and theirs.get(f.ino, one) is one]


def _check_untouched(one: Cached, was: list[HomeObject], after: Moment) -> None:
    """Nothing of it was cached: what home had is there, but for a pending change of its size. Where
    no name leads to the known version, any of them may be taken for it."""
    objects = after.home.objects
    still = [
        found
        for found in was
        if found.ino in objects
        and found.same_content(objects[found.ino])
        and any(path in one.names for _, path in objects[found.ino].names.values())
    ]
    if was and not still and not one.resized:
        raise Wrong(f"nothing of it was cached, and it is not as it was at home: {one}")


def _gaps(one: Cached, after: Moment) -> list[tuple[int, int]]:
    """Where nothing is cached, and what home has there now."""
    path = min(one.names)
    data = after.home.tree[path].data if path in after.home.tree else None
    return [(n, data[n]) for n in one.gaps if n < len(data)] if data is not None else []


def _check_null(one: Cached, after: Moment, known: Sequence[HomeObject] = ()) -> None:
    """But for what was written where an earlier resync had made nulls, and can't be told from the
    `known` version."""
    bad = [n for n, byte in _gaps(one, after) if byte and not (known and one.nulled[n])]
    if bad:
        raise Wrong(f"{len(bad)} uncached bytes from {bad[0]} on are not null: {one}")


def _check_null_or_same(
    one: Cached, known: list[HomeObject], was: list[HomeObject], after: Moment
) -> None:
    """As the known version had them. Of another one, which may have passed for it, the same; else
    they are null: two versions are not mixed."""
    if known and any(_is_same(one, found, after) for found in known):
        return
    if known:
        raise Wrong(f"uncached bytes were changed: {one}")
    if not any(_may_pass(found, one) and _is_same(one, found, after) for found in was):
        _check_null(one, after)


def _is_same(one: Cached, was: HomeObject, after: Moment) -> bool:
    old = was.data or b""
    return all((old[n] if n < len(old) else 0) == byte for n, byte in _gaps(one, after))


# -- once more -------------------------------------------------------------------------------------


def check_unchanged(before: Moment, after: Moment) -> None:
    """A second resync changes nothing at all at home, and nothing in its trash."""
    old = {one.ino: one for one in before.home.kept()}
    new = {one.ino: one for one in after.home.kept()}
    for ino in old.keys() | new.keys():
        one, now = old.get(ino), new.get(ino)
        if one is None or now is None:
            raise Wrong(f"the second time, home's {one} became {now}")
        if one.names.keys() != now.names.keys() or one.facts() != now.facts():
            raise Wrong(f"the second time, home's {one} became {now}: {_changes(one, now)}")


def _changes(one: HomeObject, now: HomeObject) -> str:
    keys = ("mode", "owner", "size", "mtime", "data", "target", "xattrs")
    pairs = [
        (key, old, new)
        for key, old, new in zip(keys, one.facts(), now.facts(), strict=True)
        if old != new
    ]
    return ", ".join(key if key == "data" else f"{key} {old} / {new}" for key, old, new in pairs)


def check_trash(after: Moment) -> None:
    """What the journal says of the trash is there, and nothing else is."""
    here = set()
    for one in after.home.objects.values():
        for zone, path in one.names.values():
            parts = path.split(b"/")
            if zone is Zone.TRASH and len(parts) == 4:
                here.add((int(parts[3]), int(parts[2])))
    told = {(number, job) for number, job, state in after.cache.trash if state == "moved"}
    if here != told:
        raise Wrong(f"the trash holds {sorted(here)}, told of are {sorted(told)}")
