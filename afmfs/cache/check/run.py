"""One check of a cache that nobody works with, from its beginning to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import chain
from pathlib import Path

from afmfs.cache.check import databases, journal_rows, salvage, walk
from afmfs.cache.check.databases import Unusable, open_for_check
from afmfs.cache.check.owed import Owed
from afmfs.cache.check.repair import Repair
from afmfs.cache.check.source import Source
from afmfs.cache.content.harm import DAMAGED, Note, forget_note, read_note, write_note
from afmfs.cache.report.event import insert_event
from afmfs.cache.report.queue import rfc3339
from afmfs.cache.store.lock import last_place
from afmfs.cache.store.log_file import CUT, note_loss
from afmfs.cache.store.store import Numbers, Store
from afmfs.errors import Damaged
from afmfs.model.entry import FIRST_INO
from afmfs.model.findings import Finding, Severity, Tally

Told = Callable[[Finding, bool], None]
"""Hears of each finding, and whether it was repaired."""

ROUNDS = 5
"""One repair may bring out what another has to mend, so all is gone through again."""


Pulse = Callable[[], None]
"""Called now and then: it goes on."""


def look(cache: Path, told: Told, pulse: Pulse = lambda: None) -> Tally:
    """Check, changing nothing."""
    tally = Tally()

    def tell(finding: Finding) -> None:
        tally.add(finding, repaired=False)
        told(finding, False)

    note_loss(cache, last_place(cache))
    if note := read_note(cache):
        tell(_noted(note))
    try:
        db = open_for_check(cache)
    except Unusable as trouble:
        tell(databases.file_finding(trouble))
        return tally
    with closing(db):
        files = walk.tables(cache, db, live=False)
        for finding in files:
            tell(finding)
        if all(finding.mend for finding in files):  # else nothing that is read can be believed
            source = Source(cache, db, live=False)
            for page in chain(walk.rows(source), walk.ground(source), walk.content(source)):
                pulse()
                for finding in page:
                    tell(finding)
    return tally


def _noted(note: Note) -> Finding:
    return Finding(
        kind="noted damage",
        text=f"damage was met at {rfc3339(note.time_ns)}: {note.text}",
        repair="once all is repaired, the fileset takes changes again",
    )


def _unfinished() -> Note:
    return Note("a repair of the cache did not come to its end", True, time.time_ns())


def _cut_off() -> Finding:
    return Finding(
        kind=databases.LOG,
        text=f"{CUT}: what had not been moved into cache.db is lost",
        repair=databases.OLD,
        severity=Severity.LOST,
        mend=Repair.mend_old_database,
    )


class Mending:
    """Check, and repair what can be repaired."""

    def __init__(self, cache: Path, told: Told, pulse: Pulse = lambda: None) -> None:
        self._cache, self._told, self._pulse = cache, told, pulse
        self._seen: set[str] = set()
        self._begun = False
        self.tally = Tally()

    def run(self) -> Tally:
        salvage.undo_exchange(self._cache)
        note_loss(self._cache, last_place(self._cache))
        note = read_note(self._cache)
        if note is not None:
            self._tell(_noted(note))
        later = self._files()
        store = Store(self._cache / "cache.db")
        told = Owed(store).get("renewed") or any(one.kind == databases.LOG for one in later)
        if note is not None and note.text == CUT and not told:
            later.append(_cut_off())
        store.disk.harm.note = None  # the database is sound from here on
        try:
            self._after_salvage(store)
            for _ in range(ROUNDS):
                if not self._round(store, later):
                    break
                later = []
            if note is not None and note.database:  # which took no event then
                with store:
                    insert_event(store.db, DAMAGED, {"reason": note.text})
            with store:
                Owed(store).end()
            store.sync_wal()
        finally:
            store.close()
        forget_note(self._cache)
        left = look(self._cache, self._told, self._pulse)
        self.tally.left = left.left
        return self.tally

    def _files(self) -> list[Finding]:
        """cache.db as a file, rebuilt if need be; what is to be mended in its tables."""
        cache = self._cache
        try:
            with closing(open_for_check(cache)) as db:
                found = walk.tables(cache, db, live=False)
        except Unusable as trouble:
            found = [databases.file_finding(trouble)]
        kinds = {finding.kind for finding in found}
        if databases.LOG in kinds:
            salvage.keep_log(cache)
            # The database, once it is opened, writes over it.
            write_note(cache, Note(CUT, True, time.time_ns()))
        if databases.COUNTERS in kinds:
            salvage.mend_counters(cache)
        beyond = [finding for finding in found if finding.mend is None]
        if beyond:
            salvage.rebuild(cache)
            for finding in beyond:
                self._tell(finding)
        return [finding for finding in found if finding.mend is not None]

    def _after_salvage(self, store: Store) -> None:
        """What follows for the tables of a database that was rebuilt, now or by a repair that did
        not come to this point."""
        incomplete = Owed(store).get("incomplete")
        if incomplete:
            repair = Repair(store, Source(self._cache, store.db, live=False).block)
            self._begin(store, repair)
            with store:
                repair.after_salvage(set(incomplete))

    def _begin(self, store: Store, repair: Repair) -> None:
        """The first change of the tables is about to be made. No mount takes the cache for a sound
        one before the repair, or another one, has come to its end."""
        if self._begun:
            return
        self._begun = True
        write_note(self._cache, read_note(self._cache) or _unfinished())
        with store:
            repair.begin()

    def _round(self, store: Store, later: Iterable[Finding]) -> bool:
        """Whether anything was mended that was not before."""
        source = Source(self._cache, store.db, live=False)
        repair = Repair(store, source.block)
        mended = False
        self._forget(store, source, repair)  # what the last repair had no time for
        for page in chain(walk.rows(source), [later], walk.ground(source)):
            mended |= self._mend(store, source, repair, page)
        store.entries = Numbers(store, "entry_limit", 1)
        store.inos = Numbers(store, "ino_limit", FIRST_INO)
        store.entries.reserve()
        store.inos.reserve()
        for page in walk.content(source):
            mended |= self._mend(store, source, repair, page)
        if mended:
            with store:
                repair.finish()
        return mended

    def _forget(self, store: Store, source: Source, repair: Repair) -> None:
        """Have gateway.db forget what it is to forget, once that is durable here."""
        if repair.dropped or repair.beyond is not None:
            store.sync_wal()
            journal_rows.forget(source.journal, repair.dropped, repair.beyond)
            with store:
                repair.forgotten()

    def _mend(self, store: Store, source: Source, repair: Repair, found: Iterable[Finding]) -> bool:
        mended = False
        self._pulse()
        todo = [one for one in found if one.mend is not None and _name(one) not in self._seen]
        if todo or source.old:
            self._begin(store, repair)
        if source.old:
            with store:
                repair.is_old(source.old)
            store.sync_wal()  # before blobs that prove it are moved
        for finding in todo:
            if _name(finding) in self._seen or not self._is_mended(store, repair, finding):
                continue
            mended = True
            self._tell(finding)
        self._forget(store, source, repair)
        return mended

    def _is_mended(self, store: Store, repair: Repair, finding: Finding) -> bool:
        """One transaction, with all that later finds can't tell again: see `owed`."""
        assert finding.mend is not None
        try:
            with store:
                finding.mend(repair)
                repair.remember()
        except Damaged:
            repair.recall()
            return False  # it is found again at the end
        return True

    def _tell(self, finding: Finding) -> None:
        self._seen.add(_name(finding))
        self.tally.add(finding, repaired=True)
        self._told(finding, True)


def _name(finding: Finding) -> str:
    return json.dumps([finding.kind, finding.ino, finding.text, finding.detail])
