"""Looks at home, as long as it is open once, for a comparison.

What seems to differ is looked at again until the cache was the same before and after the look. So
first everything is looked at quickly, page by page, and only what is suspect with care.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.home import MARKER, Home
from afmfs.gateway.home.trouble import Inconsistent
from afmfs.gateway.home.walk import Path
from afmfs.gateway.report.compare import Comparer, Difference, Subject, found_at
from afmfs.gateway.report.contents import Contents, Tally, compare, open_quietly
from afmfs.gateway.report.reports import Row
from afmfs.gateway.report.survey import PAGE
from afmfs.gateway.state.locate import InDoubt, Locator
from afmfs.gateway.state.transfer import BlobError
from afmfs.model.kinds import kind_name
from afmfs.model.ranges import Ranges, total

if TYPE_CHECKING:
    from afmfs.gateway.report.verify import Run

ROOM_S = 0.05
"""How long names at home are kept from moving."""

PATIENCE_S = 2.0
"""How long an object is looked at that goes on changing."""

_PAUSE_S = 0.02
_CHANGES = "it goes on changing"
_UNSETTLED = "what was under way when a gateway ended is not settled yet"
_DOUBT = "in doubt"

BREATH: Row = {}


class Unknown(Exception):
    """It can't be said; the text says why."""


class Visit:
    """Looks at home while it is open."""

    def __init__(self, run: Run, connection: Connection, home: Home) -> None:
        self._run, self._connection, self._home = run, connection, home
        self._view, self._progress, self._survey = run.view, run.progress, run.survey
        self.objects = 0  # looked at

    def _comparer(self) -> Comparer:
        """For use while no name is moved."""
        progress = self._progress
        locator = Locator(self._view, progress.executed, progress.forgotten, progress.in_doubt)
        return Comparer(self._view, progress, self._connection, self._home, locator)

    def step(self) -> Iterator[Row]:
        """Tell what is on record, go on with a file's bytes, or look at some more objects."""
        run = self._run
        while run.remarks:
            remark = run.remarks.popleft()
            yield found_at(self._path(remark.ino), remark.difference, **remark.fields)
        if run.tallies:
            yield from self._go_on(run.tallies[0])
            return
        for subject, suspect in self._look():
            ino = subject.known.ino
            found = (yield from self._confirm(ino)) if suspect else []
            if subject.known.listed:
                extra = yield from self._extra_names(ino)
                if extra:  # which say why the directory's time is another
                    found = [one for one in found if one["difference"] != "mtime"]
            yield from found
            yield BREATH

    def _path(self, ino: int) -> bytes | None:
        """Home's name of an inode now, or else the cache's."""
        try:
            with self._progress.names.looking():
                for above, name in self._comparer().locator.paths(ino):
                    return b"/".join((*above, name))
        except InDoubt:
            pass  # the cache's will do to tell of it
        return self._survey.path(ino)

    # -- names and attributes --------------------------------------------------------------------

    def _look(self) -> list[tuple[Subject, bool]]:
        """Look at the next objects; whether each seems to differ."""
        run, looked = self._run, []
        with self._progress.names.looking():
            comparer, end = self._comparer(), monotonic() + ROOM_S
            while run.subjects and monotonic() < end:
                subject = run.subjects.popleft()
                try:
                    suspect = bool(comparer.differences(subject))
                except InDoubt:
                    suspect = True
                looked.append((subject, suspect))
                run.contact.pulse()
        for subject, _ in looked:
            run.seen(subject)
        self.objects += len(looked)
        return looked

    def _confirm(self, ino: int) -> Generator[Row, None, list[Difference]]:
        """What differs while nothing changes here."""
        run, end = self._run, monotonic() + PATIENCE_S
        before = run.subject(ino)
        while before is not None:
            why = _CHANGES
            try:
                with self._progress.names.looking():
                    found = self._comparer().differences(before)
                if not found or run.subject(ino) == before:
                    return found
            except InDoubt:
                why = _UNSETTLED
                run.patience -= _PAUSE_S
            if monotonic() > end or (why == _UNSETTLED and run.patience <= 0):
                return [found_at(self._path(ino), _DOUBT, reason=why)]
            time.sleep(_PAUSE_S)
            yield BREATH
            before = run.subject(ino)
        return []

    # -- names that the cache does not know ------------------------------------------------------

    def _extra_names(self, ino: int) -> Generator[Row, None, bool]:
        """Tells of what home has in a directory without the cache; whether there is anything."""
        if not self._home.properties.case_sensitive:
            return False  # a name may be one of ours, written differently
        path: Path | None = ()
        try:
            with self._progress.names.looking():
                comparer = self._comparer()
                path = comparer.locator.directory(ino)
                if path is None:
                    return False
                fd = _open_directory(self._home, path)
            try:
                return (yield from self._unknown_in(ino, path, fd))
            finally:
                os.close(fd)
        except InDoubt:
            return False  # is told of by itself
        except OSError as exc:
            where = b"/".join(path or ())
            trouble = comparer.trouble(exc, where)
            if isinstance(trouble, Inconsistent):
                return False  # what is there instead is told of by itself
            yield found_at(where or b".", _DOUBT, reason=str(trouble))
            return True

    def _unknown_in(self, ino: int, path: Path, fd: int) -> Generator[Row, None, bool]:
        survey, extra = self._survey, False
        survey.forget_noted()
        with os.scandir(fd) as entries:
            while page := [os.fsencode(entry.name) for entry in islice(entries, PAGE)]:
                survey.note(name for name in page if path or name != MARKER)
                self._run.contact.pulse()
                yield BREATH
        for page in survey.unknown(ino):
            for name in page:
                try:
                    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # freed by us in between
                extra = True
                yield found_at(b"/".join((*path, name)), "extra", home=kind_name(st.st_mode))
        return extra

    # -- bytes -----------------------------------------------------------------------------------

    def _go_on(self, tally: Tally) -> Iterator[Row]:
        """Compare the bytes of a file until home is to be closed, or to the end."""
        run = self._run
        try:
            while tally.offset < tally.size:
                if run.is_late:
                    return
                self.objects += 1
                yield from self._compare(tally)
        except Unknown as why:
            yield found_at(self._path(tally.ino), _DOUBT, reason=str(why))
        run.tallies.popleft()
        if tally.ranges:
            ranges = tally.ranges
            yield found_at(self._path(tally.ino), "data", bytes=total(ranges), ranges=ranges)

    def _compare(self, tally: Tally) -> Iterator[Row]:
        """Compare the next window, or find out that it has to be looked at again. Unknown."""
        run, ino = self._run, tally.ino
        before, opened = run.subject(ino), self._open(ino)
        if before is None or opened is None:
            tally.end()  # pending, or told of by itself
            return
        tally.pending |= before.pending
        fd, size = opened
        try:
            differing = yield from self._counted(
                tally, compare(self._view, self._survey.settled, tally, fd, size)
            )
        except BlobError as exc:
            raise Unknown(str(exc)) from exc
        except OSError as exc:
            path = self._path(ino) or b""
            raise Unknown(str(self._comparer().trouble(exc, path))) from exc
        finally:
            os.close(fd)
        if differing is not None and (not differing or run.subject(ino) == before):
            run.bytes += tally.passed(differing)
            return
        if tally.tries * _PAUSE_S > PATIENCE_S:
            raise Unknown(_CHANGES)
        tally.tries += 1
        time.sleep(_PAUSE_S)

    def _counted(self, tally: Tally, contents: Contents) -> Generator[Row, None, Ranges | None]:
        tally.compared = 0
        while True:
            try:
                tally.compared += next(contents)
            except StopIteration as end:
                found: Ranges | None = end.value
                return found
            self._run.contact.pulse()
            yield BREATH

    def _open(self, ino: int) -> tuple[int, int] | None:
        """Home's file and its size; None if it isn't there, or another type is. Unknown."""
        try:
            with self._progress.names.looking():
                comparer = self._comparer()
                for above, name in comparer.locator.paths(ino):
                    try:
                        fd, st = open_quietly(self._home, self._home.directory(above), name)
                        return fd, st.st_size
                    except OSError as exc:
                        trouble = comparer.trouble(exc, b"/".join((*above, name)))
                        if not isinstance(trouble, Inconsistent):
                            raise Unknown(str(trouble)) from exc
        except InDoubt:
            pass  # told of by itself
        return None


def _open_directory(home: Home, path: Path) -> int:
    """A directory, to list; its access time stays as it is where we may ask for that."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME
    try:
        return os.open(b".", flags, dir_fd=home.directory(path))
    except PermissionError:
        return home.open_directory(path)
