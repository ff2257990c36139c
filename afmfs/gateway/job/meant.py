"""Whether what is found at home is the object that a change of names means.

Where the gateway knows which changes home has seen, the name tells, and home's inode number where
it keeps them. Where it does not (its journal, or entries of the queue, were lost), the object under
a name may be a later one, or one whose own change was lost: only what is certainly meant, or is
certainly nobody else's, is moved. What is left alone stays at home as an extra file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import cached_property

from afmfs.gateway.home.stamp import Stamp, same, take
from afmfs.gateway.job.concerned import Claims, taken
from afmfs.gateway.job.examine import is_equal
from afmfs.gateway.replay.work import Work
from afmfs.model.action import Place
from afmfs.model.resync import Job, Kind


class Meant:
    """Of the changes to some names. `claims` gives those of the cache's inodes, if need be."""

    def __init__(
        self, work: Work, job: Job, places: Iterable[Place], claims: Callable[[Work], Claims]
    ) -> None:
        self._work, self._job, self._places, self._claims = work, job, places, claims
        properties = work.home.properties
        self._stable, self._grain = properties.stable_inodes, properties.mtime_ns

    def says(self, ino: int, found: os.stat_result, kind: int, place: Place) -> bool:
        """Whether `found`, at `place`, is the inode that has the name according to the change.

        An inode that is gone from the cache has left no version to compare with.
        """
        if stat.S_ISDIR(found.st_mode) != stat.S_ISDIR(kind):
            return False
        if self._job.kind is Kind.FAILOVER:  # home's inode numbers mean nothing
            return self._says_copy(ino, found, place)
        stamp = self._stamp(ino)
        if stamp is not None and stamp.ino is not None and self._stable:
            return stamp.ino == found.st_ino
        return not self._job.careful or self._is_nobodys(ino, stamp, found, place)

    def is_certain(self, ino: int, found: os.stat_result) -> bool:
        """Whether home's inode number tells that it is the inode's object."""
        if self._job.kind is Kind.FAILOVER or not self._stable:
            return False
        stamp = self._stamp(ino)
        return stamp is not None and stamp.ino is not None and stamp.ino == found.st_ino

    def is_like(self, ino: int, found: os.stat_result) -> bool:
        """Whether it is certainly the inode's object or, where no number tells, of its version."""
        if self._job.kind is Kind.FAILOVER:
            return self._equal(ino, found)
        stamp = self._stamp(ino)
        if stamp is None or self._stable:
            return self.is_certain(ino, found)
        return same(stamp, self._take(found), self._grain)

    def is_anothers(self, found: os.stat_result, *but: int | None) -> bool:
        """Whether a careful job has to leave it where it is: the cache knows it as the object of an
        inode that is not one of `but`."""
        if not (self._job.careful and self._stable) or self._job.kind is Kind.FAILOVER:
            return False
        certain = any(ino is not None and self.is_certain(ino, found) for ino in but)
        return not certain and self._taken_for(found)

    def _says_copy(self, ino: int, found: os.stat_result, place: Place) -> bool:
        """At a new home it is not, if it is what has the name now: the copy was made after the
        change; or, where it is not known how far it was changed, if that may be so."""
        view = self._work.view
        if not self._job.careful:
            other = view.child(*place)
            return other in (None, ino) or not self._equal(other, found)
        if view.row(ino) is not None and stat.S_ISREG(found.st_mode):
            return self._equal(ino, found)
        return place not in self._taken

    def _is_nobodys(
        self, ino: int, stamp: Stamp | None, found: os.stat_result, place: Place
    ) -> bool:
        """No number tells: it is meant if no other object of the cache can be."""
        if stamp is not None and same(stamp, self._take(found), self._grain):
            return True
        if self._taken_for(found) or place in self._taken:
            return False
        # With the queue's entries lost it may be anything: the inode itself has to look like it.
        return not self._job.missing or self._work.view.row(ino) is None or self._equal(ino, found)

    def _equal(self, ino: int, found: os.stat_result) -> bool:
        row = self._work.view.row(ino)
        if row is None or stat.S_IFMT(row.mode) != stat.S_IFMT(found.st_mode):
            return False
        return is_equal(self._work, row, found)

    def _stamp(self, ino: int) -> Stamp | None:
        made = self._work.progress.stamp(ino)
        row = self._work.view.row(ino)
        return made or (row.stamp if row is not None else None)

    def _take(self, found: os.stat_result) -> Stamp:
        return take(found, stable_inodes=self._stable)

    def _taken_for(self, found: os.stat_result) -> bool:
        return self._take(found) in self._claims(self._work)

    @cached_property
    def _taken(self) -> set[Place]:
        return taken(self._work.view, self._places)
