"""Content and attributes of objects at home: what `Make` and `Push` have in common.

A push reads the present row and blob: its bytes may be newer than its entries, its sizes never are.
The stamp of a file is taken after everything that changes its size or mtime.
"""

from __future__ import annotations

import errno
import os
import stat

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.stamp import Stamp, take
from afmfs.gateway.home.trouble import Inconsistent, MayEnd, Unrepresentable, Verb
from afmfs.gateway.replay.work import NOTHING, Contradicted, Done, Failed, Work, want_kind
from afmfs.gateway.state.transfer import BlobError, push, require_blob
from afmfs.gateway.state.versions import adoptable, is_known, is_newest, may_be_ours
from afmfs.gateway.state.view import Row
from afmfs.model.action import Content, Place, Push
from afmfs.model.entry import ROOT

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Pusher:
    def __init__(self, work: Work, *, asks: bool = True) -> None:
        """`asks`: whether it is asked if home's files are those that are known."""
        self.work, self._asks = work, asks

    # -- files -----------------------------------------------------------------------------------

    def fill(self, ino: int, content: Content, fd: int, place: Place) -> Done:
        """Give a file that we just made (empty, open as `fd`) its content and attributes."""
        work, row, end = self.work, self.work.rows.get(ino), 0
        try:
            if content.ranges:
                row, end = push(work.view, ino, row, content.ranges, fd, 0, work.pulse)
            if content.size is not None and content.size != end:
                os.ftruncate(fd, content.size)
            if row is None:
                return NOTHING  # gone meanwhile: the entry that removes it follows
        except OSError as exc:
            raise work.trouble(exc, place, Verb.WRITE) from exc
        return self._settle(fd, row, content.xattrs, place, attr=True)

    def _settle(
        self, fd: int, row: Row, keys: frozenset[bytes], place: Place, *, attr: bool
    ) -> Done:
        """Attributes, durability where it is due for each file, times, and the stamp."""
        work, home, noted = self.work, self.work.home, None
        if keys and work.xattrs:
            noted = self._set_xattrs(fd, row.ino, keys, place)
        verb = Verb.WRITE
        try:
            if work.sync_files:
                if attr:
                    noted = self._set_attributes(fd, row, os.fstat(fd), place) or noted
                verb = Verb.SYNC
                os.fsync(fd)  # before the times: what it writes back may change them
            verb = Verb.ATTR
            home.set_times(fd, row.atime, row.mtime)
            found = os.fstat(fd)
        except OSError as exc:
            raise work.trouble(exc, place, verb) from exc
        if attr and not work.sync_files:
            noted = self._set_attributes(fd, row, found, place) or noted
        return Done(take(found, stable_inodes=home.properties.stable_inodes), noted)

    def _set_attributes(
        self, fd: int, row: Row, now: os.stat_result | None, place: Place
    ) -> int | None:
        try:
            self.work.home.set_attributes(fd, row.mode, row.uid, row.gid, now)
        except OSError as exc:
            return self.work.note(exc, place, Verb.ATTR)
        return None

    def _set_xattrs(
        self, where: int | bytes, ino: int, keys: frozenset[bytes], place: Place | None
    ) -> int | None:
        noted, present = None, self.work.view.xattrs(ino)
        for key in sorted(keys):
            try:
                if key in present:
                    xattrs.put(where, key, present[key])
                else:
                    xattrs.remove(where, key)
            except OSError as exc:
                noted = self.work.note(exc, place, Verb.XATTR)
        return noted

    # -- pushes ----------------------------------------------------------------------------------

    def execute(self, action: Push) -> Done:
        work = self.work
        row = work.rows.get(action.ino)
        if row is None:
            return work.finish(action, NOTHING)  # gone meanwhile: the entry that removes it follows
        if action.kind != stat.S_IFREG:
            return work.finish(action, self._push_other(action, row))
        found = self._open(action)
        if found is None:
            return work.finish(action, NOTHING)
        fd, st, place, forced = found
        began = False
        try:
            try:
                if self._asks and not work.view.is_lost(action.ino):
                    self._compare(action.ino, fd, st, place)
                began = True
                row = self._write(action, row, fd, st, place)
                attr = action.content.attr or forced or bool(row.mode & _SET_ID)
                done = self._settle(fd, row, action.content.xattrs, place, attr=attr)
            except Unrepresentable as trouble:  # as large as this; it is there as far as it goes
                stable = work.home.properties.stable_inodes
                done = Done(take(os.fstat(fd), stable_inodes=stable), trouble.errno)
            finally:
                self.close(fd, place)
        except MayEnd as trouble:
            partial = work.doubt or (began and action.content.changes_bytes)
            raise Failed(trouble, partial) from trouble
        except Inconsistent as trouble:
            raise Contradicted(trouble, partial=began) from trouble
        except BlobError as exc:
            raise Failed(MayEnd(exc.errno, str(exc)), work.doubt or began) from exc
        return work.finish(action, done)

    def _write(self, action: Push, row: Row, fd: int, st: os.stat_result, place: Place) -> Row:
        content, size = action.content, st.st_size
        try:
            if content.ranges and any(
                end is not None and end < size for end in (content.smallest, content.size)
            ):
                require_blob(self.work.view, row)
            if content.smallest is not None and size > content.smallest:
                size = content.smallest
                os.ftruncate(fd, size)
            if content.size is not None and size != content.size:
                size = content.size
                os.ftruncate(fd, size)
            if content.ranges:
                work = self.work
                used, _ = push(work.view, action.ino, row, content.ranges, fd, size, work.pulse)
                return used or row
        except OSError as exc:
            raise self.work.trouble(exc, place, Verb.WRITE) from exc
        return row

    def close(self, fd: int, place: Place) -> None:
        try:
            os.close(fd)  # a network home may tell only here that it is full
        except OSError as exc:
            raise self.work.trouble(exc, place, Verb.WRITE) from exc

    def _open(self, action: Push) -> tuple[int, os.stat_result, Place, bool] | None:
        """Home's file, by the first of its names that is there; None if home has no name for it.

        The last value tells that its mode was changed so that we may open it.
        """
        work, missing = self.work, None
        flags = os.O_RDWR if action.content.changes_bytes else os.O_RDONLY
        for place in work.locator.places(action.ino):
            try:
                dirfd = work.directory(place[0])
                try:
                    return *self._open_at(action.ino, dirfd, place[1], flags), place, False
                except PermissionError:
                    self._open_up(dirfd, place[1])
                    return *self._open_at(action.ino, dirfd, place[1], flags), place, True
            except OSError as exc:
                missing = work.trouble(exc, place, Verb.READ)
                if not work.is_absent(exc):
                    raise missing from exc
        if missing is None:
            return None
        if not work.view.is_lost(action.ino):
            raise missing
        return self._make_lost(action) if action.content.changes_bytes else None

    def _open_at(self, ino: int, dirfd: int, name: bytes, flags: int) -> tuple[int, os.stat_result]:
        """As home.open_file. What seems to be another version may be what home remembers of this
        name, from before it was pushed to under another one."""
        work, home = self.work, self.work.home
        fd, st = home.open_file(dirfd, name, flags)
        try:
            known = work.view, work.progress, home.properties, ino
            if home.properties.is_fuse and (work.doubt or not is_newest(*known, st)):
                st = home.fstat_anew(fd, dirfd, name)
        except BaseException:
            os.close(fd)
            raise
        return fd, st

    def _make_lost(self, action: Push) -> tuple[int, os.stat_result, Place, bool] | None:
        """A file that home has lost, and of which something is here now: a new one, which reads as
        nulls where nothing is."""
        work = self.work
        for place in work.locator.places(action.ino):
            try:
                fd = work.home.make_file(work.directory(place[0]), place[1])
                return fd, os.fstat(fd), place, True
            except OSError as exc:
                raise work.trouble(exc, place, Verb.MAKE, action.kind) from exc
        return None

    def _open_up(self, dirfd: int, name: bytes) -> None:
        """Make a file of ours readable and writable for us; PermissionError if it isn't ours."""
        st = self.work.home.lstat(dirfd, name)
        if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mode = st.st_mode | stat.S_IRUSR | stat.S_IWUSR
        self.work.home.set_attributes_at(dirfd, name, mode, st.st_uid, st.st_gid)

    # -- versions --------------------------------------------------------------------------------

    def check(self, action: Push) -> None:
        """Inconsistent unless home still holds the version that is known (stamp-before-mark).
        Not for what is in doubt."""
        work, missing = self.work, None
        for place in work.locator.places(action.ino):
            try:
                st = work.home.lstat_anew(work.directory(place[0]), place[1])
                want_kind(st, action.kind, work.path(place))
                if action.kind != stat.S_IFREG or self._known(action.ino, st):
                    return
                fd, _ = work.home.open_file(work.directory(place[0]), place[1], os.O_RDONLY)
            except OSError as exc:
                missing = work.trouble(exc, place, Verb.READ)
                if not work.is_absent(exc):
                    raise missing from exc
                continue  # a home without hard links has one of the names
            try:
                self._compare(action.ino, fd, st, place)
            finally:
                work.home.close_file(fd)
            return
        if missing and not (work.view.is_lost(action.ino) or self._is_going(action)):
            raise missing

    def _is_going(self, action: Push) -> bool:
        """Whether the object was removed here while a job ran, which may have moved home's aside
        and made no other: the entry that removes it follows."""
        return self.work.may_be_gone(action) and self.work.view.row(action.ino) is None

    def _known(self, ino: int, st: os.stat_result) -> bool:
        return is_known(self.work.view, self.work.progress, self.work.home.properties, ino, st)

    def _compare(self, ino: int, fd: int, st: os.stat_result, place: Place) -> None:
        """Inconsistent unless it is the known version, or passes for it; in doubt, any version of
        that file: our own push may have left it."""
        work = self.work
        known = work.view, work.progress, work.home.properties, ino
        if self._known(ino, st):
            return
        if work.doubt:
            if not may_be_ours(*known, st):
                raise Inconsistent(work.path(place), "is another file")
            return
        try:
            fine = adoptable(*known, fd, st)
        except OSError as exc:
            raise work.trouble(exc, place, Verb.READ) from exc
        if not fine:
            raise Inconsistent(work.path(place), "was changed at home")

    # -- what is no file -------------------------------------------------------------------------

    def _push_other(self, action: Push, row: Row) -> Done:
        """Attributes of a directory, symbolic link or special file."""
        work = self.work
        if action.kind == stat.S_IFDIR:
            work.touched.add(action.ino)
        if action.ino == ROOT:
            noted = self._push_root(action.content, row)
            found = os.fstat(work.home.readable)
            return Done(None if noted is None else self._version(row, found), noted)
        missing = None
        for place in work.locator.places(action.ino):
            try:
                dirfd, name = work.directory(place[0]), place[1]
                st = work.home.lstat(dirfd, name)
            except OSError as exc:
                missing = work.trouble(exc, place, Verb.READ)
                if not work.is_absent(exc):
                    raise missing from exc
                continue
            want_kind(st, action.kind, work.path(place))
            try:
                noted = self.dress(action.content, row, (dirfd, name), place, st)
            except MayEnd as trouble:
                raise Failed(trouble, False) from trouble
            # What home can't hold is an attribute: the version says that it has the object.
            return Done(None if noted is None else self._version(row, st), noted)
        if missing is None or work.view.is_lost(action.ino):
            return NOTHING
        raise missing

    def _version(self, row: Row, st: os.stat_result) -> Stamp:
        """Of what is no file, and has not changed but for its attributes."""
        stamp = take(st, stable_inodes=self.work.home.properties.stable_inodes)
        return stamp if stat.S_ISDIR(row.mode) else stamp._replace(mtime=row.mtime)

    def dress(
        self,
        content: Content,
        row: Row,
        at: tuple[int, bytes],
        place: Place,
        now: os.stat_result | None,
    ) -> int | None:
        """Attributes and (except a directory's, which come last) times of what is no file.

        It is at `at` for now, and will be at `place`.
        """
        home, noted = self.work.home, None
        try:
            if content.xattrs and self.work.xattrs:
                with home.held(*at, row.mode, now) as held:
                    noted = self._set_xattrs(held, row.ino, content.xattrs, place)
            home.set_attributes_at(*at, row.mode, row.uid, row.gid, now)
        except OSError as exc:
            noted = self.work.note(exc, place, Verb.ATTR) or noted
        if not stat.S_ISDIR(row.mode):
            try:
                home.set_times_at(*at, row.atime, row.mtime)
            except OSError as exc:
                noted = self.work.note(exc, place, Verb.ATTR)
        return noted

    def _push_root(self, content: Content, row: Row) -> int | None:
        home, noted = self.work.home, None
        if content.xattrs and self.work.xattrs:
            noted = self._set_xattrs(home.readable, row.ino, content.xattrs, None)
        try:
            home.set_attributes(home.readable, row.mode, row.uid, row.gid)
        except OSError as exc:
            noted = self.work.note(exc, None, Verb.ATTR)
        return noted
