"""The order of a check: each part builds on what the parts before it have found sound."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from afmfs.cache.check import blobs, databases, journal, maps, names, settings
from afmfs.cache.check.entries import Entries
from afmfs.cache.check.inodes import Inodes
from afmfs.cache.check.source import Source
from afmfs.cache.check.suspects import Suspects
from afmfs.model.findings import Finding

Pages = Iterator[list[Finding]]


def tables(cache: Path, db: sqlite3.Connection, *, live: bool) -> list[Finding]:
    """cache.db and its log as files of SQLite's."""
    found = [*databases.check(db, quick=live)]
    return found if live else [*databases.log_finding(cache), *found]


def rows(source: Source) -> Pages:
    """What can be read and is not what was written; before anything is mended by what it says."""
    yield from maps.check(source)


def ground(source: Source) -> Pages:
    """What everything else stands on: settings, and numbers that count as free."""
    yield from settings.check(source)
    yield from settings.limits(source)


def content(source: Source) -> Pages:
    """All the rest: names, inodes, maps, blobs, the queue, and the gateway's journal.

    An empty page tells that something was looked at: whoever checks beside others may rest.
    """
    suspects = Suspects(source)
    inodes, entries = Inodes(source, suspects), Entries(source)
    yield from names.check(source)
    for page in inodes.check():
        yield page
        yield from suspects.check(at_end=False)
    yield from suspects.check(at_end=True)
    yield from blobs.check(source, inodes.count)
    yield from entries.check()
    yield entries.counters(None if source.live else inodes.cached_bytes)
    yield from journal.check(source)
    yield from settings.age(source)
