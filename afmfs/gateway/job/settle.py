"""Pending changes of names, settled at a home that may contradict them.

Before a job looks at objects, what the cache removed and renamed is removed and renamed at home, as
far as home still has it: what is missing counts as done, what is in the way goes to the trash. New
objects are left to the job's second half, which gives every object its names. Nothing is
moved or removed that is certainly another object than the cache means.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable

from afmfs.gateway.home.stamp import Stamp, take
from afmfs.gateway.home.trouble import HomeAway, Inconsistent, MayEnd, Unrepresentable, Verb
from afmfs.gateway.job.concerned import Claims
from afmfs.gateway.job.decision import Aside
from afmfs.gateway.job.meant import Meant
from afmfs.gateway.job.way import way_to
from afmfs.gateway.replay.exchange import Exchanger
from afmfs.gateway.replay.work import Contradicted, Failed, Work
from afmfs.gateway.trash.book import move_aside
from afmfs.model.action import Exchange, Link, Make, NameAction, Place, Remove, Rename
from afmfs.model.resync import IN_THE_WAY, REMOVED, Job

log = logging.getLogger(__name__)

Keep = Callable[[Aside], None]
"""Makes the intent to move something aside durable."""


_At = tuple[os.stat_result | None, Place]


class Settler:
    """`number` gives numbers of the trash, `keep` keeps an intent, `names` are those that the
    changes are about."""

    def __init__(
        self,
        work: Work,
        job: Job,
        number: Callable[[], int],
        keep: Keep,
        names: Iterable[Place],
        claims: Callable[[Work], Claims],
    ) -> None:
        self.work, self._job, self._number, self._keep = work, job, number, keep
        self._exchanger, self._meant = Exchanger(work), Meant(work, job, names, claims)
        self.reached: dict[int, Stamp] = {}  # directories that home did not have, or other ones

    def settle(self, action: NameAction) -> None:
        """HomeAway; Failed where home refuses for now."""
        try:
            if isinstance(action, Remove):
                self._remove(action.place, action.ino, action.kind)
            elif isinstance(action, Rename):
                self._rename(action)
            elif isinstance(action, Exchange):
                self._exchange(action)
            elif isinstance(action, Link):
                self._link(action)
            elif isinstance(action, Make) and action.replaces is not None:
                self._keep_replaced(action.place, action.replaces)
        except Inconsistent as trouble:
            log.info("%s: %s, as good as done", os.fsdecode(trouble.path), trouble.reason)
        except Unrepresentable as trouble:
            log.info("%s: home can't hold it: %s", action, trouble.what)
        except MayEnd as trouble:
            # An exchange that can't be looked for may be done, in part or wholly.
            raise Failed(trouble, partial=isinstance(action, Exchange)) from trouble
        self.work.touched.update(parent for parent, _ in action.places)
        self.work.progress.finish(action.ids, action.ino, None)
        if isinstance(action, Exchange) or stat.S_ISDIR(action.kind):
            self.work.locator.forget()  # also if it was moved before, or is not there to be moved
        self.work.pulse()

    def _remove(self, place: Place, ino: int, kind: int) -> None:
        work, found = self.work, self._lstat(place)
        if found is None or not self._meant.says(ino, found, kind, place):
            return
        if not stat.S_ISDIR(found.st_mode):
            if self._is_elsewhere(place, ino, found):
                self._unlink(place)
            else:
                self._put_away(place, ino, found)
            return
        path = (work.locator.directory(place[0]) or ()) + (place[1],)
        try:
            with work.progress.names.moving():
                work.home.rmdir(work.directory(place[0]), place[1])
                work.home.forget_directory(path)
        except OSError as exc:  # ENOTEMPTY: what is new at home stays, and so does the directory
            raise work.trouble(exc, place, Verb.REMOVE, kind) from exc

    def _is_elsewhere(self, place: Place, ino: int, found: os.stat_result) -> bool:
        """Whether it stays at home under another of its names."""
        others = [other for other in self.work.locator.places(ino) if other != place]
        there = [self._lstat(place) for place in others] if found.st_nlink > 1 else []
        return any(st is not None and self._same(st, found) for st in there)

    def _free(self, place: Place, ino: int, found: os.stat_result) -> None:
        """What is replaced by a name, where it is certainly that."""
        if not stat.S_ISDIR(found.st_mode) and self._meant.is_certain(ino, found):
            self._remove(place, ino, stat.S_IFMT(found.st_mode))

    @staticmethod
    def _same(one: os.stat_result, two: os.stat_result) -> bool:
        return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)

    def _put_away(self, place: Place, ino: int, found: os.stat_result) -> None:
        """Free the only name that home has for an inode. Where it has others here, and nothing
        that may be the file is there, it goes to one of them: in the trash, what only home has of
        it would be lost to them."""
        if not self._hand_over(place, ino, found):
            self._aside(place, found, REMOVED)

    def _keep_replaced(self, place: Place, ino: int) -> None:
        """A new object follows in the place of one that has other names: home may have it there
        alone, and it would go to the trash as what is in the way."""
        found = self._lstat(place)
        if found is None or stat.S_ISDIR(found.st_mode):
            return
        if not self._is_elsewhere(place, ino, found):
            self._hand_over(place, ino, found)

    def _hand_over(self, place: Place, ino: int, found: os.stat_result) -> bool:
        """Move it to another of its names, if it is certainly the inode's; whether it was."""
        here = set(self.work.view.names(ino)) - {place}
        others = [other for other in self.work.locator.places(ino) if other in here]
        there = [self._lstat(other) for other in others]
        alike = any(st and stat.S_IFMT(st.st_mode) == stat.S_IFMT(found.st_mode) for st in there)
        if self._meant.is_like(ino, found) and not alike:
            for other, st in zip(others, there, strict=True):
                if st is None or not self._meant.is_anothers(st, ino):
                    self.move(found, place, other, IN_THE_WAY)
                    return True
        return False

    def _unlink(self, place: Place) -> None:
        try:
            with self.work.progress.names.moving():
                self.work.home.unlink(self.work.directory(place[0]), place[1])
        except OSError as exc:
            raise self.work.trouble(exc, place, Verb.REMOVE) from exc

    def _link(self, action: Link) -> None:
        """A new name of what home has: the old one may be about to go, and what only home has of
        it with it. What is in the way, or can't be, is seen to with the object's own row."""
        work, home = self.work, self.work.home
        for place in work.locator.places(action.ino):
            found = self._lstat(place)
            if found is None or not self._meant.is_certain(action.ino, found):
                continue
            try:
                self._reach(action.place[0])
                source = work.directory(place[0]), place[1]
                with work.progress.names.moving():
                    home.link(*source, work.directory(action.place[0]), action.place[1])
            except OSError as exc:
                trouble = work.trouble(exc, action.place, Verb.LINK, action.kind)
                if isinstance(trouble, HomeAway):
                    raise trouble from exc
            return

    def _rename(self, action: Rename) -> None:
        found = self._lstat(action.place)
        if found is None or not self._meant.says(action.ino, found, action.kind, action.place):
            if action.replaces is not None:  # what it was to replace has gone here all the same
                self._remove(action.target, action.replaces, action.kind)
            return
        there = self._lstat(action.target)
        if there is None or not self._meant.is_anothers(there, action.ino, action.replaces):
            if there is not None and action.replaces is not None and not self._same(found, there):
                self._free(action.target, action.replaces, there)
            why = IN_THE_WAY if action.replaces is None else REMOVED
            self.move(found, action.place, action.target, why)

    def _exchange(self, action: Exchange) -> None:
        """What stands half done is finished first: of the two, neither is missing. Where home was
        changed meanwhile, they go to their places in spite of it."""
        try:
            if not self._exchanger.go_on(action):
                self._swap(action)
        except Contradicted as found:
            log.info("%s: half done, and %s", os.fsdecode(found.trouble.path), found.trouble.reason)
            self._put_in_place(action)

    def _swap(self, action: Exchange) -> None:
        """Where only one of the two is where it was, it goes to its new place all the same: left
        under its old name it would be nobody's, and what only home has of it lost."""
        one, two = self._lstat(action.place), self._lstat(action.target)
        here = self._is_at(action.ino, action.other, (one, action.place), (two, action.target))
        there = self._is_at(action.other, action.ino, (two, action.target), (one, action.place))
        if here and there or (self._job.careful and (here or there) and one and two):
            # One alone tells, where the version of the other is not known, that it was not done.
            self._exchanger.execute(action)
        elif here and one is not None:
            self.move(one, action.place, action.target, IN_THE_WAY)
        elif there and two is not None:
            self.move(two, action.target, action.place, IN_THE_WAY)

    def _put_in_place(self, action: Exchange) -> None:
        """Finish what is half done at a home where the steps left are in each other's way."""
        exchanger, one, two = self._exchanger, self._lstat(action.place), self._lstat(action.target)
        try:
            moved = exchanger.has_moved_both(action)
            moved = moved or (one is not None and self._meant.is_certain(action.other, one))
            second = (two, action.target), (one, action.place)
            if not moved and self._is_at(action.other, action.ino, *second):
                assert two is not None
                self.move(two, action.target, action.place, IN_THE_WAY)
            first = self.work.home.lstat_anew(*exchanger.aside(action))
        except FileNotFoundError:
            return  # somebody has removed it
        except OSError as exc:
            raise self.work.trouble(exc, action.target, Verb.MOVE, action.kind) from exc
        self._move(first, lambda: exchanger.aside(action), action.target, IN_THE_WAY)

    def _is_at(self, ino: int, rival: int, here: _At, there: _At) -> bool:
        """Whether an inode is in the one place, and certainly not in the other. What is certainly
        the one that it changes places with is there by an attempt that was cut short: the name
        alone would have it moved back."""

        def says(found: os.stat_result | None, place: Place) -> bool:
            return found is not None and self._meant.says(ino, found, found.st_mode, place)

        found, like = here[0], self._meant.is_like
        if found is not None and like(rival, found) and not like(ino, found):
            return False
        return says(*here) and not (self._job.careful and says(*there))

    def move(self, found: os.stat_result, place: Place, target: Place, why: str) -> None:
        """`why` what is in its new place goes aside."""
        self._move(found, lambda: (self.work.directory(place[0]), place[1]), target, why)

    def _move(
        self,
        found: os.stat_result,
        source: Callable[[], tuple[int, bytes]],
        target: Place,
        why: str,
    ) -> None:
        work, home = self.work, self.work.home
        there = self._lstat(target)
        try:
            if there is not None and self._same(there, found):
                with work.progress.names.moving():
                    home.unlink(*source())
                return
            if there is not None:
                self._aside(target, there, why)
            self._reach(target[0])
            dirfd, name = source()
            dirfd2 = work.directory(target[0])
            with work.progress.names.moving():
                home.rename_new(dirfd, name, dirfd2, target[1])
                if stat.S_ISDIR(found.st_mode):
                    home.forget_directories()
                    work.locator.forget()
        except OSError as exc:
            raise work.trouble(exc, target, Verb.MOVE, stat.S_IFMT(found.st_mode)) from exc

    def _reach(self, ino: int) -> None:
        """Make what home lacks of the way to a directory: new ones, and those that it has lost.

        What was moved into them here would be left under its old name else: a stray copy there, and
        lost here if nothing of it is cached. Their attributes come with their own rows. Those that
        are there by now are the directories that later changes mean.
        """
        work = self.work
        for directory, place in way_to(work, ino):
            found = self._lstat(place)
            if found is None or not stat.S_ISDIR(found.st_mode):
                if found is not None:
                    self._aside(place, found, IN_THE_WAY)
                with work.progress.names.moving():
                    work.home.make_dir(work.directory(place[0]), place[1])
                work.touched.add(place[0])
                found = self._lstat(place)
            if found is not None and not self._meant.is_certain(directory, found):
                self.reached[directory] = take(
                    found, stable_inodes=work.home.properties.stable_inodes
                )
                work.progress.finish((), directory, self.reached[directory])

    # -- at home ---------------------------------------------------------------------------------

    def _lstat(self, place: Place) -> os.stat_result | None:
        work = self.work
        try:
            return work.home.lstat_anew(work.directory(place[0]), place[1])
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
