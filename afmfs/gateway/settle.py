"""Pending changes of names, settled at a home that may contradict them.

Before a job looks at objects, what the cache removed and renamed is removed and renamed at home, as
far as home still has it: what is missing counts as done, what is in the way goes to the trash. New
objects and links are left to the job's second half, which gives every object its names. Nothing is
moved or removed that is certainly another object than the cache means.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable

from afmfs.gateway.examine import is_equal
from afmfs.gateway.exchange import Exchanger
from afmfs.gateway.locate import MAX_DEPTH
from afmfs.gateway.priority import Aside
from afmfs.gateway.trash import move_aside
from afmfs.gateway.trouble import Inconsistent, MayEnd, Verb
from afmfs.gateway.work import Failed, Work
from afmfs.model.action import Exchange, NameAction, Place, Remove, Rename
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.resync import IN_THE_WAY, REMOVED, Job, Kind

log = logging.getLogger(__name__)

Keep = Callable[[Aside], None]
"""Makes the intent to move something aside durable."""


class Settler:
    """`number` gives numbers of the trash, `keep` keeps an intent.

    A recovery does not know which of the changes home has seen: it touches only what is certainly
    meant. A failover's home is a copy at best, whose inode numbers mean nothing.
    """

    def __init__(
        self,
        work: Work,
        job: Job,
        number: Callable[[], int],
        keep: Keep,
    ) -> None:
        self.work, self._job, self._number, self._keep = work, job, number, keep
        self._exchanger = Exchanger(work)

    def settle(self, action: NameAction) -> None:
        """HomeAway; Failed where home refuses for now."""
        try:
            if isinstance(action, Remove):
                self._remove(action.place, action.ino, action.kind)
            elif isinstance(action, Rename):
                self._rename(action)
            elif isinstance(action, Exchange):
                self._exchange(action)
        except Inconsistent as trouble:
            log.info("%s: %s, as good as done", os.fsdecode(trouble.path), trouble.reason)
        except MayEnd as trouble:
            raise Failed(trouble, partial=False) from trouble
        self.work.touched.update(parent for parent, _ in action.places)
        self.work.progress.finish(action.ids, action.ino, None)
        self.work.pulse()

    def _remove(self, place: Place, ino: int, kind: int) -> None:
        work, found = self.work, self._lstat(place)
        if found is None or not self._is_meant(place, ino, found, kind):
            return
        if not stat.S_ISDIR(found.st_mode):
            self._aside(place, found, REMOVED)
            return
        path = (work.locator.directory(place[0]) or ()) + (place[1],)
        try:
            with work.progress.names.moving():
                work.home.rmdir(work.directory(place[0]), place[1])
                work.home.forget_directory(path)
        except OSError as exc:  # ENOTEMPTY: what is new at home stays, and so does the directory
            raise work.trouble(exc, place, Verb.REMOVE, kind) from exc

    def _rename(self, action: Rename) -> None:
        found = self._lstat(action.place)
        if found is not None and self._is_meant(action.place, action.ino, found, action.kind):
            why = IN_THE_WAY if action.replaces is None else REMOVED
            self._move(found, action.place, action.target, why)
        elif action.replaces is not None:  # what it was to replace has gone here all the same
            self._remove(action.target, action.replaces, action.kind)

    def _exchange(self, action: Exchange) -> None:
        """Where only one of the two is where it was, it goes to its new place all the same: left
        under its old name it would be nobody's, and what only home has of it lost."""
        one, two = self._lstat(action.place), self._lstat(action.target)
        here = one is not None and self._is_meant(action.place, action.ino, one, action.kind)
        kind = stat.S_IFMT(two.st_mode) if two is not None else 0
        there = two is not None and self._is_meant(action.target, action.other, two, kind)
        if here and there:
            self._exchanger.execute(action)
        elif here and one is not None:
            self._move(one, action.place, action.target, IN_THE_WAY)
        elif there and two is not None:
            self._move(two, action.target, action.place, IN_THE_WAY)

    def _move(self, found: os.stat_result, place: Place, target: Place, why: str) -> None:
        """`why` what is in its new place goes aside."""
        work, home = self.work, self.work.home
        there = self._lstat(target)
        try:
            if there is not None and (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                with work.progress.names.moving():
                    home.unlink(work.directory(place[0]), place[1])
                return
            if there is not None:
                self._aside(target, there, why)
            self._reach(target[0])
            dirfd, dirfd2 = work.directory(place[0]), work.directory(target[0])
            with work.progress.names.moving():
                home.rename_new(dirfd, place[1], dirfd2, target[1])
                if stat.S_ISDIR(found.st_mode):
                    home.forget_directories()
                    work.locator.forget()
        except OSError as exc:
            raise work.trouble(exc, target, Verb.MOVE, stat.S_IFMT(found.st_mode)) from exc

    def _reach(self, ino: int) -> None:
        """Make what home lacks of the way to a directory: new ones, and those that it has lost.

        What was moved into them here would be left under its old name else: a stray copy there, and
        lost here if nothing of it is cached. Their attributes come with their own rows.
        """
        work, way = self.work, list[Place]()
        while ino not in (ROOT, UNLINKED):
            places = work.locator.places(ino)
            if not places or len(way) > MAX_DEPTH:
                return
            way.append(places[0])
            ino = places[0][0]
        for place in reversed(way):
            found = self._lstat(place)
            if found is not None and stat.S_ISDIR(found.st_mode):
                continue
            if found is not None:
                self._aside(place, found, IN_THE_WAY)
            with work.progress.names.moving():
                work.home.make_dir(work.directory(place[0]), place[1])
            work.touched.add(place[0])

    def _is_meant(self, place: Place, ino: int, found: os.stat_result, kind: int) -> bool:
        """Whether what was found is the object that the cache means, as far as can be told.

        An inode that is gone from the cache has left no version to compare with.
        """
        if stat.S_ISDIR(found.st_mode) != stat.S_ISDIR(kind):
            return False
        if self._job.kind is Kind.FAILOVER:
            return not self._is_next(place, ino, found)
        row, work = self.work.view.row(ino), self.work
        stamp = work.progress.stamp(ino) or (row.stamp if row is not None else None)
        if stamp is None or stamp.ino is None or not work.home.properties.stable_inodes:
            return self._job.kind is not Kind.RECOVERY
        return stamp.ino == found.st_ino

    def _is_next(self, place: Place, ino: int, found: os.stat_result) -> bool:
        """Whether it is what has the name now: the copy was made after the change."""
        view = self.work.view
        other = view.child(*place)
        row = view.row(other) if other not in (None, ino) else None
        same_kind = row is not None and stat.S_IFMT(row.mode) == stat.S_IFMT(found.st_mode)
        return row is not None and same_kind and is_equal(self.work, row, found)

    # -- at home ---------------------------------------------------------------------------------

    def _lstat(self, place: Place) -> os.stat_result | None:
        work = self.work
        try:
            return work.home.lstat(work.directory(place[0]), place[1])
        except OSError as exc:
            trouble = work.trouble(exc, place, Verb.READ)
            if isinstance(trouble, Inconsistent):
                return None
            raise trouble from exc

    def _aside(self, place: Place, found: os.stat_result, why: str) -> None:
        work, number = self.work, self._number()
        kind = stat.S_IFMT(found.st_mode)
        self._keep(Aside(place, number, why, work.path(place), kind, found.st_size))
        try:
            dirfd = work.directory(place[0])
            with work.progress.names.moving():
                move_aside(work.home, self._job.id, number, dirfd, place[1], work.pulse)
        except OSError as exc:
            raise work.trouble(exc, place, Verb.MOVE, kind) from exc
