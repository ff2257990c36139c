"""What a resync, a failover or a recovery does about one object: a pure verdict.

The cache is right and home follows; but what home alone holds is never destroyed. So each verdict
says what is done at home (`Do`), which bytes become null there, and why what is found has to be
moved aside, into home's trash, first:

    home has          the cache has           verdict
    nothing           data, or no file        MAKE; uncached bytes are null
    nothing           a file without data     LOST: nobody has it
    the known file    data                    PUSH, in place
    the known file    a part, and a manual    MAKE with nulls; the old file goes aside,
                      resync                  as its uncached bytes exist nowhere else
    the known file    no data                 SKIP; PUSH if something of it is pending
    what is known     anything, and nothing   SKIP; PUSH the attributes of a directory where
                      pending, in a recovery  they differ
    another version   data                    MAKE; what is there goes aside
    another version   no data                 ADOPT: the cache takes home's size and times over
    another version   no data, but a pending  MAKE with nulls; what is there goes aside
                      size
    another object's  no data                 LOST: two objects of the cache that are one at home
    file                                      would overwrite each other
    an equal file     anything (failover)     SKIP: nothing is sent
    another type      data, or no file        MAKE; what is there goes aside
    another type      a file without data     LOST
    the known file    a file that is removed  SKIP: nobody will ask home for its data but those
                      and open                who have it open; they have theirs here
    anything else     the same                LOST: they would ask for it again and again

Uncached bytes that an earlier job has made null are nulls of our own: nothing has to be kept of
them, and so a second resync changes nothing.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from afmfs.model.ranges import Ranges


class Kind(StrEnum):
    """The three that use the priority queue."""

    RESYNC = "resync"
    FAILOVER = "failover"
    RECOVERY = "recovery"


class Do(StrEnum):
    MAKE = "make"  # a new object, written beside and moved to its name
    PUSH = "push"  # content and attributes, in place
    ADOPT = "adopt"  # the cache follows home
    LOST = "lost"  # neither has the data
    SKIP = "skip"  # they agree; the version is remembered


CHANGED, WAS_NULLED, IN_THE_WAY, REMOVED = "changed", "nulled", "in the way", "removed"
"""Why something is moved aside."""

GROWN = 0
"""In the place of a job's number, of bytes that are null at home as a file has grown by them:
nothing was there before."""


@dataclass(frozen=True, slots=True)
class Job:
    """One resync, failover or recovery, as the administrator (or the fileset itself) asked for it.

    `bound` is the last queue entry that it takes care of; what was queued later is replayed later.
    Entries up to `doubt` may have been executed although the gateway does not know: its journal was
    lost. `missing` entries were lost from the queue.
    """

    id: int
    kind: Kind
    bound: int
    manual: bool = False
    keep_uncached: bool = False
    doubt: int = 0
    missing: int = 0

    @property
    def careful(self) -> bool:
        """Whether home may have seen more, or less, of the changes than is known."""
        return self.kind is Kind.RECOVERY or self.doubt > 0

    @property
    def exact(self) -> bool:
        """Whether the queue tells all that has to be settled, and nothing else is looked at."""
        return self.kind is Kind.RECOVERY and not self.missing

    @property
    def nulls(self) -> bool:
        """Whether uncached bytes become null although home's version is the known one."""
        return self.kind is Kind.RESYNC and self.manual and not self.keep_uncached


class Cached(NamedTuple):
    """What the cache has of an object."""

    kind: int  # S_IFMT bits
    valid: Ranges = ()  # bytes of a file that are cached
    gaps: Ranges = ()  # bytes of a file that only home may have
    dirty: bool = False  # something of it is pending
    unread: bool = False  # a directory's names, or where a symbolic link leads, are not known
    resized: bool = False  # its size is: home's bytes are not what they were to be
    removed: bool = False  # it has no name here, and is kept for who has it open

    @property
    def without_data(self) -> bool:
        return self.unread or (bool(self.gaps) and not self.valid)


class Found(NamedTuple):
    """What home has in its place."""

    kind: int  # S_IFMT bits
    known: bool = False  # the version (of a symbolic link: the target) that the cache knows
    equal: bool = False  # size and mtime are the cache's
    nulled: Ranges = ()  # bytes that an earlier job has made null
    another: bool = False  # it is a file that the cache knows as another object, by another name
    ours: bool = False  # known as our own push, which may have been cut short


class Verdict(NamedTuple):
    do: Do
    null: Ranges = ()
    aside: str = ""  # why what was found is moved aside; empty: it isn't


def verdict(cached: Cached, found: Found | None, job: Job) -> Verdict:
    if cached.removed:
        there = job.kind is Kind.RECOVERY or (found is not None and found.known)
        return Verdict(Do.SKIP if there else Do.LOST)
    if found is None or found.kind != cached.kind:
        if cached.without_data:
            return Verdict(Do.LOST)
        return Verdict(Do.MAKE, cached.gaps, IN_THE_WAY if found else "")
    if job.kind is Kind.FAILOVER and found.equal:
        return Verdict(Do.SKIP)
    is_directory = cached.kind == stat.S_IFDIR
    if job.kind is Kind.RECOVERY and found.known and not cached.dirty:
        # The times of a directory are those of lost changes to what is in it.
        return Verdict(Do.PUSH if is_directory and not found.equal else Do.SKIP)
    if is_directory:
        return Verdict(Do.PUSH)
    if cached.without_data and found.another:
        return Verdict(Do.LOST)
    if not found.known:
        if cached.without_data and not cached.resized:
            return Verdict(Do.ADOPT)
        return Verdict(Do.MAKE, cached.gaps, CHANGED)
    if cached.without_data:
        return Verdict(Do.PUSH if cached.dirty else Do.SKIP)
    if job.nulls and not _within(cached.gaps, found.nulled):
        return Verdict(Do.MAKE, cached.gaps, WAS_NULLED)
    return Verdict(Do.PUSH)


def _within(inner: Ranges, outer: Ranges) -> bool:
    return all(any(a <= start and end <= b for a, b in outer) for start, end in inner)
