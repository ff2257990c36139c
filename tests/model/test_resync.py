"""What a job does about one object: the table of verdicts row by row, and its laws."""

from __future__ import annotations

import stat
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.model.ranges import Ranges, difference, gaps, total, union
from afmfs.model.resync import (
    CHANGED,
    IN_THE_WAY,
    WAS_NULLED,
    Cached,
    Do,
    Found,
    Job,
    Kind,
    Verdict,
    verdict,
)

FILE, DIRECTORY, LINK, FIFO = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO
SIZE = 10

AUTOMATIC = Job(1, Kind.RESYNC, 0)
MANUAL = replace(AUTOMATIC, manual=True)
KEEPING = replace(MANUAL, keep_uncached=True)
RECOVERY = replace(AUTOMATIC, kind=Kind.RECOVERY)
FAILOVER = replace(AUTOMATIC, kind=Kind.FAILOVER)
JOBS = {
    "automatic": AUTOMATIC,
    "manual": MANUAL,
    "keeping": KEEPING,
    "recovery": RECOVERY,
    "failover": FAILOVER,
}
ALL = tuple(JOBS)
OFTEN = tuple(name for name in ALL if name != "recovery")
NOT_MANUAL = tuple(name for name in OFTEN if name != "manual")

HALF: Ranges = ((5, SIZE),)
EVICTED = Cached(FILE, (), ((0, SIZE),))
PARTIAL = Cached(FILE, ((0, 5),), HALF)
WHOLE = Cached(FILE, ((0, SIZE),))
EMPTY = Cached(FILE)  # of no bytes: none is missing
A_DIRECTORY, A_LINK, A_FIFO = Cached(DIRECTORY), Cached(LINK), Cached(FIFO)
NO_FILES = (A_DIRECTORY, A_LINK, A_FIFO)
WITH_DATA = (PARTIAL, WHOLE, EMPTY)
REMOVED = (PARTIAL._replace(removed=True), PARTIAL._replace(removed=True, dirty=True))

KNOWN, CHANGED_FILE = Found(FILE, known=True), Found(FILE)
EQUAL = Found(FILE, equal=True)


class Row(NamedTuple):
    """One line of the module's table, or a case of it."""

    home: str
    cache: str
    cached: tuple[Cached, ...]
    found: Found | None
    do: Do
    jobs: tuple[str, ...] = ALL
    null: Ranges = ()
    aside: str = ""


TABLE = (
    Row("nothing", "data", (WHOLE, EMPTY), None, Do.MAKE),
    Row("nothing", "a part", (PARTIAL,), None, Do.MAKE, null=HALF),
    Row("nothing", "no file", NO_FILES, None, Do.MAKE),
    Row("nothing", "a file without data", (EVICTED,), None, Do.LOST),
    Row("the known file", "data", (WHOLE, EMPTY), KNOWN, Do.PUSH, OFTEN),
    Row("the known file", "a part", (PARTIAL,), KNOWN, Do.PUSH, NOT_MANUAL),
    Row("the known file", "a part", (PARTIAL,), KNOWN, Do.MAKE, ("manual",), HALF, WAS_NULLED),
    Row("its own nulls", "a part", (PARTIAL,), Found(FILE, True, False, HALF), Do.PUSH, OFTEN),
    Row("some nulls of its own", "a part", (PARTIAL,), Found(FILE, True, False, ((5, 7),)),
        Do.MAKE, ("manual",), HALF, WAS_NULLED),
    Row("the known file", "no data", (EVICTED,), KNOWN, Do.SKIP),
    Row("the known file", "a change of its mode", (EVICTED._replace(dirty=True),), KNOWN, Do.PUSH),
    Row("another version", "data", (WHOLE, EMPTY), CHANGED_FILE, Do.MAKE, aside=CHANGED),
    Row("another version", "a part", (PARTIAL,), CHANGED_FILE, Do.MAKE, null=HALF, aside=CHANGED),
    Row("another version", "no data", (EVICTED,), CHANGED_FILE, Do.ADOPT),
    Row("an equal file", "anything", (*WITH_DATA, EVICTED), EQUAL, Do.SKIP, ("failover",)),
    Row("an equal directory", "a directory", (A_DIRECTORY,), Found(DIRECTORY, True, True),
        Do.SKIP, ("failover",)),
    Row("another type", "data", (WHOLE, EMPTY), Found(DIRECTORY), Do.MAKE, aside=IN_THE_WAY),
    Row("another type", "a part", (PARTIAL,), Found(LINK), Do.MAKE, null=HALF, aside=IN_THE_WAY),
    Row("another type", "no file", NO_FILES, CHANGED_FILE, Do.MAKE, aside=IN_THE_WAY),
    Row("another type", "a file without data", (EVICTED,), Found(DIRECTORY), Do.LOST),
    Row("the known file", "a file that is removed", REMOVED, KNOWN, Do.SKIP),
    Row("nothing", "a file that is removed", REMOVED, None, Do.LOST, OFTEN),
    Row("another version", "a file that is removed", REMOVED, CHANGED_FILE, Do.LOST, OFTEN),
    Row("nothing", "a file that is removed", REMOVED, None, Do.SKIP, ("recovery",)),
    Row("a directory", "a directory", (A_DIRECTORY,), Found(DIRECTORY), Do.PUSH),
    Row("the same link", "a link", (A_LINK,), Found(LINK, known=True), Do.PUSH, OFTEN),
    Row("what is known", "no change", (*WITH_DATA, EVICTED), KNOWN, Do.SKIP, ("recovery",)),
    Row("an equal directory", "no change", (A_DIRECTORY,), Found(DIRECTORY, True, True), Do.SKIP,
        ("recovery",)),
    Row("a known directory", "no change", (A_DIRECTORY,), Found(DIRECTORY, True), Do.PUSH,
        ("recovery",)),
    Row("what is known", "a change", tuple(c._replace(dirty=True) for c in WITH_DATA), KNOWN,
        Do.PUSH, ("recovery",)),
    Row("another link", "a link", (A_LINK,), Found(LINK), Do.MAKE, aside=CHANGED),
)  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.home} - {row.cache} - {row.do}")
def test_the_table(row: Row) -> None:
    for cached in row.cached:
        for name in row.jobs:
            said = verdict(cached, row.found, JOBS[name])
            assert said == Verdict(row.do, row.null, row.aside), (cached, name)


@pytest.mark.parametrize("kind, manual, keep, nulls", [
    (Kind.RESYNC, True, False, True),
    (Kind.RESYNC, True, True, False),
    (Kind.RESYNC, False, False, False),
    (Kind.FAILOVER, True, False, False),
    (Kind.RECOVERY, True, False, False),
])  # fmt: skip
def test_only_a_manual_resync_makes_null_what_home_alone_has(
    kind: Kind, manual: bool, keep: bool, nulls: bool
) -> None:
    assert Job(1, kind, 0, manual, keep).nulls is nulls


# -- laws ----------------------------------------------------------------------------------------

jobs = st.builds(Job, st.just(1), st.sampled_from(Kind), st.just(0), st.booleans(), st.booleans())
kinds = st.sampled_from([FILE, FILE, FILE, FILE, DIRECTORY, LINK])
marks = st.lists(st.integers(0, SIZE), max_size=6).map(sorted)
spans = marks.map(lambda m: union(zip(m[::2], m[1::2], strict=False)))


@st.composite
def objects(draw: st.DrawFn) -> Cached:
    """Files of ten bytes, each of them cached or at home alone; and what is no file."""
    kind, dirty = draw(kinds), draw(st.booleans())
    if kind != FILE:
        return Cached(kind, dirty=dirty, unread=kind == DIRECTORY and draw(st.booleans()))
    valid = draw(st.just(()) | spans)
    resized = dirty and draw(st.booleans())
    return Cached(kind, valid, gaps(valid, 0, SIZE), dirty, resized=resized)


found_things = st.none() | st.builds(
    lambda kind, known, equal, nulled: Found(kind, known, equal, nulled if kind == FILE else ()),
    kinds, st.booleans(), st.booleans(), spans,
)  # fmt: skip


@given(objects(), found_things, jobs)
def test_nothing_that_home_alone_has_goes_without_a_copy(
    cached: Cached, found: Found | None, job: Job
) -> None:
    said = verdict(cached, found, job)
    if found is not None and said.do is Do.MAKE:
        assert said.aside
    if said.do is not Do.MAKE:
        assert not said.null and not said.aside
    if said.do is Do.PUSH and found is not None and found.kind != DIRECTORY:
        assert found.known  # else bytes of another version would be mixed with ours


@given(objects(), found_things, jobs)
def test_what_is_cached_gets_to_home(cached: Cached, found: Found | None, job: Job) -> None:
    said = verdict(cached, found, job)
    equal = job.kind is Kind.FAILOVER and found is not None and found.equal
    clean = job.kind is Kind.RECOVERY and found is not None and found.known and not cached.dirty
    if not cached.without_data and not equal and not clean:
        assert said.do in (Do.MAKE, Do.PUSH)
    if said.do is Do.MAKE:
        assert said.null == cached.gaps  # and so home has ten bytes, each ours or null


@given(objects(), found_things, jobs)
def test_only_what_is_without_data_follows_home_or_is_lost(
    cached: Cached, found: Found | None, job: Job
) -> None:
    said = verdict(cached, found, job)
    if said.do in (Do.ADOPT, Do.LOST):
        assert cached.unread or (cached.gaps and not cached.valid)
        assert said.do is Do.LOST or not cached.resized
    if said.do is Do.LOST:
        assert found is None or found.kind != cached.kind


@given(objects(), found_things, jobs)
def test_nothing_is_nulled_that_an_earlier_job_has_nulled(
    cached: Cached, found: Found | None, job: Job
) -> None:
    if found is not None and found.known and not total(difference(cached.gaps, found.nulled)):
        assert not verdict(cached, found, job).null or found.kind != cached.kind


def after(cached: Cached, found: Found | None, said: Verdict) -> tuple[Cached, Found | None]:
    """What the cache and home have when a verdict is carried out, the outcome taken over."""
    clean = cached._replace(dirty=False, resized=False)
    if said.do is Do.LOST:
        return clean, found
    if said.do is Do.MAKE:
        return clean, Found(cached.kind, True, True, said.null)
    assert found is not None
    whole = said.do is Do.PUSH and not cached.gaps
    nulled = difference(found.nulled, cached.valid) if said.do is Do.PUSH else found.nulled
    return clean, found._replace(known=True, equal=found.equal or whole, nulled=nulled)


@given(objects(), found_things, jobs)
def test_said_again_it_moves_nothing(cached: Cached, found: Found | None, job: Job) -> None:
    first = verdict(cached, found, job)
    again = verdict(*after(cached, found, first), job)
    assert not again.null and not again.aside
    assert again.do in ((Do.LOST,) if first.do is Do.LOST else (Do.PUSH, Do.SKIP))


@given(objects(), found_things, jobs)
def test_an_automatic_resync_after_any_job_moves_nothing(
    cached: Cached, found: Found | None, job: Job
) -> None:
    first = verdict(cached, found, job)
    again = verdict(*after(cached, found, first), AUTOMATIC)
    assert not again.null and not again.aside
