"""Making home agree with the cache, object by object: decided, kept, and then done.

What is done can be done again from any point of an interruption. Things go aside by numbers that
are used once. A new file is written beside, under a name of its row, and linked to its place: for
as long as the row stands both names do, so that it is seen whether what is there is our own. What
contradicts the decision (home changed once more since it was made) is decided anew.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.home.trouble import Inconsistent, MayEnd, Unrepresentable, Verb
from afmfs.gateway.job.decision import Aside, Decision
from afmfs.gateway.job.examine import Case, Examiner, Seen, same_object
from afmfs.gateway.job.priority import Due
from afmfs.gateway.job.way import make_way
from afmfs.gateway.replay.naming import Namer
from afmfs.gateway.replay.pushing import Pusher
from afmfs.gateway.replay.work import Contradicted, Done, Failed, Work
from afmfs.gateway.state.journal import ADOPTED, LOST, NULLED, RESYNCED, UNREPRESENTABLE, Outcome
from afmfs.gateway.state.transfer import BlobError
from afmfs.gateway.state.versions import expected
from afmfs.gateway.state.view import Row
from afmfs.gateway.trash.book import TrashBook, move_aside
from afmfs.model.action import Content, Make, Place, Push
from afmfs.model.entry import Op
from afmfs.model.merge import merge
from afmfs.model.outcome import UNLINKED
from afmfs.model.ranges import Ranges, cut, union
from afmfs.model.resync import CHANGED, IN_THE_WAY, Do, Job, Kind, verdict

log = logging.getLogger(__name__)

BESIDE = b"job-"
"""How names begin, in home's scratch directory, of what is written beside its place."""

_RESULTS = {Do.ADOPT: ADOPTED, Do.LOST: LOST}


class Surprise(Exception):
    """Home is not what it was when the decision was made."""


@dataclass(slots=True)
class Landed:
    """What became of some rows."""

    done: list[tuple[Due, Decision]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    # What home refuses for now, and whether something of it may have been done.
    failed: list[tuple[Due, MayEnd, bool]] = field(default_factory=list)
    undecided: list[tuple[Due, str]] = field(default_factory=list)  # and what was met
    # Its content is at home, and not all its names: to be looked at anew, as our own.
    unnamed: list[tuple[Due, Decision]] = field(default_factory=list)
    written: list[tuple[int, Ranges, int]] = field(default_factory=list)  # inode, bytes, size
    holes: list[tuple[int, Ranges]] = field(default_factory=list)  # inode, bytes


class Reconciler:
    def __init__(self, work: Work, examiner: Examiner, book: TrashBook, job: Job) -> None:
        self.work, self._examiner, self._book, self._job = work, examiner, book, job
        self._pusher = Pusher(work)
        doubtful = replace(work, doubt=True)
        # What is found is our own, half pushed: no version is asked for. At a new home the numbers
        # of its files say nothing.
        self._resuming = Pusher(doubtful, asks=job.kind is not Kind.FAILOVER)
        self._adopting = Pusher(doubtful, asks=False)
        self._namer = Namer(work, self._pusher)
        self._cases: dict[int, Case] = {}
        self._unlinked: dict[int, int] = {}  # inode -> errno of a name that home can't have
        self.beside: list[bytes] = []  # what was written beside, to be removed once it is landed

    # -- deciding --------------------------------------------------------------------------------

    def decide(self, due: Due, number: Callable[[], int]) -> Decision:
        """Look at home, and say what is to be done; nothing is done. `number` is of the trash."""
        decision, case = self.look(due.ino, number)
        if case is not None:
            self._cases[due.ino] = case
        return decision

    def look(self, ino: int, number: Callable[[], int]) -> tuple[Decision, Case | None]:
        """What is to be done about an object, and what that was judged by."""
        case = self._examiner.case(ino)
        return (Decision(Do.SKIP), None) if case is None else (self._judge(case, number), case)

    def _judge(self, case: Case, number: Callable[[], int]) -> Decision:
        first = case.names[0]
        found = verdict(case.cached, first.found, self._job)
        asides: list[Aside] = []
        if found.aside:
            asides.append(self._aside(first, number(), found.aside))
        others = [
            seen
            for seen in case.names[1:]
            if found.do is Do.MAKE or (found.do is not Do.LOST and not self._is_one(first, seen))
        ]
        if found.do is Do.SKIP and others:  # nothing of its data is pushed, but its names are
            found = found._replace(do=Do.PUSH)
        for seen in others:
            if seen.st is not None:
                same_kind = stat.S_IFMT(seen.st.st_mode) == case.cached.kind
                why = found.aside if self._is_one(first, seen) else ""
                asides.append(
                    self._aside(seen, number(), why or (CHANGED if same_kind else IN_THE_WAY))
                )
        return Decision(found.do, first.place, found.null, tuple(asides))

    def _is_one(self, one: Seen, two: Seen) -> bool:
        """Whether home has one object under both names."""
        return one.st is not None and two.st is not None and self._same(one.st, two.st)

    def _same(self, one: os.stat_result, two: os.stat_result) -> bool:
        return same_object(one, two, stable_inodes=self.work.home.properties.stable_inodes)

    def _aside(self, seen: Seen, number: int, why: str) -> Aside:
        assert seen.st is not None
        kind, path = stat.S_IFMT(seen.st.st_mode), self.work.path(seen.place)
        return Aside(seen.place, number, why, path, kind, seen.st.st_size)

    # -- doing -----------------------------------------------------------------------------------

    def execute(self, due: Due, decision: Decision, landed: Landed) -> None:
        """Do what was decided. HomeAway: it is not known how far it came."""
        try:
            done = self._execute(due, decision, landed)
        except (Surprise, Inconsistent, Contradicted) as exc:
            log.info("inode %d is looked at anew: %s", due.ino, exc)
            make_way(self.work, due.ino)
            landed.undecided.append((due, str(exc)))
        except Unrepresentable as trouble:
            landed.done.append((due, decision))
            landed.outcomes.append(Outcome(0, due.ino, None, UNREPRESENTABLE, trouble.errno))
        except (Failed, MayEnd, BlobError) as exc:
            landed.failed.append((due, *_failure(exc, decision)))
        else:
            landed.done.append((due, decision))
            self._note(due, decision, done, landed)
            code = self._unlinked.pop(due.ino, None)
            if code is not None:  # the last word: the one before says that all is well
                landed.outcomes.append(Outcome(0, due.ino, None, UNLINKED, code))
        self.work.pulse()

    def _note(self, due: Due, decision: Decision, done: Done, landed: Landed) -> None:
        outcome = self._outcome(due, decision, done)
        if outcome is not None:
            landed.outcomes.append(outcome)
        row = self.work.rows.get(due.ino)
        if row is not None and stat.S_ISREG(row.mode):
            self._note_nulls(row, decision, landed)

    def _note_nulls(self, row: Row, decision: Decision, landed: Landed) -> None:
        """What is not null at home any more, or is by our doing: to make it null once more would
        destroy nothing, and has not to be kept."""
        if decision.do is Do.ADOPT:
            landed.written.append((row.ino, (), 0))
        if decision.do not in (Do.MAKE, Do.PUSH):
            return
        if self._book.nulled(row.ino):
            landed.written.append(self._changed(row))
        if not row.whole and row.size > row.home_valid:
            sources = self.work.view.sources(row.ino, ((row.home_valid, row.size),))
            if sources is not None and sources.zeros:
                landed.holes.append((row.ino, cut(sources.zeros, row.size)))

    def _changed(self, row: Row) -> tuple[int, Ranges, int]:
        """The bytes that were written here, and the least size, since home last heard of them. Not
        all that is cached: nulls that were fetched from home are still those of an earlier job."""
        entries = self.work.view.content_entries(row.ino)
        written = union((e.start, e.end) for e in entries if e.op is Op.WRITE)
        return row.ino, written, min([row.size, *(e.end for e in entries if e.op is Op.SIZE)])

    def _outcome(self, due: Due, decision: Decision, done: Done) -> Outcome | None:
        """What the cache has to know of the object."""
        stamp = done.stamp
        if decision.do is Do.SKIP:
            stamp = self._agreed(due.ino)
        if decision.do is Do.LOST:
            return Outcome(0, due.ino, None, LOST)
        if stamp is None and done.unrepresentable is None:
            stamp = self._agreed(due.ino)  # of a directory: that it is there
            if stamp is None:
                return None
        result = _RESULTS.get(decision.do, NULLED if decision.null else RESYNCED)
        return Outcome(0, due.ino, stamp, result, done.unrepresentable)

    def _agreed(self, ino: int) -> Stamp | None:
        """The version that home has, where the cache does not know it, or that it is there."""
        case = self._cases.get(ino)
        if case is None or case.names[0].st is None:
            return None
        view, journal = self.work.view, self.work.journal
        known = not (view.is_lost(ino) or view.unheld(ino) or journal.unheld(ino))
        if self._job.kind is Kind.FAILOVER or not known:
            return self._examiner.stamp(case.names[0].st)
        return None

    def _execute(self, due: Due, decision: Decision, landed: Landed) -> Done:
        row = self.work.rows.get(due.ino)
        again = due.decision is not None
        if row is None:
            return Done()  # removed here since: so it will be at home, by an entry that follows
        if again:  # what an attempt that was cut short has changed is not changed once more
            places = (a.place for a in decision.asides)
            parents = {parent for parent, _ in (*places, *self.work.locator.places(due.ino))}
            self.work.touched.update(parents)
        for aside in decision.asides:
            self._move_aside(aside)
        if decision.at is None or decision.do in (Do.SKIP, Do.LOST):
            return Done()
        if decision.do is Do.ADOPT:
            done = self._adopt(row)
        elif decision.do is Do.PUSH:
            done = self._push(row, again=again)
        elif stat.S_ISREG(row.mode):
            done = self._make_file(due, decision.at, row, again=again)
        else:
            done = self._make_other(decision.at, row)
        try:
            self._name(decision.at, row)
        except (MayEnd, Inconsistent, Surprise):
            # It would be taken for somebody else's version when it is looked at again, and what
            # only home has of it would go to the trash.
            landed.unnamed.append((due, decision))
            self._note(due, decision, done, landed)
            raise
        return done

    def _adopt(self, row: Row) -> Done:
        """Home's bytes stay; what is pending of the file's attributes is for them. An empty file is
        all there from now on, and its attributes are the cache's like any other's."""
        case = self._cases.get(row.ino) or self._examiner.case(row.ino)
        first = case.names[0] if case is not None else None
        if case is None or first is None or first.st is None or not stat.S_ISREG(first.st.st_mode):
            raise Surprise("it is gone again")
        if case.cached.dirty or not first.st.st_size:
            return self._send(row, Content(attr=True, xattrs=self._keys(row)), self._adopting)
        return Done(self._examiner.stamp(first.st))

    def _move_aside(self, aside: Aside) -> None:
        work, (parent, name) = self.work, aside.place
        try:
            dirfd = work.directory(parent)
            with work.progress.names.moving():
                moved = move_aside(work.home, self._job.id, aside.number, dirfd, name, work.pulse)
        except FileNotFoundError:
            return  # there is nothing to be moved any more
        except OSError as exc:
            trouble = work.trouble(exc, aside.place, Verb.MOVE)
            if exc.errno == errno.EXDEV:
                trouble = MayEnd(exc.errno, f"{os.fsdecode(aside.path)}: is another file system")
            raise trouble from exc
        if moved:
            work.touched.add(parent)

    # -- what is there ---------------------------------------------------------------------------

    def _push(self, row: Row, *, again: bool) -> Done:
        case, content = self._cases.get(row.ino), self._whole(row)
        if self._job.exact and expected(self.work.view, self.work.progress, row.ino):
            # The queue tells what home may lack, and home's file is the one that lacks it.
            content = merge(self._examiner.changes.get(row.ino, ()))
        found = case.names[0].found if case is not None else None
        unasked = again or (found is not None and found.ours)
        return self._send(row, content, self._resuming if unasked else self._pusher)

    def _whole(self, row: Row) -> Content:
        """All that is cached of the object."""
        content = Content(attr=True, xattrs=self._keys(row))
        if stat.S_ISREG(row.mode):
            # The size as one that was set: an empty file has no bytes that say that it is written.
            every = ((0, row.size),) if row.size else ()
            content = replace(content, ranges=every)
            if row.whole or not self.work.view.lost_bytes(row.ino):
                content = replace(content, smallest=row.size, size=row.size)
            # Else to cut home's file, or to have it grow, would put zeros in the place of the lost.
        return content

    def _send(self, row: Row, content: Content, pusher: Pusher) -> Done:
        kind = stat.S_IFMT(row.mode)
        return pusher.execute(Push(ids=(), ino=row.ino, kind=kind, content=content))

    def _keys(self, row: Row) -> frozenset[bytes]:
        if not self.work.xattrs:
            return frozenset()
        view = self.work.view
        return view.pending_xattrs(row.ino).union(view.xattrs(row.ino))  # removed ones, too

    # -- what is not -----------------------------------------------------------------------------

    def _make_other(self, place: Place, row: Row) -> Done:
        work, kind = self.work, stat.S_IFMT(row.mode)
        content = Content(attr=True, xattrs=self._keys(row))
        action = Make(ids=(), ino=row.ino, kind=kind, place=place, content=content)
        work.touched.add(place[0])
        try:
            return self._namer.make_at(action, work.directory(place[0]), place[1])
        except OSError as exc:
            raise work.trouble(exc, place, Verb.MAKE, kind) from exc

    def _make_file(self, due: Due, place: Place, row: Row, *, again: bool) -> Done:
        """Written beside, and linked to its place when it is complete."""
        work, home = self.work, self.work.home
        beside = BESIDE + b"%d-%d" % (self._job.id, due.n)
        try:
            dirfd, scratch = work.directory(place[0]), home.scratch()
            if again and self._is_ours(dirfd, place[1], beside):
                self.beside.append(beside)
                # Once more: it may have been cut short by a power loss at home.
                return self._send(row, self._whole(row), self._adopting)
            with suppress(FileNotFoundError):
                home.unlink(scratch, beside)
            fd = home.make_file(scratch, beside)
        except OSError as exc:
            raise work.trouble(exc, place, Verb.MAKE, stat.S_IFREG) from exc
        self.beside.append(beside)
        try:
            done = self._pusher.fill(row.ino, self._whole(row), fd, place)
        finally:
            self._pusher.close(fd, place)
        work.touched.add(place[0])
        self._bring(beside, place, row)
        return done

    def _is_ours(self, dirfd: int, name: bytes, beside: bytes) -> bool:
        """Whether what is in the place is what an earlier attempt has made."""
        home = self.work.home
        try:
            found, ours = home.lstat(dirfd, name), home.lstat(home.scratch(), beside)
        except FileNotFoundError:
            return False
        if home.properties.stable_inodes:
            return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)
        return stat.S_ISREG(found.st_mode) and self._examiner.stamp(found) == (
            self._examiner.stamp(ours)
        )

    def _bring(self, beside: bytes, place: Place, row: Row) -> None:
        """Give what was written beside its name; what came there meanwhile is not touched."""
        work, home = self.work, self.work.home
        try:
            dirfd, scratch = work.directory(place[0]), home.scratch()
            with work.progress.names.moving():
                if home.properties.hard_links:
                    home.link(scratch, beside, dirfd, place[1])
                else:
                    home.rename_new(scratch, beside, dirfd, place[1])
        except FileExistsError as exc:
            raise Surprise(f"{os.fsdecode(place[1])} is there again") from exc
        except OSError as exc:
            raise work.trouble(exc, place, Verb.LINK, stat.S_IFREG) from exc

    # -- its other names -------------------------------------------------------------------------

    def _name(self, at: Place, row: Row) -> None:
        """Give the object every name that it is to have, after what stood there went aside."""
        work = self.work
        if stat.S_ISDIR(row.mode):
            return
        for place in work.locator.places(row.ino):
            if place == at:
                continue
            try:
                source = (work.directory(at[0]), at[1])
                dirfd = work.directory(place[0])
                self._link(source, dirfd, place)
            except OSError as exc:
                trouble = work.trouble(exc, place, Verb.LINK, stat.S_IFMT(row.mode))
                if not isinstance(trouble, Unrepresentable):
                    raise trouble from exc
                self._unlinked[row.ino] = trouble.errno

    def _link(self, source: tuple[int, bytes], dirfd: int, place: Place) -> None:
        work, home = self.work, self.work.home
        ours = home.lstat(*source)
        try:
            there = home.lstat(dirfd, place[1])
        except FileNotFoundError:
            pass  # the name is free
        else:
            if self._same(ours, there):
                return
            raise Surprise(f"{os.fsdecode(place[1])} is there again")
        with work.progress.names.moving():
            home.link(*source, dirfd, place[1])
        work.touched.add(place[0])


def _failure(exc: Failed | MayEnd | BlobError, decision: Decision) -> tuple[MayEnd, bool]:
    """Why home refuses, and whether something was done: of what goes aside that is never known."""
    making = decision.do is Do.MAKE
    if isinstance(exc, Failed):
        return exc.trouble, exc.partial or making
    if isinstance(exc, BlobError):
        return MayEnd(exc.errno, str(exc)), True
    return exc, making


def clear_beside(home: Home, names: list[bytes]) -> None:
    """Remove what was written beside. What can't be removed is removed at the job's end."""
    for name in names:
        with suppress(OSError):
            home.unlink(home.scratch(), name)
