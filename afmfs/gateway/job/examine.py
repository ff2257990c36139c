"""What the cache and home have of one object, side by side: what a verdict is made of."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.stamp import Stamp, take
from afmfs.gateway.home.trouble import Inconsistent, Verb
from afmfs.gateway.replay.work import Work
from afmfs.gateway.state.transfer import BlobError, agrees
from afmfs.gateway.state.versions import (
    adoptable,
    clean_ranges,
    expected,
    is_foreign,
    is_known,
    may_be_ours,
)
from afmfs.gateway.state.view import LISTED, Row
from afmfs.gateway.trash.book import TrashBook
from afmfs.model.action import Place
from afmfs.model.entry import CONTENT_OPS, ROOT, UNTOLD, Entry
from afmfs.model.ranges import Ranges, cut, difference, union
from afmfs.model.resync import Cached, Found, Job, Kind
from afmfs.model.times import held


class Seen(NamedTuple):
    """One name that home should have for an object, and what is there."""

    place: Place
    st: os.stat_result | None  # None: nothing
    found: Found | None


class Case(NamedTuple):
    row: Row
    cached: Cached
    names: tuple[Seen, ...]  # the first is the one that a verdict is about


def same_object(one: os.stat_result, two: os.stat_result, *, stable_inodes: bool) -> bool:
    """Whether two names at home are of one object. Where inode numbers say nothing: whether they
    might be."""
    if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino):
        return True
    kinds = stat.S_IFMT(one.st_mode), stat.S_IFMT(two.st_mode)
    return (
        not stable_inodes
        and kinds[0] == kinds[1]
        and take(one, stable_inodes=False) == take(two, stable_inodes=False)
    )


def is_equal(work: Work, row: Row, st: os.stat_result) -> bool:
    """Whether an object of the same type passes for a copy of ours: by size and mtime, as precise
    as home keeps it; where something is pending, and of a directory, by mode and owner as well."""
    properties = work.home.properties
    grain = properties.mtime_ns
    timed = properties.symlink_attributes or not stat.S_ISLNK(row.mode)
    if timed and row.mtime // grain != held(st.st_mtime_ns) // grain:
        return False
    if stat.S_ISREG(row.mode) and row.size != st.st_size:
        return False
    dirty = row.changed > row.retired
    if dirty and work.xattrs and work.view.pending_xattrs(row.ino):
        return False
    if not dirty and not stat.S_ISDIR(row.mode):
        return True
    owners = not properties.owners or (row.uid, row.gid) == (st.st_uid, st.st_gid)
    modes = not properties.modes or stat.S_ISLNK(row.mode)
    return owners and (modes or stat.S_IMODE(row.mode) == stat.S_IMODE(st.st_mode))


class Examiner:
    """Looks, and changes nothing, at inodes whose rows are in `work`. HomeAway and MayEnd are
    raised."""

    def __init__(
        self,
        work: Work,
        book: TrashBook,
        job: Job | None = None,
        changes: Mapping[int, Sequence[Entry]] | None = None,
    ) -> None:
        """`changes` of content and attributes may be at home unknown to the journal; of a `job`
        that is careful."""
        self.work, self._book = work, book
        self._job = job if job is not None and job.careful else None
        self._home_is_new = job is not None and job.kind is Kind.FAILOVER
        self.changes = changes or {}
        self._taken: dict[int, int] = {}  # home's inode numbers: who may have taken them over

    def case(self, ino: int) -> Case | None:
        """None if home has, and is to have, nothing of the inode: it is gone, not made yet, or
        named by an entry that home refuses."""
        row = self.work.rows.get(ino)
        if row is None:
            return None
        if ino == ROOT:
            return self._root(row)
        places = self.work.locator.places(ino)
        if not places:
            return None
        cached = self.cached(row)
        names = sorted(self._seen(row, places), key=lambda seen: _promise(seen, cached.kind))
        if not all(seen.found and seen.found.known for seen in names) and self._is_gone(ino):
            return None
        if cached.without_data and cached.kind == stat.S_IFREG:
            names = self._own_first(row, names)
        first, *others = names
        if first.found and first.found.equal and not self._one_object(first, others):
            first = first._replace(found=first.found._replace(equal=False))
        return Case(row, cached, (first, *others))

    def _is_gone(self, ino: int) -> bool:
        """Whether it was removed here since its row was read: then nothing tells of its version any
        more, and home's file would pass for a changed one. The entry that removes it follows."""
        return self.work.view.row(ino) is None

    def _own_first(self, row: Row, names: list[Seen]) -> list[Seen]:
        """The names of a file with nothing cached: one that leads to it, or may, comes first; of
        these, one of the object that it was, though of another version. It may not where it leads
        to a file that the cache knows as another one, and that has its name still: somebody has
        linked it there; nor to one that is closed to who may open ours."""
        first = names[0]
        if first.found is None or (first.found.known and not self.work.view.is_lost(row.ino)):
            return names  # one that is lost may have become another's
        files = [seen for seen in names if seen.st is not None and stat.S_ISREG(seen.st.st_mode)]
        files.sort(key=lambda seen: not self._has_own_number(row, seen))
        for seen in files:
            if not self._is_another(row, seen, names):
                return [seen, *(other for other in names if other is not seen)]
        return [first._replace(found=first.found._replace(another=bool(files))), *names[1:]]

    def _has_own_number(self, row: Row, seen: Seen) -> bool:
        stamps = expected(self.work.view, self.work.progress, row.ino)
        return seen.st is not None and any(stamp.ino == seen.st.st_ino for stamp in stamps)

    def _is_another(self, row: Row, seen: Seen, names: list[Seen]) -> bool:
        st, work = seen.st, self.work
        assert st is not None
        if self._is_foreign(row, seen.place, st):
            return True
        ours = sum(one.st is not None and one.st.st_ino == st.st_ino for one in names)
        if st.st_nlink <= ours or not work.home.properties.stable_inodes:
            return False
        # Till the cache knows of it, what was taken over is known here.
        others = {*work.journal.told_of(st.st_ino), *work.view.known_as(st.st_ino)}
        others.add(self._taken.get(st.st_ino, row.ino))
        if any(self._leads_to(ino, st) for ino in others - {row.ino}):
            return True  # and not taken over: it is that one's still
        self._taken[st.st_ino] = row.ino
        return False

    def _leads_to(self, ino: int, st: os.stat_result) -> bool:
        """Whether one of the inode's names at home is of the object."""
        there = (self._lstat(place) for place in self.work.locator.places(ino))
        return any(one is not None and os.path.samestat(one, st) for one in there)

    def _one_object(self, first: Seen, others: list[Seen]) -> bool:
        """Whether home has all names, and one object under them, if it can."""
        properties = self.work.home.properties
        if not properties.hard_links:
            return all(seen.found and seen.found.equal for seen in others)
        stable, st = properties.stable_inodes, first.st
        return all(st and o.st and same_object(st, o.st, stable_inodes=stable) for o in others)

    def _root(self, row: Row) -> Case:
        st = os.fstat(self.work.home.readable)
        seen = Seen((ROOT, b""), st, Found(stat.S_IFDIR, True, is_equal(self.work, row, st)))
        return Case(row, self.cached(row), (seen,))

    # -- the cache's side ------------------------------------------------------------------------

    def cached(self, row: Row) -> Cached:
        kind = stat.S_IFMT(row.mode)
        dirty = row.changed > row.retired or self._was_dirty(row)
        if kind != stat.S_IFREG:
            unread = kind == stat.S_IFDIR and row.listed != LISTED
            return Cached(kind, dirty=dirty, unread=unread or row.target == UNTOLD)
        sources = self.work.view.sources(row.ino, ((0, row.size),) if row.size else ())
        removed = row.nlink == 0
        if sources is None:
            return Cached(kind, dirty=dirty, removed=removed)
        gaps: Ranges = ()
        if not row.whole and row.home_valid:
            gaps = ((0, min(row.size, row.home_valid)),)
        if not row.whole:  # what a check has found to be lost is zeros nowhere
            gaps = union([*gaps, *cut(self.work.view.lost_bytes(row.ino), row.size)])
        gaps = difference(gaps, sources.valid)
        if gaps and not sources.valid:
            # Its last entry may be retired, as names are settled first, and an older one not.
            dirty = self.work.view.is_pending(row.ino) or self._was_dirty(row)
        resized = dirty and not sources.valid and self.work.view.is_resized(row.ino)
        return Cached(kind, sources.valid, gaps, dirty=dirty, resized=resized, removed=removed)

    # -- home's side -----------------------------------------------------------------------------

    def _seen(self, row: Row, places: list[Place]) -> Iterator[Seen]:
        for place in places:
            st = self._lstat(place)
            yield Seen(place, st, st and self._found(row, place, st))

    def _lstat(self, place: Place) -> os.stat_result | None:
        work = self.work
        try:
            return work.home.lstat_anew(work.directory(place[0]), place[1])
        except OSError as exc:
            trouble = work.trouble(exc, place, Verb.READ)
            if isinstance(trouble, Inconsistent):  # no such directory, or something else in it
                return None
            raise trouble from exc

    def _found(self, row: Row, place: Place, st: os.stat_result) -> Found:
        kind = stat.S_IFMT(st.st_mode)
        if kind != stat.S_IFMT(row.mode):
            return Found(kind)
        equal = is_equal(self.work, row, st)
        if kind == stat.S_IFREG:
            ours = self._is_ours(row, place, st)
            known = ours or self._is_known(row, st)
            # What is null of another version nobody knows, though all that is cached agrees.
            nulled = union((n.start, n.end) for n in self._book.nulled(row.ino)) if known else ()
            known = known or self._may_pass(row, place, st)
            return Found(kind, known, equal, nulled, ours=ours)
        same = self._same_object(row, place, st)
        return Found(kind, same, same and equal)

    def _same_object(self, row: Row, place: Place, st: os.stat_result) -> bool:
        """Whether something that is no file is what the cache has, but for its attributes."""
        if stat.S_ISLNK(st.st_mode):
            work = self.work
            try:
                target = work.home.leads_to(work.directory(place[0]), place[1])
            except OSError as exc:
                raise work.trouble(exc, place, Verb.READ) from exc
            return target == row.target or UNTOLD in (target, row.target)
        return stat.S_IFMT(st.st_mode) not in (stat.S_IFCHR, stat.S_IFBLK) or st.st_rdev == row.rdev

    def _was_dirty(self, row: Row) -> bool:
        """Of a recovery: an entry may be pending though the last one is retired, or lost."""
        if self._job is None or self._job.kind is not Kind.RECOVERY:
            return False
        if self._job.missing:
            return row.changed > row.retired  # as long as the recovery runs
        return bool(self.changes.get(row.ino)) or row.stamp is None

    def _is_ours(self, row: Row, place: Place, st: os.stat_result) -> bool:
        """Whether home's file is our own push, perhaps cut short: of one that is known to be under
        way, or of one that a lost journal, or lost entries, knew of."""
        work, job = self.work, self._job
        if work.progress.is_pushing(row.ino):
            return may_be_ours(work.view, work.progress, work.home.properties, row.ino, st)
        if job is None or job.kind is Kind.FAILOVER:
            return False
        stamps = expected(work.view, work.progress, row.ino)
        if not stamps:
            # New here: if it is wholly there, and not another's that has names of its own.
            cached = self.cached(row)
            same = st.st_size == row.size and st.st_nlink <= row.nlink and not cached.gaps
            return same and self._holds(row, place, cached.valid)
        pending = any(e.op in CONTENT_OPS for e in self.changes.get(row.ino, ()))
        if not pending and not (job.missing and row.changed > row.retired):
            return False
        if work.home.properties.stable_inodes:
            return any(stamp.ino == st.st_ino for stamp in stamps)
        clean = clean_ranges(work.view, row.ino, st.st_size)[1]
        return self._holds(row, place, clean)

    def _is_foreign(self, row: Row, place: Place, st: os.stat_result) -> bool:
        if self._home_is_new:
            return False  # all its objects are others, and the administrator has said so
        work = self.work
        at = xattrs.at(work.directory(place[0]), place[1])
        return is_foreign(work.view, work.progress, work.home.properties, row.ino, at, st)

    def _holds(self, row: Row, place: Place, ranges: Ranges) -> bool:
        """Whether home's file has the bytes of the cache there."""
        work = self.work
        try:
            fd, _ = work.home.open_file(work.directory(place[0]), place[1], os.O_RDONLY)
            try:
                blob = work.view.open_blob(row.ino, row.gen)
                try:
                    return agrees(blob, fd, ranges)
                finally:
                    if blob is not None:
                        os.close(blob)
            finally:
                os.close(fd)
        except BlobError:
            return False
        except OSError as exc:
            trouble = work.trouble(exc, place, Verb.READ)
            if isinstance(trouble, Inconsistent):
                return False
            raise trouble from exc

    def _is_known(self, row: Row, st: os.stat_result) -> bool:
        """Whether it is the version that is known. If none is, what is there is somebody else's."""
        work = self.work
        return bool(expected(work.view, work.progress, row.ino)) and is_known(
            work.view, work.progress, work.home.properties, row.ino, st
        )

    def _may_pass(self, row: Row, place: Place, st: os.stat_result) -> bool:
        """Whether it is one that holds all that is cached. What a pending change would overwrite is
        not cached: it may be what makes it another version."""
        work = self.work
        if not expected(work.view, work.progress, row.ino):
            return False
        if not self.cached(row).valid or work.view.content_entries(row.ino):
            return False
        try:
            fd, _ = work.home.open_file(work.directory(place[0]), place[1], os.O_RDONLY)
        except OSError as exc:
            trouble = work.trouble(exc, place, Verb.READ)
            if isinstance(trouble, Inconsistent):
                return False
            raise trouble from exc
        try:
            return adoptable(work.view, work.progress, work.home.properties, row.ino, fd, st)
        except OSError as exc:
            raise work.trouble(exc, place, Verb.READ) from exc
        finally:
            work.home.close_file(fd)

    def stamp(self, st: os.stat_result) -> Stamp:
        return take(st, stable_inodes=self.work.home.properties.stable_inodes)


def _promise(seen: Seen, kind: int) -> tuple[bool, ...]:
    """The name under which home's object is most likely to be found comes first; a copy of it has
    its size and times."""
    if seen.found is None:
        return (True,)
    found = seen.found
    return False, found.kind != kind, not found.known, not found.equal
