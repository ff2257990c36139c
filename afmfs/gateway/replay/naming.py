"""Executing the actions that make, free and move names at home.

Each is one or two calls that home does as one; what is in doubt is done again, taking what is found
for our own work (crash-rules.md: doubt, doubt-adopts-type). Whoever frees or moves a name that was
there keeps fetches out meanwhile, until home's derived names have changed as well.
"""

from __future__ import annotations

import errno
import os
import stat

from afmfs.gateway.home.stamp import take
from afmfs.gateway.home.trouble import HomeAway, Inconsistent, MayEnd, Trouble, Unclear, Verb, gone
from afmfs.gateway.replay.exchange import Exchanger
from afmfs.gateway.replay.handover import hand_over, is_elsewhere
from afmfs.gateway.replay.pushing import Pusher
from afmfs.gateway.replay.small import make_small
from afmfs.gateway.replay.work import NOTHING, Done, Failed, Work, want_kind
from afmfs.gateway.state.transfer import BlobError
from afmfs.gateway.state.view import Row
from afmfs.model.action import Exchange, Link, Make, NameAction, Place, Remove, Rename

_GONE = b".afm: gone"  # target of a symbolic link whose own removal follows


class Namer:
    def __init__(self, work: Work, pusher: Pusher) -> None:
        self.work, self.pusher = work, pusher
        self.exchanger = Exchanger(work)

    def execute(self, action: NameAction) -> Done:
        """Raises Failed, Unrepresentable, Inconsistent (nothing done) or HomeAway (in doubt)."""
        touched = self.work.touched
        touched.add(action.place[0])
        if isinstance(action, Make):
            if action.replaces is None:
                return self._make(action)
            return self._make_over(action)
        if isinstance(action, Remove):
            return self._remove(action)
        if isinstance(action, Link):
            return self._link(action)
        touched.add(action.target[0])
        if isinstance(action, Rename):
            return self._rename(action)
        self._want_both(action)
        return self.exchanger.execute(action)

    # -- new objects -----------------------------------------------------------------------------

    def _make(self, action: Make) -> Done:
        work, place = self.work, action.place
        try:
            dirfd = work.directory(place[0])
        except OSError as exc:
            raise work.trouble(exc, place, Verb.MAKE, action.kind) from exc
        done = make_small(work, action, dirfd) if stat.S_ISREG(action.kind) else None
        return work.finish(action, done or self.make_at(action, dirfd, place[1]))

    def make_at(self, action: Make, dirfd: int, name: bytes) -> Done:
        """Make the object under a name that need not be its place yet."""
        if stat.S_ISREG(action.kind):
            return self._make_file(action, dirfd, name)
        return self._make_other(action, dirfd, name)

    def _make_file(self, action: Make, dirfd: int, name: bytes) -> Done:
        work, fresh = self.work, True
        try:
            try:
                fd = work.home.make_file(dirfd, name)
            except FileExistsError:
                if not work.doubt:
                    raise
                # In doubt, a file that is found is ours: emptied and written again.
                fd, _ = work.home.open_file(dirfd, name, os.O_RDWR)
                fresh = False
                os.ftruncate(fd, 0)
        except OSError as exc:
            raise work.trouble(exc, action.place, Verb.MAKE, action.kind) from exc
        try:
            try:
                return self.pusher.fill(action.ino, action.content, fd, action.place)
            finally:
                self.pusher.close(fd, action.place)
        except (MayEnd, BlobError) as exc:
            trouble = exc if isinstance(exc, MayEnd) else MayEnd(exc.errno, str(exc))
            raise Failed(trouble, not (fresh and self._undo(action, dirfd, name))) from exc
        except Trouble:
            if fresh:
                self._undo(action, dirfd, name)
            raise

    def _make_other(self, action: Make, dirfd: int, name: bytes) -> Done:
        work, home, place = self.work, self.work.home, action.place
        row = work.rows.get(action.ino)
        try:
            try:
                self._create(action.kind, row, dirfd, name)
            except FileExistsError:
                if not work.doubt:
                    raise
                want_kind(home.lstat(dirfd, name), action.kind, work.path(place))
            if row is None:
                return NOTHING
            now = home.lstat(dirfd, name)
            if not (work.doubt or home.is_new(now)):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        except OSError as exc:
            raise work.trouble(exc, place, Verb.MAKE, action.kind) from exc
        stamp = take(now, stable_inodes=home.properties.stable_inodes)
        if action.kind == stat.S_IFDIR:
            work.touched.add(action.ino)
        else:
            stamp = stamp._replace(mtime=row.mtime)
        try:
            noted = self.pusher.dress(action.content, row, (dirfd, name), place, now)
        except MayEnd as trouble:
            raise Failed(trouble, not self._undo(action, dirfd, name)) from trouble
        return Done(stamp, noted)

    def _create(self, kind: int, row: Row | None, dirfd: int, name: bytes) -> None:
        home = self.work.home
        if kind == stat.S_IFDIR:
            home.make_dir(dirfd, name)
        elif kind == stat.S_IFLNK:
            home.symlink((row.target if row else None) or _GONE, dirfd, name)
        else:
            home.mknod(dirfd, name, kind, row.rdev if row else 0)

    def _undo(self, action: Make, dirfd: int, name: bytes) -> bool:
        """Remove a new object that can't be completed; True if so nothing was executed."""
        try:
            if action.kind == stat.S_IFDIR:
                self.work.home.rmdir(dirfd, name)
            else:
                self.work.home.unlink(dirfd, name)
        except OSError:
            return False
        return True

    def _make_over(self, action: Make) -> Done:
        """Write it beside and rename it over what it replaces: home has one of them at any time.

        In doubt it is simply done again.
        """
        work, home, place, beside = self.work, self.work.home, action.place, b"%x" % action.ids[0]
        try:
            _clear(work, home.scratch(), beside)
            done = self.make_at(action, home.scratch(), beside)
            with work.progress.names.moving():
                if action.replaces is not None:
                    hand_over(work, place, action.replaces)
                home.rename(home.scratch(), beside, work.directory(place[0]), place[1])
                return work.finish(action, done)
        except OSError as exc:
            raise self._failed(action, exc, Verb.MOVE) from exc

    # -- names of what is there ------------------------------------------------------------------

    def _link(self, action: Link) -> Done:
        work, home, place = self.work, self.work.home, action.place
        try:
            try:
                source = self._source(action)
            except FileNotFoundError as exc:
                if work.view.is_lost(action.ino):
                    return work.finish(action, NOTHING)
                work.want_made(action, place)
                raise work.trouble(exc, place, Verb.READ) from exc
            try:
                home.link(*source, work.directory(place[0]), place[1])
            except FileExistsError:
                if not work.doubt:
                    raise
                self._link_again(action, source)
        except OSError as exc:
            raise self._failed(action, exc, Verb.LINK) from exc
        return work.finish(action, NOTHING)

    def _source(self, action: Link) -> tuple[int, bytes]:
        """A name that home has for the inode already."""
        work, missing = self.work, FileNotFoundError(2, "home has no name for what is linked")
        for parent, name in work.locator.places(action.ino):
            try:
                dirfd = work.directory(parent)
                want_kind(work.look(dirfd, name), action.kind, work.path((parent, name)))
                return dirfd, name
            except OSError as exc:
                if not work.is_absent(exc):
                    raise
                missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise missing

    def _link_again(self, action: Link, source: tuple[int, bytes]) -> None:
        """In doubt, the name is there: fine if it is the same object, else ours of an earlier
        attempt, whose object was made anew since."""
        work, home, place = self.work, self.work.home, action.place
        dirfd = work.directory(place[0])
        ours, found = home.lstat(*source), home.lstat(dirfd, place[1])
        want_kind(found, action.kind, work.path(place))
        if (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino):
            return
        scratch, beside = home.scratch(), b"%x" % action.ids[0]
        _clear(work, scratch, beside)
        home.link(*source, scratch, beside)
        home.rename(scratch, beside, dirfd, place[1])
        _clear(work, scratch, beside)  # it stays where both were names of one object

    def _remove(self, action: Remove) -> Done:
        work, home, place = self.work, self.work.home, action.place
        try:
            dirfd = work.directory(place[0])
            found = home.lstat(dirfd, place[1])
            # Of another type it is somebody else's, and what it holds may be nowhere else.
            want_kind(found, action.kind, work.path(place))
            with work.progress.names.moving():
                try:
                    if action.kind == stat.S_IFDIR:
                        home.rmdir(dirfd, place[1])
                    elif not hand_over(work, place, action.ino):
                        home.unlink(dirfd, place[1])
                except OSError as exc:
                    self._want_gone(action, dirfd, exc, Verb.REMOVE)
                if action.kind == stat.S_IFDIR:
                    path = (work.locator.directory(place[0]) or ()) + (place[1],)
                    home.forget_directory(path)
                return work.finish(action, NOTHING)
        except FileNotFoundError as exc:
            lost = work.may_be_gone(action) or work.view.is_lost(action.ino)
            if lost or is_elsewhere(work, place, action.ino):
                return work.finish(action, NOTHING)
            raise work.trouble(exc, place, Verb.REMOVE) from exc
        except OSError as exc:
            raise self._failed(action, exc, Verb.REMOVE) from exc

    def _rename(self, action: Rename) -> Done:
        work, home, place = self.work, self.work.home, action.place
        try:
            dirfd, dirfd2 = self._found(action), work.directory(action.target[0])
            if dirfd is None:
                return self._renamed_before(action, dirfd2)
            if action.replaces is not None and not work.may_be_gone(action):
                self._want_replaced(action, action.replaces, dirfd2)
            with work.progress.names.moving():
                try:
                    if action.replaces is None:
                        home.rename_new(dirfd, place[1], dirfd2, action.target[1])
                    else:
                        hand_over(work, action.target, action.replaces)
                        home.rename(dirfd, place[1], dirfd2, action.target[1])
                except OSError as exc:
                    self._want_gone(action, dirfd, exc, Verb.MOVE)
                if action.kind == stat.S_IFDIR:
                    home.forget_directories()
                    work.locator.forget()
                return work.finish(action, NOTHING)
        except OSError as exc:
            raise self._failed(action, exc, Verb.MOVE) from exc

    def _want_both(self, action: Exchange) -> None:
        """Inconsistent where home could never hold one of the two: a resync moves the other."""
        sides = (action.ino, action.place), (action.other, action.target)
        lacking = [place for ino, place in sides if self.work.lacks(ino, place)]
        if len(lacking) == 1:
            reason = "home could never hold what is swapped with another"
            raise Inconsistent(self.work.path(lacking[0]), reason)

    def _want_gone(self, action: Rename | Remove, dirfd: int, exc: OSError, verb: Verb) -> None:
        """After an error, raises unless the name is gone all the same: what goes on meanwhile would
        miss it. HomeAway where that stays open of a move: what is below would be missed as well."""
        trouble = self._failed(action, exc, verb)
        if isinstance(trouble, HomeAway):  # asked a second time, home might be there again
            raise trouble from exc
        if not (isinstance(trouble, Failed) and isinstance(trouble.trouble, Unclear)):
            raise exc
        try:
            self.work.home.lstat_anew(dirfd, action.place[1])
        except FileNotFoundError:
            return
        except OSError as again:
            if isinstance(action, Rename):
                raise gone(os.fsdecode(self.work.path(action.place)), again.errno) from exc
        raise trouble from exc

    def _found(self, action: Rename) -> int | None:
        """The directory in which what is to be moved is; None only where it may be gone."""
        work, place = self.work, action.place
        try:
            dirfd = work.directory(place[0])
            st = work.look(dirfd, place[1])
        except OSError as exc:
            if not work.is_absent(exc):
                raise
            work.want_made(action, action.target)
            # What it was to replace must go all the same: then a resync sees to it.
            lost = action.replaces is None and work.view.is_lost(action.ino)
            if lost or work.may_be_gone(action):
                return None
            raise work.trouble(exc, place, Verb.READ) from exc
        want_kind(st, action.kind, work.path(place))
        return dirfd

    def _want_replaced(self, action: Rename, replaced: int, dirfd: int) -> None:
        work, target = self.work, action.target
        try:
            work.home.lstat(dirfd, target[1])
        except FileNotFoundError:
            if not (work.lacks(replaced, target) or is_elsewhere(work, target, replaced)):
                raise Inconsistent(work.path(target), "is missing", missing=True) from None

    def _renamed_before(self, action: Rename, dirfd: int) -> Done:
        """In doubt, and gone from its old name: it is at the new one, or a later action of the
        batch has removed it from there."""
        work = self.work
        try:
            found = work.look(dirfd, action.target[1])
        except FileNotFoundError:
            if self._should_be_at(action.target, action.ino):
                raise Inconsistent(work.path(action.target), "is missing", missing=True) from None
            return work.finish(action, NOTHING)
        want_kind(found, action.kind, work.path(action.target))
        if action.kind == stat.S_IFDIR:
            work.home.forget_directories()
            work.locator.forget()
        return work.finish(action, NOTHING)

    def _should_be_at(self, place: Place, ino: int) -> bool:
        """Whether home can't do without it there: here it has that name still, and data that a
        change done in silence would leave here alone."""
        work = self.work
        kept = place in work.view.names(ino) and not work.view.is_lost(ino)
        return kept and not is_elsewhere(work, place, ino)

    def _failed(self, action: NameAction, exc: OSError, verb: Verb) -> Exception:
        place = action.place
        if isinstance(action, Rename | Exchange) and exc.errno != errno.ENOENT:
            place = action.target
        trouble = self.work.trouble(exc, place, verb, action.kind)
        if isinstance(trouble, MayEnd):
            return self.work.refused(action, trouble)
        return trouble


def _clear(work: Work, scratch: int, name: bytes) -> None:
    """Remove what an earlier attempt left in the scratch directory."""
    try:
        work.home.unlink(scratch, name)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        work.home.rmdir(scratch, name)
