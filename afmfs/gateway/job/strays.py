"""Objects that home has elsewhere, as the entries that moved them were lost from the queue.

What is cached can be sent again; but a file of which something is at home alone, and a directory,
may be under a name that nobody knows any more. Home's inode numbers tell: where the ones that are
missing in their places are known, all of home's names are looked through for them (no object is),
and what is found is brought to its place, by way of a name of its own, as two may have swapped
theirs. What is not found is judged, and made anew, as anything that home lacks.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from afmfs.gateway.home.home import MARKER, UNLINKED, Home
from afmfs.gateway.home.trouble import HomeAway, Verb
from afmfs.gateway.home.walk import Path
from afmfs.gateway.job.concerned import Claims
from afmfs.gateway.job.intents import Intents
from afmfs.gateway.job.settle import Settler
from afmfs.gateway.replay.execute import Directories
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.replay.work import Work
from afmfs.gateway.state.view import Row
from afmfs.model.entry import ROOT
from afmfs.model.entry import UNLINKED as UNLINKED_INO
from afmfs.model.resync import IN_THE_WAY, Job

log = logging.getLogger(__name__)

PAGE = 4096


class Stray(NamedTuple):
    path: Path
    name: bytes
    ino: int  # the cache's


class Strays:
    def __init__(self, steps: Steps, intents: Intents) -> None:
        self._steps, self._intents = steps, intents

    def bring_all(self, job: Job) -> None:
        """HomeAway, NoPoint: it is done again, and finds the rest."""
        steps = self._steps
        steps.point()  # what is moved at home is durable here
        with steps.contact.opened() as (connection, home):
            if home.properties.stable_inodes:
                with steps.progress.replaying(home):
                    self._bring_all(home, job)
                    steps.site.sync(home)
            connection.check(home)

    def _bring_all(self, home: Home, job: Job) -> None:
        work = self._steps.site.work(home)
        wanted = self._missing(work)
        if not wanted:
            return
        log.info("%d objects are not in their places at home, and are sought", len(wanted))
        taken = {ino: None for ino in self._held(home, wanted)}
        for stray in reversed(list(self._seek(work, wanted))):
            # What is in a directory before the directory.
            if self._take(work, stray):
                taken[stray.ino] = None
        settler = Settler(
            work,
            job,
            self._intents.number,
            lambda aside: self._intents.keep(job, aside),
            (),
            Claims,
        )
        for ino in sorted(taken, key=lambda ino: self._depth(work, ino)):
            self._put(settler, ino)
        self._intents.say(home, job)
        Directories(work).finish()

    @staticmethod
    def _depth(work: Work, ino: int) -> int:
        places = work.locator.places(ino)
        return len(work.locator.directory(places[0][0]) or ()) if places else 0

    # -- which are missing -----------------------------------------------------------------------

    def _missing(self, work: Work) -> dict[int, int]:
        """Home's number and inode of what has changed, is not in any of its places, and can't be
        made anew from the cache."""
        view, after, found = self._steps.view, 0, dict[int, int]()
        while page := view.objects(after, PAGE, changed=True):
            after = page[-1].ino
            for ino, row in view.rows(one.ino for one in page).items():
                number = row.stamp.ino if row.stamp is not None else None
                partial = stat.S_ISREG(row.mode) and not row.whole and row.home_valid
                if number is None or not (partial or stat.S_ISDIR(row.mode)) or ino == ROOT:
                    continue
                if not self._is_there(work, row, number):
                    found[number] = ino
                work.pulse()
        return found

    def _is_there(self, work: Work, row: Row, number: int) -> bool:
        places = work.locator.places(row.ino)
        if not places:
            return True  # it is to have no name at home now
        for parent, name in places:
            try:
                st = work.home.lstat(work.directory(parent), name)
            except OSError as exc:
                _raise_if_away(work, exc)
                continue
            if st.st_ino == number and stat.S_IFMT(st.st_mode) == stat.S_IFMT(row.mode):
                return True
        return False

    # -- where they are --------------------------------------------------------------------------

    def _seek(self, work: Work, wanted: dict[int, int]) -> Iterator[Stray]:
        """Where home has them, directories before what is in them."""
        rows = self._steps.view.rows(wanted.values())
        device, left = os.fstat(work.home.readable).st_dev, set(wanted)
        below: list[Path] = [()]
        while below and left:
            path = below.pop()
            for name, number in self._names(work, path, below):
                if number not in left:
                    continue
                try:
                    st = work.home.lstat(work.home.directory(path), name)
                except OSError as exc:
                    _raise_if_away(work, exc)
                    continue
                row = rows.get(wanted[number])
                same = st.st_ino == number and st.st_dev == device
                if row is not None and same and stat.S_IFMT(st.st_mode) == stat.S_IFMT(row.mode):
                    left.discard(number)
                    yield Stray(path, name, row.ino)

    def _names(self, work: Work, path: Path, below: list[Path]) -> list[tuple[bytes, int]]:
        """Names and numbers in a directory; its subdirectories come to `below`."""
        try:
            fd = work.home.open_directory(path)
        except OSError as exc:
            _raise_if_away(work, exc)
            return []
        found = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if path or name != MARKER:
                        found.append((name, entry.inode()))
                        if entry.is_dir(follow_symlinks=False):
                            below.append((*path, name))
        except OSError as exc:
            _raise_if_away(work, exc)
        finally:
            os.close(fd)
        work.pulse()
        return found

    def _held(self, home: Home, wanted: dict[int, int]) -> list[int]:
        """Those that an earlier attempt has taken from where they were."""
        home.unlinked()  # made, if it was not there
        inos = {_waiting(ino): ino for ino in wanted.values()}
        fd = home.open_directory(UNLINKED)
        try:
            return [inos[name] for name in map(os.fsencode, os.listdir(fd)) if name in inos]
        finally:
            os.close(fd)

    def _take(self, work: Work, stray: Stray) -> bool:
        """Take it from where it is; it waits under a name of its own."""
        home = work.home
        try:
            with work.progress.names.moving():
                source = home.directory(stray.path), stray.name
                home.rename_new(*source, home.unlinked(), _waiting(stray.ino))
                home.forget_directories()
            return True
        except OSError as exc:
            _raise_if_away(work, exc)
            log.warning("%s stays where it is: %s", os.fsdecode(stray.name), exc.strerror)
            return False

    # -- where they belong -----------------------------------------------------------------------

    def _put(self, settler: Settler, ino: int) -> None:
        work, waiting = settler.work, (UNLINKED_INO, _waiting(ino))
        places = work.locator.places(ino)
        if places:
            st = work.home.lstat(work.directory(waiting[0]), waiting[1])
            settler.move(st, waiting, places[0], IN_THE_WAY)
            work.touched.add(places[0][0])


def _waiting(ino: int) -> bytes:
    """The name, in home's `.afm/unlinked`, under which it waits for its place to be free."""
    return b"%x" % ino


def _raise_if_away(work: Work, exc: OSError) -> None:
    trouble = work.trouble(exc, None, Verb.READ)
    if isinstance(trouble, HomeAway):
        raise trouble from exc
