"""Proof that the cache's own data are damaged, and what the fileset does about it.

A blob is missing or short, or SQLite can't read a page of cache.db: what else is wrong nobody
knows, so nothing is built on it. No change is taken (EROFS), nothing is replayed or evicted, no
more is cached; what is intact goes on being read. Where it is the database that is damaged, it is
not written to either: a page that is in use may count as free.

It is noted in a file, as the database may be what is damaged, and holds over kills and mounts until
a check has repaired the cache.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import trio

from afmfs.cache.report.queue import rfc3339
from afmfs.errors import Damaged

log = logging.getLogger(__name__)

NOTE = "damaged"
"""File in a cache that says what is wrong with it, as long as that is so."""


DAMAGED = "afmDamaged"
"""The event."""


class Note(NamedTuple):
    text: str
    database: bool  # cache.db itself is damaged
    time_ns: int


class Harm:
    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.note = read_note(cache)
        self.news = trio.Event()  # set when there is a note that nobody has told of yet

    def __bool__(self) -> bool:
        return self.note is not None

    def prove(self, text: str, *, database: bool = False) -> Damaged:
        """Take note of damage, durably; what whoever met it may raise. On the loop thread."""
        known = self.note
        if known is None or (database and not known.database):
            self.note = note = Note(text, database, time.time_ns())
            log.critical("the cache is damaged: %s", text)
            try:
                write_note(self._cache, note)
            except OSError as exc:  # as good as the disk is; the next mount will meet it again
                log.error("%s: %s", self._cache / NOTE, exc)
            self.news.set()
        return Damaged(f"{text}: check the cache")

    def check(self) -> None:
        """EROFS if the cache is damaged: nothing more is taken."""
        if self.note is not None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def check_database(self) -> None:
        """EROFS if cache.db is damaged: it is not written to."""
        if self.note is not None and self.note.database:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    @property
    def text(self) -> str:
        """What is wrong and the way out; '' if nothing is."""
        return about(self._cache, self.note) if self.note is not None else ""


def about(cache: Path, note: Note) -> str:
    return (
        f"the cache is damaged ({note.text}): what is intact is read, nothing is taken or replayed;"
        f" unmount the fileset, then `afmctl {shlex.quote(str(cache))} check --repair`"
    )


def event_of(note: Note) -> dict[str, Any]:
    """What a list of events has of it where the database did not take it."""
    return {"number": 0, "time": rfc3339(note.time_ns), "name": DAMAGED, "reason": note.text}


def read_note(cache: Path) -> Note | None:
    """What was noted of a cache. A note that can't be read tells of the worst."""
    try:
        text = (cache / NOTE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Note(**json.loads(text))
    except (ValueError, TypeError):
        return Note("so a mount has noted", True, 0)


def write_note(cache: Path, note: Note) -> None:
    """Durable on return."""
    with (cache / NOTE).open("w") as file:
        json.dump(note._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(cache)


def forget_note(cache: Path) -> None:
    """The cache is repaired. Durable on return."""
    (cache / NOTE).unlink(missing_ok=True)
    sync_directory(cache)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
