"""Bringing bytes that a resync made null back into the file that home has now.

While it lasts, and after a crash until it is settled, home's version of the file is our own doing:
the intent is durable before the first byte, so nobody takes it for a stranger's change.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp, take
from afmfs.gateway.home.trouble import HomeAway, Verb, classify
from afmfs.gateway.state.journal import RESYNCED, Outcome
from afmfs.gateway.state.locate import InDoubt, Locator
from afmfs.gateway.state.versions import is_known, may_be_ours
from afmfs.gateway.trash.aside import copy_bytes
from afmfs.gateway.trash.book import (
    MOVED,
    RESTORED,
    RESTORING,
    Trashed,
    directory_of,
    file_name,
)
from afmfs.gateway.trash.parts import Parts
from afmfs.model.ranges import Ranges, cut

log = logging.getLogger(__name__)

MOST_RANGES = 64
"""Told of one file; of more the span that they cover is told."""

_BYTES = b"\0"
"""Begins what the book keeps of a file whose bytes are restored: no path does."""

Row = dict[str, Any]


class Refused(Exception):
    """An entry that can't be restored, for a reason that an administrator understands."""


def is_refill(destination: bytes | None) -> bool:
    """Whether bytes were restored, or are being, and not an entry."""
    return destination is not None and destination.startswith(_BYTES)


class Refiller:
    """Methods that take a home are called while nothing is replayed."""

    def __init__(self, parts: Parts) -> None:
        self._journal, self._book, self._view = parts.journal, parts.book, parts.view
        self._progress, self._contact = parts.progress, parts.contact
        self._due, self._tell = parts.due, parts.tell
        self._half: dict[int, Trashed] = {}  # begun, and nobody knows what home has of them
        for row in self._book.in_state(RESTORING):
            if is_refill(self._book.destination(row.number)):
                self._leave_half(row)
        self._progress.settle = self.settle

    # -- what was left half done -----------------------------------------------------------------

    def settle(self, home: Home) -> None:
        """Before anything is replayed: what home has of half restored files is our own work.

        They are restored when they are asked for again. HomeAway.
        """
        for row in list(self._half.values()):
            assert row.ino is not None
            try:
                with self._opened(home, row.ino) as (fd, _):
                    if fd is not None and self._may_be(home, row.ino, os.fstat(fd), half=True):
                        self._land(row, self._stamp(home, fd, row.ino, None), RESTORING)
            except InDoubt:
                continue  # what its name hangs on is replayed first
            except OSError as exc:
                trouble = classify(exc, row.path, Verb.WRITE, properties=home.properties)
                if isinstance(trouble, HomeAway):
                    raise trouble from exc
                log.warning("a half restored file can't be opened: %s", trouble)
            self._end_half(row)

    def _leave_half(self, row: Trashed) -> None:
        if row.number not in self._half:
            assert row.ino is not None
            self._half[row.number] = row
            self._progress.mark_restored(row.ino, 1)

    def _end_half(self, row: Trashed) -> None:
        if self._half.pop(row.number, None) is not None:
            assert row.ino is not None
            self._progress.mark_restored(row.ino, -1)

    # -- restoring -------------------------------------------------------------------------------

    def refill(self, connection: Connection, home: Home, row: Trashed) -> Row | None:
        """Restore the bytes; what the mount process has to know. None if the file is gone here: it
        has to come back as an entry.

        InDoubt: not now. Refused, HomeAway, OSError.
        """
        assert row.ino is not None
        if row.state == RESTORED:
            destination = self._book.destination(row.number) or b""
            return {"ino": row.ino, "ranges": json.loads(destination[1:])}
        ranges, half = self._book.ranges(row.ino, row.number), row.number in self._half
        if self._due(row.ino) or (self._progress.is_pushing(row.ino) and not half):
            raise InDoubt(row.ino)
        with self._opened(home, row.ino) as (fd, path):
            if fd is None and not path:
                return None
            if fd is None:
                raise Refused(f"{os.fsdecode(path)} is missing at home")
            if not ranges:
                raise Refused("none of its bytes are null any more")
            st = os.fstat(fd)
            if not self._may_be(home, row.ino, st, half=half):
                raise Refused("the present file was changed at home")
            told: Row = {"ino": row.ino, "ranges": as_told(ranges)}
            failure = self._fill(connection, home, row, fd, ranges, None if half else st)
            if failure is not None:
                told["reason"] = failure.strerror
        return told

    def _may_be(self, home: Home, ino: int, st: os.stat_result, *, half: bool) -> bool:
        """Whether it is the known file: half restored it is of no known version."""
        fits = may_be_ours if half else is_known
        return fits(self._view, self._progress, home.properties, ino, st)

    def _fill(
        self, connection: Connection, home: Home, row: Trashed, fd: int, ranges: Ranges,
        before: os.stat_result | None,
    ) -> OSError | None:  # fmt: skip
        """Copy the ranges from the trash into home's file; the error that ended it early."""
        assert row.ino is not None
        source = self._open_source(home, row)
        self._progress.mark_restored(row.ino, 1)
        try:
            with self._journal.transaction() as db:
                self._book.enter(db, row.number, RESTORING)
                self._book.set_destination(
                    db, row.number, _BYTES + json.dumps(as_told(ranges)).encode()
                )
            failure = self._copy(source, fd, cut(ranges, min(os.fstat(fd).st_size, row.size)))
            stamp = self._stamp(home, fd, row.ino, before)
            connection.check(home)
            self._land(row, stamp, RESTORED if failure is None else MOVED)
            self._end_half(row)
        except BaseException:
            self._leave_half(row)  # settled before the next replay
            raise
        finally:
            os.close(source)
            self._progress.mark_restored(row.ino, -1)
        return failure

    def _open_source(self, home: Home, row: Trashed) -> int:
        try:
            trash = home.directory(directory_of(row.job))
            return home.open_file(trash, file_name(row.number), os.O_RDONLY)[0]
        except (FileNotFoundError, NotADirectoryError):
            raise Refused("it is not in home's trash any more") from None

    def _copy(self, source: int, fd: int, ranges: Ranges) -> OSError | None:
        """What ends it early is returned: what is there by then has to be recorded all the same."""
        try:
            for start, end in ranges:
                copy_bytes(source, fd, start, end, self._contact.pulse)
            os.fsync(fd)
        except OSError as exc:
            return exc
        return None

    def _stamp(self, home: Home, fd: int, ino: int, before: os.stat_result | None) -> Stamp:
        """Home's version, with the times that it had before (None: those that the cache has)."""
        row = self._view.row(ino)
        with suppress(OSError):  # they are not ours to set
            if before is not None:
                home.set_times(fd, before.st_atime_ns, before.st_mtime_ns)
            elif row is not None:
                home.set_times(fd, row.atime, row.mtime)
        return take(os.fstat(fd), stable_inodes=home.properties.stable_inodes)

    def _land(self, row: Trashed, stamp: Stamp, state: str) -> None:
        ino = row.ino
        assert ino is not None

        def also(db: sqlite3.Connection) -> None:
            self._book.enter(db, row.number, state)
            if state == RESTORED:
                self._book.unnull(db, ino, row.number)
            elif state == MOVED:
                self._book.forget_destination(db, row.number)

        self._journal.land([Outcome(0, ino, stamp, RESYNCED)], also=also)
        self._tell()

    @contextmanager
    def _opened(self, home: Home, ino: int) -> Iterator[tuple[int | None, bytes]]:
        """Home's file by the first of its names that is there, and that name's path; no descriptor
        if it isn't there, no path either if it has no name. InDoubt."""
        fd, path, progress = None, b"", self._progress
        with progress.names.looking():
            locator = Locator(self._view, progress.executed, progress.forgotten, progress.in_doubt)
            for directory, name in locator.paths(ino):
                path = b"/".join((*directory, name))
                try:
                    fd, _ = home.open_file(home.directory(directory), name, os.O_RDWR)
                    break
                except OSError as exc:
                    if exc.errno not in _NOT_THERE:
                        raise
        try:
            yield fd, path
        finally:
            if fd is not None:
                os.close(fd)


_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ESTALE})


def as_told(ranges: Ranges) -> list[list[int]]:
    """Ranges as they travel in a message."""
    if len(ranges) > MOST_RANGES:
        ranges = ((ranges[0][0], ranges[-1][1]),)
    return [[start, end] for start, end in ranges]
