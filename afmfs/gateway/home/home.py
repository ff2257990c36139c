"""One connection to a home directory: its descriptors, and thin verbs on (directory, name).

Home is not trusted with our privileges: it is walked with directory descriptors and O_NOFOLLOW,
so a symlink at home never leads a call outside, and nothing that isn't a regular file is opened.
Verbs raise plain OSErrors (trouble.classify says what they mean). A Home lives as long as one
batch or fetch: nothing below home stays open between, so that the admin can unmount it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from afmfs.gateway.home import memory, syscalls, xattrs
from afmfs.gateway.home.walk import Path, Walker, check_name
from afmfs.model.entry import UNTOLD
from afmfs.model.properties import Properties

MARKER = b".afm"
SCRATCH: Path = (MARKER, b"scratch")
UNLINKED: Path = (MARKER, b"unlinked")

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})
"""What a home says that can't sync a directory."""
_REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT})
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID


class Home(Walker):
    """Descriptors of one home directory. Thread-safe, but for `close`.

    `root` (O_PATH) and `readable` (to sync, to list, and for the root's own attributes) are open
    as long as it lives, `handle` is the marker's open file while a connection has it opened.
    `pulse` hears of calls that return: a home that takes a second for each is slow, not away.
    """

    def __init__(
        self,
        path: bytes,
        properties: Properties | None = None,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the root. OSError if that fails. A symlink *to* the root is the admin's."""
        self.path = path
        self.properties = properties or Properties()
        self.handle = -1
        self.reached = 0  # modification time of the marker, ns, as home keeps it
        self.root = os.open(path, os.O_PATH | os.O_DIRECTORY)
        try:
            # opened before the first write: syncfs reports only the errors that came later
            self.readable = os.open(b".", _LIST, dir_fd=self.root)
        except BaseException:
            os.close(self.root)
            raise
        super().__init__(self.root, pulse)
        pulse()
        self._user = os.geteuid()
        self._groups = frozenset({os.getegid(), *os.getgroups()})

    def close(self) -> None:
        """Close everything below home. No other thread may be using it any more: the numbers
        of its descriptors will be given to other files."""
        self.close_directories()
        for fd in (self.handle, self.readable, self.root):
            if fd >= 0:
                try:
                    os.close(fd)
                except OSError:
                    pass  # a network home reports late errors here: check() has asked before
        self.handle = self.readable = self.root = -1

    # --- directories

    def open_directory(self, path: Path) -> int:
        """A readable descriptor (to list, to fsync), the caller's to close."""
        return os.open(b".", _LIST, dir_fd=self.directory(path))

    def scratch(self) -> int:
        """The directory for objects that are written beside and renamed over. See directory."""
        return self.own_directory(SCRATCH)

    def unlinked(self) -> int:
        """The directory of what was removed here while open and not whole. See directory."""
        return self.own_directory(UNLINKED)

    def own_directory(self, path: Path) -> int:
        """A directory below the marker, made if need be. See directory."""
        try:
            return self.directory(path)
        except FileNotFoundError:
            if len(path) == 1:
                raise  # the marker's own: without it this is not our home
            above = self.own_directory(path[:-1])
            try:
                os.mkdir(path[-1], 0o700, dir_fd=above)
            except FileExistsError:
                pass  # another thread was faster
            return self.directory(path)

    def sync_directory(self, path: Path) -> None:
        """Its names are on stable storage, where home can say that of a directory."""
        fd = self.open_directory(path)
        try:
            os.fsync(fd)
        except OSError as exc:
            if exc.errno not in NO_SYNC:
                raise
        finally:
            os.close(fd)

    # --- objects

    def lstat(self, dirfd: int, name: bytes) -> os.stat_result:
        check_name(name)
        found = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        self.pulse()
        return found

    def lstat_anew(self, dirfd: int, name: bytes) -> os.stat_result:
        """As lstat, past what a FUSE home remembers of the name."""
        return memory.look_anew(self, dirfd, name)

    def fstat_anew(self, fd: int, dirfd: int, name: bytes) -> os.stat_result:
        """Of an open file: as lstat_anew. The kernel, too, learns where it ends."""
        self.lstat_anew(dirfd, name)  # sshfs has forgotten the name's attributes then
        if self.properties.is_fuse:
            syscalls.revalidate(fd)
        return os.fstat(fd)

    def open_file(self, dirfd: int, name: bytes, flags: int) -> tuple[int, os.stat_result]:
        """Open a regular file; anything else is ESTALE (a symlink ELOOP, a directory EISDIR).

        Looked at before it is opened: merely opening a device can have effects. O_NONBLOCK, as a
        FIFO may be put in its place in between.
        """
        _want_regular(self.lstat(dirfd, name).st_mode, name)
        fd = os.open(name, flags | _OPEN, dir_fd=dirfd)
        try:
            if self.properties.is_fuse:
                syscalls.revalidate(fd)  # sshfs has looked at it anew, the kernel has not
            found = os.fstat(fd)
            _want_regular(found.st_mode, name)
        except BaseException:
            os.close(fd)
            raise
        self.pulse()
        return fd, found

    @staticmethod
    def close_file(fd: int) -> None:
        """What was only read: a remote home that is gone says so here as well, but it is the check
        of the connection that tells what was read of it is good."""
        with suppress(OSError):
            os.close(fd)

    def make_file(self, dirfd: int, name: bytes) -> int:
        """A new regular file, 0600, open for reading and writing."""
        check_name(name)
        with memory.making(self, dirfd, name):
            fd = os.open(name, _MAKE, 0o600, dir_fd=dirfd)
        self.pulse()
        return fd

    def make_dir(self, dirfd: int, name: bytes) -> None:
        check_name(name)
        with memory.making(self, dirfd, name):
            os.mkdir(name, 0o700, dir_fd=dirfd)

    def symlink(self, target: bytes, dirfd: int, name: bytes) -> None:
        check_name(name)
        with memory.making(self, dirfd, name):
            os.symlink(target, name, dir_fd=dirfd)

    def readlink(self, dirfd: int, name: bytes) -> bytes:
        check_name(name)
        return os.readlink(name, dir_fd=dirfd)

    def leads_to(self, dirfd: int, name: bytes) -> bytes:
        """The target of a symbolic link; UNTOLD where home keeps it to itself, as sshfs does with
        one that is absolute or leads upwards (contain_symlinks)."""
        try:
            return self.readlink(dirfd, name)
        except OSError as exc:
            if exc.errno != errno.EPERM:
                raise
            return UNTOLD

    def mknod(self, dirfd: int, name: bytes, mode: int, rdev: int) -> None:
        """A FIFO, socket or device; `mode` with its S_IFMT bits."""
        check_name(name)
        with memory.making(self, dirfd, name):
            os.mknod(name, stat.S_IFMT(mode) | 0o600, rdev, dir_fd=dirfd)

    def link(self, dirfd: int, name: bytes, dirfd2: int, name2: bytes) -> None:
        """(dirfd2, name2) becomes one more name of (dirfd, name), also of a symlink."""
        check_name(name)
        check_name(name2)
        with memory.making(self, dirfd2, name2):
            os.link(name, name2, src_dir_fd=dirfd, dst_dir_fd=dirfd2, follow_symlinks=False)

    def unlink(self, dirfd: int, name: bytes) -> None:
        check_name(name)
        os.unlink(name, dir_fd=dirfd)

    def rmdir(self, dirfd: int, name: bytes) -> None:
        """The caller says forget_directory."""
        check_name(name)
        os.rmdir(name, dir_fd=dirfd)

    def rename(self, dirfd: int, name: bytes, dirfd2: int, name2: bytes) -> None:
        """Replaces what is there. The caller says forget_directories if it is a directory."""
        check_name(name)
        check_name(name2)
        os.replace(name, name2, src_dir_fd=dirfd, dst_dir_fd=dirfd2)

    def rename_new(self, dirfd: int, name: bytes, dirfd2: int, name2: bytes) -> None:
        """EEXIST if something is there (looked at just before, where home can't do it in one)."""
        check_name(name)
        check_name(name2)
        if self.properties.noreplace:
            with memory.making(self, dirfd2, name2):
                syscalls.renameat2(dirfd, name, dirfd2, name2, syscalls.RENAME_NOREPLACE)
            return
        remembered = memory.want_free(self, dirfd2, name2)
        try:
            os.replace(name, name2, src_dir_fd=dirfd, dst_dir_fd=dirfd2)
        except (IsADirectoryError, NotADirectoryError) as exc:
            if remembered:
                raise memory.later(name2) from exc
            raise

    def exchange(self, dirfd: int, name: bytes, dirfd2: int, name2: bytes) -> None:
        """Swap two names in one step; only where properties.exchange."""
        check_name(name)
        check_name(name2)
        syscalls.renameat2(dirfd, name, dirfd2, name2, syscalls.RENAME_EXCHANGE)

    # --- attributes

    def set_attributes(
        self, fd: int, mode: int, uid: int, gid: int, now: os.stat_result | None = None
    ) -> None:
        """Owner, where permitted, then mode: a chown clears the set-id bits, as does a write.

        `now`: what is set already, to spare a remote home the question.
        """
        owner = self._owner(uid, gid, now)
        if owner is not None:
            os.chown(fd, *owner)
        if self._sets_mode(mode, now, owner is not None):
            os.chmod(fd, stat.S_IMODE(mode))

    def set_attributes_at(
        self,
        dirfd: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        now: os.stat_result | None = None,
    ) -> None:
        """As set_attributes, of anything; `mode` with its S_IFMT bits (a symlink's has no use).

        ESTALE (a symlink: ELOOP) if it is of another type, or is not `now` any more: who may write
        the directory must not have somebody else's file given to them.
        """
        if stat.S_ISLNK(mode) and not self.properties.symlink_attributes:
            return  # its target would get them, wherever that is
        owner = self._owner(uid, gid, now)
        sets_mode = not stat.S_ISLNK(mode) and self._sets_mode(mode, now, owner is not None)
        if owner is None and not sets_mode:
            return
        with self.held(dirfd, name, mode, now) as path:
            if owner is not None:
                os.chown(path, *owner)
            if sets_mode:
                os.chmod(path, stat.S_IMODE(mode))

    @contextmanager
    def held(
        self, dirfd: int, name: bytes, mode: int, now: os.stat_result | None = None
    ) -> Iterator[xattrs.Held]:
        """A path that leads to one object, of the type in `mode`, whatever becomes of its name.

        ESTALE (a symlink: ELOOP) if it is of another type, or another object than `now`.
        """
        check_name(name)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=dirfd)
        try:
            found = os.fstat(fd)
            same = now is None or (found.st_dev, found.st_ino) == (now.st_dev, now.st_ino)
            if stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode) or not (
                same or not self.properties.stable_inodes
            ):
                code = errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.ESTALE
                raise OSError(code, os.strerror(code), name)
            yield xattrs.Held(b"/proc/self/fd/%d" % fd)
        finally:
            os.close(fd)

    def is_new(self, st: os.stat_result) -> bool:
        """Whether what was found where we have just made something may be it: it is ours."""
        return st.st_uid == self._user or not self.properties.owners

    def _owner(self, uid: int, gid: int, now: os.stat_result | None) -> tuple[int, int] | None:
        if now is not None and (now.st_uid, now.st_gid) == (uid, gid):
            return None
        if self.properties.owners:
            return uid, gid
        if uid == self._user and gid in self._groups and not self.properties.is_fuse:
            return -1, gid
        return None

    def _sets_mode(self, mode: int, now: os.stat_result | None, chowned: bool) -> bool:
        if not self.properties.modes:
            return False
        return (
            now is None
            or chowned
            or bool(mode & _SPECIAL_BITS)
            or stat.S_IMODE(mode) != stat.S_IMODE(now.st_mode)
        )

    def set_times(self, fd: int, atime_ns: int, mtime_ns: int) -> None:
        os.utime(fd, ns=(atime_ns, mtime_ns))

    def set_times_at(self, dirfd: int, name: bytes, atime_ns: int, mtime_ns: int) -> None:
        check_name(name)
        if not self.properties.symlink_attributes and stat.S_ISLNK(self.lstat(dirfd, name).st_mode):
            return  # its target would get them, wherever that is
        os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=dirfd, follow_symlinks=False)

    # --- the whole

    def sync(self) -> None:
        """All that was done at this home is on its stable storage, and it has moved on.

        Where home is FUSE, syncfs doesn't reach it: files are fsynced by their writers; here the
        marker is touched and fsynced, which on a journalling file system behind it brings what
        was done to names before it to the disk as well.
        """
        self.move_on()
        syscalls.syncfs(self.readable)
        if self.properties.is_fuse and self.handle >= 0:
            os.fsync(self.handle)

    def move_on(self) -> None:
        """Move the marker's modification time on, never back, whatever the clock says. A home with
        an earlier one than `reached` is an older state of this home."""
        if self.handle < 0:
            return
        now = max(time.time_ns(), self.reached)
        try:
            os.utime(self.handle, ns=(now, now))
        except OSError as exc:
            if exc.errno in _REFUSED:
                return  # it refuses all else too, which is told of
            raise
        self.reached = os.fstat(self.handle).st_mtime_ns

    def statvfs(self) -> os.statvfs_result:
        found = os.fstatvfs(self.readable)
        self.pulse()
        return found

    def mount_id(self) -> str:
        return syscalls.mount_id(self.root)


def _want_regular(mode: int, name: bytes) -> None:
    if stat.S_ISREG(mode):
        return
    code = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(
        stat.S_IFMT(mode), errno.ESTALE
    )
    raise OSError(code, os.strerror(code), name)
