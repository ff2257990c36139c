"""One object of the cache and what home has under each of its names, side by side.

Home's version of a file is compared with the one that home is known to hold, so that what is
pending is no difference; where nothing is pending, with the cache's own size and times as well.
What home can't represent is not compared. Nothing here waits, and nothing is changed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Any

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp, same, take
from afmfs.gateway.home.trouble import HomeAway, Inconsistent, Trouble, Verb, classify
from afmfs.gateway.home.walk import Path
from afmfs.gateway.report.survey import Known
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.versions import expected, is_known
from afmfs.gateway.state.view import Row, View
from afmfs.model.entry import ROOT, UNTOLD, Op
from afmfs.model.kinds import kind_name
from afmfs.model.paths import path_fields
from afmfs.model.times import held

Difference = dict[str, Any]
"""path (home's, below its root), difference, and what cache and home have."""

_ATTRIBUTES = frozenset({Op.MAKE, Op.ATTR})
_ONE_NAME = frozenset({Op.LINK, Op.RENAME, Op.EXCHANGE})


def found_at(path: bytes | None, difference: str, **fields: Any) -> Difference:
    return {**path_fields("path", path), "difference": difference, **fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """All that is known of an inode without a look at home. Two that are equal, one from before a
    look and one from after it, say that nothing has changed meanwhile."""

    known: Known
    pending: bool  # an entry of it is not retired
    names_change: bool = False  # of a directory: an entry with a name in it is in the queue
    unheld: frozenset[int] = frozenset()  # operations on it that home can never hold
    lost: bool = False  # home is on record not to have it
    stamp: Stamp | None = None  # of our last push, not taken over yet
    pushing: bool = False


class Comparer:
    """At an open home, as long as no name is moved there (`Rooms.looking`)."""

    def __init__(
        self, view: View, progress: Progress, connection: Connection, home: Home, locator: Locator
    ) -> None:
        self._view, self._progress, self.locator = view, progress, locator
        self._connection, self._home = connection, home

    def differences(self, subject: Subject) -> list[Difference]:
        """InDoubt where it depends on what home may or may not have seen; HomeAway."""
        if subject.known.ino == ROOT:
            return self._attributes(b".", subject, os.fstat(self._home.readable))
        if subject.lost:
            return []  # on record
        found: list[Difference] = []
        objects: set[tuple[int, int]] = set()
        for above, name in self.locator.paths(subject.known.ino):
            found += self._name(subject, above, name, objects)
        return found

    def _name(
        self, subject: Subject, above: Path, name: bytes, objects: set[tuple[int, int]]
    ) -> list[Difference]:
        """`objects` are those that other names have led to: they are not told of again."""
        path, row = b"/".join((*above, name)), subject.known.row
        try:
            st = self._home.lstat(self._home.directory(above), name)
            wrong = _type(row, st)
            if wrong is not None:
                return [found_at(path, "type", cache=wrong[0], home=wrong[1])]
            if stat.S_ISLNK(row.mode):
                target = self._home.leads_to(self._home.directory(above), name)
                if target != row.target and UNTOLD not in (target, row.target):
                    return [found_at(path, "target", cache=text(row.target), home=text(target))]
        except OSError as exc:
            trouble = self.trouble(exc, path)
            if not isinstance(trouble, Inconsistent):
                return [found_at(path, "in doubt", reason=str(trouble))]
            return [] if self._excused(subject) else [found_at(path, "missing")]
        # Where numbers say nothing the names are one object: what home tells of the one through
        # which it was not changed may be old.
        stable = self._home.properties.stable_inodes
        this = (st.st_dev, st.st_ino) if stable else (0, 0)
        if this in objects:
            return []
        objects.add(this)
        return self._attributes(path, subject, st)

    def trouble(self, exc: OSError, path: bytes) -> Trouble:
        """What an error at home means. HomeAway is raised."""
        trouble = classify(exc, path, Verb.READ, properties=self._home.properties)
        trouble = self._connection.judge(self._home, trouble)
        if isinstance(trouble, HomeAway):
            raise trouble from exc
        return trouble

    def _excused(self, subject: Subject) -> bool:
        """Whether home could never hold the object, or this one of its names."""
        ino, progress = subject.known.ino, self._progress
        if subject.pending and progress.journal.unheld(ino) is not None:
            return True  # on record before long
        never_held = subject.known.row.stamp is None and progress.stamp(ino) is None
        return bool(subject.unheld & _ONE_NAME) or (never_held and bool(subject.unheld))

    # -- versions and attributes -----------------------------------------------------------------

    def _attributes(self, path: bytes, subject: Subject, st: os.stat_result) -> list[Difference]:
        row, found = subject.known.row, []
        settled = not subject.pending and row.nlink > 0  # what has no name here queues nothing
        if stat.S_ISREG(row.mode):
            version = self._version(path, row, st)
            if version:
                return version
            if settled and row.size != st.st_size and self._is_recorded(row, st):
                found.append(found_at(path, "size", cache=row.size, home=st.st_size))
        if settled and self._has_own(row) and not subject.unheld & _ATTRIBUTES:
            if self._times_differ(subject, st):
                found.append(found_at(path, "mtime", cache=row.mtime, home=held(st.st_mtime_ns)))
            found += self._permissions(path, row, st)
        return found

    def _has_own(self, row: Row) -> bool:
        """Whether home can give the object attributes at all."""
        return self._home.properties.symlink_attributes or not stat.S_ISLNK(row.mode)

    def _version(self, path: bytes, row: Row, st: os.stat_result) -> list[Difference]:
        """How home's file differs from the version that home is known to hold."""
        progress, properties = self._progress, self._home.properties
        found = take(st, stable_inodes=properties.stable_inodes)
        stamps = (progress.stamp(row.ino), row.stamp)
        if any(one is not None and same(one, found, properties.mtime_ns) for one in stamps):
            return []
        if progress.is_pushing(row.ino) or is_known(self._view, progress, properties, row.ino, st):
            return []
        wanted = expected(self._view, progress, row.ino)[0]
        differences = _versions(wanted, found, self._grain)
        return [found_at(path, difference, **both) for difference, both in differences]

    @property
    def _grain(self) -> int:
        return self._home.properties.mtime_ns

    def _is_recorded(self, row: Row, st: os.stat_result) -> bool:
        """Whether the version is the one in cache.db. A newer one has yet to be taken over, and
        the size with it where the cache follows home."""
        found = take(st, stable_inodes=self._home.properties.stable_inodes)
        return row.stamp is None or same(row.stamp, found, self._grain)

    def _times_differ(self, subject: Subject, st: os.stat_result) -> bool:
        row = subject.known.row
        if row.mtime // self._grain == held(st.st_mtime_ns) // self._grain:
            return False
        if stat.S_ISREG(row.mode):
            return self._is_recorded(row, st)
        # A directory's change with its names: they say more, and come later than those.
        return not stat.S_ISDIR(row.mode) or (subject.known.listed and not subject.names_change)

    def _permissions(self, path: bytes, row: Row, st: os.stat_result) -> list[Difference]:
        found = []
        if self._modes_differ(path, row, st):
            modes = [f"{stat.S_IMODE(mode):04o}" for mode in (row.mode, st.st_mode)]
            found.append(found_at(path, "mode", cache=modes[0], home=modes[1]))
        if self._owners_differ(row, st):
            owners = f"{row.uid}:{row.gid}", f"{st.st_uid}:{st.st_gid}"
            found.append(found_at(path, "owner", cache=owners[0], home=owners[1]))
        return found

    def _modes_differ(self, path: bytes, row: Row, st: os.stat_result) -> bool:
        wanted, mode = stat.S_IMODE(row.mode), stat.S_IMODE(st.st_mode)
        if wanted == mode or stat.S_ISLNK(row.mode) or not self._home.properties.modes:
            return False
        if not self._home.properties.xattrs:
            return True
        # Where access lists are not in use, the cache gives no one more than home's list does.
        where: xattrs.Where = self._home.readable
        if path != b".":
            *above, name = path.split(b"/")
            where = xattrs.at(self._home.directory(tuple(above)), name)
        return stat.S_IMODE(xattrs.narrowed(where, st.st_mode)) != wanted

    def _owners_differ(self, row: Row, st: os.stat_result) -> bool:
        properties = self._home.properties
        if properties.owners:
            return (row.uid, row.gid) != (st.st_uid, st.st_gid)
        # What may be given to nobody else has our owner; its group can be set to one of ours.
        ours = row.uid == st.st_uid == os.geteuid() and not properties.is_fuse
        return ours and row.gid in (os.getegid(), *os.getgroups()) and row.gid != st.st_gid


def text(name: bytes | None) -> str | None:
    return None if name is None else name.decode("utf-8", "surrogateescape")


def _type(row: Row, st: os.stat_result) -> tuple[str, str] | None:
    """What cache and home have, where that is not of one type (nor one device)."""
    kinds = kind_name(row.mode), kind_name(st.st_mode)
    if kinds[0] != kinds[1]:
        return kinds
    if stat.S_IFMT(row.mode) in (stat.S_IFCHR, stat.S_IFBLK) and row.rdev != st.st_rdev:
        numbers = [f"{os.major(n)}:{os.minor(n)}" for n in (row.rdev, st.st_rdev)]
        return f"{kinds[0]} {numbers[0]}", f"{kinds[1]} {numbers[1]}"
    return None


def _versions(wanted: Stamp, found: Stamp, grain: int) -> list[tuple[str, dict[str, Any]]]:
    differ: list[tuple[str, dict[str, Any]]] = []
    if wanted.size != found.size:
        differ.append(("size", {"cache": wanted.size, "home": found.size}))
    if wanted.mtime // grain != found.mtime // grain:
        differ.append(("mtime", {"cache": wanted.mtime, "home": found.mtime}))
    # Another file, though as long and as old.
    return differ or [("version", {"cache": wanted.ino, "home": found.ino})]
