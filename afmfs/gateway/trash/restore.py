"""Bringing back what was moved to home's trash.

A file whose uncached bytes were made null gets back just these bytes, into the present file
(refill). Everything else comes back beside what has taken its name, under a name of its own.

An entry is restored in two steps. The first does it at home; it is marked before (with the name
that it gets), so that the second attempt after a crash goes on where the first one ended. The
second step forgets it when the mount process has durably taken it in: until then it is told of
again when it is asked for.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from contextlib import suppress
from typing import NamedTuple

from afmfs.gateway.fetch import describe
from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.home import MARKER, Home
from afmfs.gateway.home.trouble import HomeAway, Verb, classify
from afmfs.gateway.home.walk import Path
from afmfs.gateway.state.locate import InDoubt, Locator
from afmfs.gateway.trash.book import (
    RESTORED,
    RESTORING,
    Trashed,
    directory_of,
    file_name,
)
from afmfs.gateway.trash.parts import Parts
from afmfs.gateway.trash.refill import Refiller, Refused, Row, is_refill
from afmfs.model.entry import ROOT
from afmfs.model.resync import WAS_NULLED

PATIENCE_S = 2.0
"""How long an entry waits for a push of its file to end before it is refused."""

_PAUSE_S = 0.05


class Place(NamedTuple):
    """Where a restored entry is at home."""

    directory: Path
    name: bytes

    @property
    def path(self) -> bytes:
        return b"/".join((*self.directory, self.name))


class Restorer:
    def __init__(self, parts: Parts, *, with_xattrs: bool) -> None:
        self._journal, self._book, self._view = parts.journal, parts.book, parts.view
        self._progress, self._contact, self._xattrs = parts.progress, parts.contact, with_xattrs
        self._refiller = Refiller(parts)

    def restore(self, row: Trashed) -> Row:
        """Restore an entry, or say again what was restored; what the mount process has to know.

        Refused, HomeAway.
        """
        patience = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self._progress.restoring(), self._contact.opened() as (connection, home):
                    try:
                        return self._restore(connection, home, row)
                    except OSError as exc:
                        raise self._judge(connection, home, row, exc) from exc
            except InDoubt:
                if time.monotonic() > patience:
                    raise Refused("it is being replayed, try again") from None
            time.sleep(_PAUSE_S)

    @staticmethod
    def _judge(connection: Connection, home: Home, row: Trashed, exc: OSError) -> Exception:
        trouble = classify(exc, row.path, Verb.MOVE, properties=home.properties)
        trouble = connection.judge(home, trouble)
        return trouble if isinstance(trouble, HomeAway) else Refused(exc.strerror or str(exc))

    def _restore(self, connection: Connection, home: Home, row: Trashed) -> Row:
        destination = self._book.destination(row.number)
        if row.state == RESTORED and destination is None:
            raise Refused("it was restored before")
        began_as_entry = destination is not None and not is_refill(destination)
        if row.why == WAS_NULLED and row.ino is not None and not began_as_entry:
            told = self._refiller.refill(connection, home, row)
            if told is not None:
                return told
        return self._restore_entry(connection, home, row, destination if began_as_entry else None)

    def taken(self, row: Trashed) -> None:
        """The mount process has durably taken in what was said of it."""
        if row.state == RESTORED and self._book.destination(row.number) is not None:
            with self._journal.transaction() as db:
                self._book.forget_destination(db, row.number)

    # -- entries ---------------------------------------------------------------------------------

    def _restore_entry(
        self, connection: Connection, home: Home, row: Trashed, destination: bytes | None
    ) -> Row:
        place = self._find(home, row, destination) or self._move(home, row)
        dirfd = home.directory(place.directory)
        st = home.lstat(dirfd, place.name)
        entry = describe(home, dirfd, place.name, st, with_xattrs=self._xattrs)
        parent = self._parent(row, place.directory)
        connection.check(home)
        with self._journal.transaction() as db:
            self._book.enter(db, row.number, RESTORED)
            if row.ino is not None:
                self._book.left_trash(db, row.ino, row.number)
        return {"restored": place.path, "parent": parent, "entry": list(entry)}

    def _find(self, home: Home, row: Trashed, destination: bytes | None) -> Place | None:
        """Where an earlier attempt has brought it; None: it is still in the trash."""
        if _is_there(home, Place(directory_of(row.job), file_name(row.number))):
            return None
        *directory, name = (destination or b"").split(b"/")
        place = Place(tuple(directory), name)
        if destination is None or not _is_there(home, place):
            raise Refused("it is not in home's trash any more")
        return place

    def _move(self, home: Home, row: Trashed) -> Place:
        """Bring it to the first free name beside the one that it had."""
        directory, name = self._directory(home, row.path)
        parent = self._parent(row, directory)
        for number in itertools.count(1):
            place = Place(directory, _name(name, row.job, number, home.properties.name_max))
            if parent is not None and self._view.child(parent, place.name) is not None:
                continue  # by something that home does not have yet, perhaps
            try:
                self._rename(home, row, place)
            except FileExistsError:
                continue
            except OSError as exc:
                if exc.errno != errno.EXDEV or not directory:
                    raise
                # The directory is on another file system than the trash: as if it were gone.
                directory, name, parent = (), _flat(row.path), ROOT
                continue
            return place
        raise AssertionError

    def _rename(self, home: Home, row: Trashed, place: Place) -> None:
        """The directory keeps its times, as the cache's does. Durable on return."""
        with self._journal.transaction() as db:
            self._book.enter(db, row.number, RESTORING)
            self._book.set_destination(db, row.number, place.path)
        above = place.directory
        before = os.stat(b".", dir_fd=home.directory(above))
        trash = home.directory(directory_of(row.job))
        home.rename_new(trash, file_name(row.number), home.directory(above), place.name)
        with suppress(OSError):  # they are not ours to set
            times = before.st_atime_ns, before.st_mtime_ns
            if above:
                home.set_times_at(home.directory(above[:-1]), above[-1], *times)
            else:
                home.set_times(home.readable, *times)
        home.sync_directory(above)
        home.sync_directory(directory_of(row.job))

    def _directory(self, home: Home, path: bytes) -> tuple[Path, bytes]:
        """Where it was, if that is there still; else the root, and a name that tells the path."""
        *above, name = path.split(b"/")
        if above[:1] != [MARKER]:
            try:
                home.directory(tuple(above))
                return tuple(above), name
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone, or another thing now
        return (), _flat(path)

    def _parent(self, row: Trashed, directory: Path) -> int | None:
        """The cache's directory that home has at that path; None if it knows none."""
        progress = self._progress
        locator = Locator(self._view, progress.executed, progress.forgotten, progress.in_doubt)
        for parent, _ in locator.places(row.ino) if row.ino is not None else ():
            if locator.directory(parent) == directory:
                return parent
        ino: int | None = ROOT
        for name in directory:
            ino = self._view.child(ino, name) if ino is not None else None
        return ino if ino is not None and locator.directory(ino) == directory else None


def _is_there(home: Home, place: Place) -> bool:
    try:
        home.lstat(home.directory(place.directory), place.name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _name(name: bytes, job: int, number: int, longest: int) -> bytes:
    end = b".restored-%d" % job + (b".%d" % number if number > 1 else b"")
    return name[: longest - len(end)] + end


def _flat(path: bytes) -> bytes:
    return path.replace(b"/", b"_")
