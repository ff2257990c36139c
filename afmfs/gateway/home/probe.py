"""Tries out what a home can hold, in a scratch place under its marker.

Nobody knows beforehand: it depends on the file system, its mount options, the server's, and on
who we are. Each trial is tolerant: whatever goes wrong, the answer is no.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import replace

from afmfs.gateway.home import syscalls, xattrs
from afmfs.gateway.home.home import MARKER, SCRATCH, Home
from afmfs.gateway.home.memory import is_left_over
from afmfs.model.properties import Properties

_PREFIX = b"probe-"
_NO_STABLE_INODES = frozenset(
    {syscalls.FUSE_SUPER_MAGIC, syscalls.MSDOS_SUPER_MAGIC, syscalls.EXFAT_SUPER_MAGIC}
)
_NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMLINK}
)
_PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT}
)
"""Errors of trials that are not home's answer to what was tried."""

_GRANULARITIES = (1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
_TIMES = (1_700_000_001_123_456_789, 1_300_000_003_987_654_321)  # ns, odd seconds
_NAME_MAX = 255
_SOMEONE = 54_321  # a user and group that is not ours
_Trial = Callable[[Home, int], bool]


def probe(home: Home, previous: Properties | None = None) -> Properties:
    """What this home can hold. `previous`: what was seen before its last remount.

    A full or read-only home can't be tried out and is still good for reading: then it is what it
    was, or nothing special. OSError for any other trouble.
    """
    name = _PREFIX + secrets.token_hex(8).encode()
    try:
        remove_leftovers(home)
        home.make_dir(home.scratch(), name)
        os.close(home.make_file(home.directory((*SCRATCH, name)), b"file"))
        return _try_all(home, home.directory((*SCRATCH, name)), previous)
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        return _untried(home, previous)
    finally:
        home.forget_directory((*SCRATCH, name))
        remove_leftovers(home)


def _stable_inodes(home: Home, previous: Properties | None) -> bool:
    """A number that was seen to change, or that its file system makes up, is never trusted."""
    if syscalls.file_system_type(home.root) in _NO_STABLE_INODES:
        return False
    if previous is None or not previous.marker_ino:
        return True
    return previous.stable_inodes and previous.marker_ino == _marker_ino(home)


def _marker_ino(home: Home) -> int:
    """Of the directory: the file in it is replaced at each mount."""
    return home.lstat(home.root, MARKER).st_ino


def _is_fuse(home: Home) -> bool:
    return syscalls.file_system_type(home.root) == syscalls.FUSE_SUPER_MAGIC


def _untried(home: Home, previous: Properties | None) -> Properties:
    return replace(
        previous or Properties(noreplace=False, exchange=False),
        stable_inodes=_stable_inodes(home, previous),
        is_fuse=_is_fuse(home),
        marker_ino=_marker_ino(home),
        tried=previous is not None and previous.tried,
    )


def _try_all(home: Home, place: int, previous: Properties | None) -> Properties:
    def can(trial: _Trial) -> bool:
        try:
            return trial(home, place)
        except OSError as exc:
            if exc.errno in _PASSING:
                raise  # it says nothing of what home holds, and is met for every object else
            return False
        except (ValueError, NotImplementedError):
            return False
        finally:
            home.pulse()

    return Properties(
        mtime_ns=_granularity(home, place),
        stable_inodes=_stable_inodes(home, previous),
        noreplace=can(_noreplace),
        exchange=can(_exchange),
        hard_links=can(_hard_links),
        symlinks=can(_symlinks),
        symlink_attributes=can(_symlink_attributes),
        fifos=can(_node(stat.S_IFIFO)),
        sockets=can(_node(stat.S_IFSOCK)),
        devices=can(_node(stat.S_IFCHR, os.makedev(1, 3))),
        owners=can(_owners),
        modes=can(_modes),
        xattrs=can(_xattrs),
        raw_names=can(_raw_names),
        case_sensitive=can(_case_sensitive),
        name_max=_name_max(home, place),
        is_fuse=_is_fuse(home),
        marker_ino=_marker_ino(home),
    )


def remove_leftovers(home: Home) -> None:
    """Remove what this and earlier probes, and looks at home, left, as far as it can be removed."""
    try:
        listing = home.open_directory(SCRATCH)
    except FileNotFoundError:
        return  # none was ever made
    try:
        names = [os.fsencode(name) for name in os.listdir(listing)]
    finally:
        os.close(listing)
    for name in names:
        try:
            if name.startswith(_PREFIX):
                _remove(home, name)
            elif is_left_over(name):
                home.unlink(home.scratch(), name)
        except OSError:
            pass  # does no harm where it is; the next probe tries again


def _remove(home: Home, name: bytes) -> None:
    """A probe's place and what is in it: no directories, so one level is all."""
    path = (*SCRATCH, name)
    listing = home.open_directory(path)
    try:
        for inner in os.listdir(listing):
            os.unlink(inner, dir_fd=listing)
    finally:
        os.close(listing)
        home.forget_directory(path)
    home.rmdir(home.scratch(), name)


def _granularity(home: Home, place: int) -> int:
    """Nanoseconds between two modification times that home can tell apart."""
    kept = []
    try:
        for wanted in _TIMES:
            home.set_times_at(place, b"file", wanted, wanted)
            kept.append((wanted, home.lstat(place, b"file").st_mtime_ns))
    except OSError as exc:
        if exc.errno in _PASSING:
            raise
        return _GRANULARITIES[-1]
    for step in _GRANULARITIES:
        if all(got % step == 0 and abs(got - wanted) < step for wanted, got in kept):
            return step
    return _GRANULARITIES[-1]


def _make(home: Home, place: int, name: bytes) -> int:
    """A new empty file; its inode number."""
    fd = home.make_file(place, name)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def _noreplace(home: Home, place: int) -> bool:
    flags = syscalls.RENAME_NOREPLACE
    _make(home, place, b"new")
    _make(home, place, b"there")
    try:
        syscalls.renameat2(place, b"new", place, b"there", flags)
        return False
    except FileExistsError:
        # the kernel says so by itself where it knows the name: now where home is asked
        syscalls.renameat2(place, b"new", place, b"moved", flags)
        return True


def _exchange(home: Home, place: int) -> bool:
    """Seen by the sizes, as inode numbers may change with the names."""
    _make(home, place, b"empty")
    fd = home.make_file(place, b"full")
    try:
        os.write(fd, b"x")
    finally:
        os.close(fd)
    home.exchange(place, b"empty", place, b"full")
    return home.lstat(place, b"empty").st_size == 1 and home.lstat(place, b"full").st_size == 0


def _hard_links(home: Home, place: int) -> bool:
    home.link(place, b"file", place, b"link")
    return stat.S_ISREG(home.lstat(place, b"link").st_mode)


def _symlinks(home: Home, place: int) -> bool:
    target = b"no where\xff" if _raw_names(home, place) else b"no where"
    home.symlink(target, place, b"symlink")
    return home.readlink(place, b"symlink") == target


def _symlink_attributes(home: Home, place: int) -> bool:
    """A server that is asked by SFTP gives the times to what the link leads to. Seen by the link's:
    what is remembered here of the target still says that nothing has happened to it."""
    _make(home, place, b"target")
    home.symlink(b"target", place, b"link to target")
    wanted = _TIMES[0]
    os.utime(b"link to target", ns=(wanted, wanted), dir_fd=place, follow_symlinks=False)
    return abs(home.lstat(place, b"link to target").st_mtime_ns - wanted) < _GRANULARITIES[-1]


def _node(kind: int, rdev: int = 0) -> _Trial:
    def trial(home: Home, place: int) -> bool:
        name = b"node-%o" % kind
        home.mknod(place, name, kind, rdev)
        return stat.S_IFMT(home.lstat(place, name).st_mode) == kind

    return trial


def _owners(home: Home, place: int) -> bool:
    _make(home, place, b"owned")
    os.chown(b"owned", _SOMEONE, _SOMEONE, dir_fd=place, follow_symlinks=False)
    found = home.lstat(place, b"owned")
    return (found.st_uid, found.st_gid) == (_SOMEONE, _SOMEONE)


def _modes(home: Home, place: int) -> bool:
    _make(home, place, b"modes")
    for mode in (0o640, 0o755, 0o400):
        os.chmod(b"modes", mode, dir_fd=place, follow_symlinks=False)
        if stat.S_IMODE(home.lstat(place, b"modes").st_mode) != mode:
            return False
    return True


def _xattrs(home: Home, place: int) -> bool:
    where = xattrs.at(place, b"file")
    xattrs.put(where, b"user.afm.probe", b"\0value")
    return xattrs.read(where).get(b"user.afm.probe") == b"\0value"


def _raw_names(home: Home, place: int) -> bool:
    """Bytes that are no UTF-8, as a listing gives them back."""
    name = b"raw\xff\xfe\n"
    try:
        _make(home, place, name)
    except FileExistsError:
        pass  # tried before
    return name in _names(place)


def _names(place: int) -> list[bytes]:
    listing = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
    try:
        return [os.fsencode(name) for name in os.listdir(listing)]
    finally:
        os.close(listing)


def _case_sensitive(home: Home, place: int) -> bool:
    _make(home, place, b"case")
    try:
        home.lstat(place, b"CASE")
    except FileNotFoundError:
        return True
    return False


def _name_max(home: Home, place: int) -> int:
    """Bytes of the longest name that home takes: asked, then tried."""
    try:
        asked = home.statvfs().f_namemax
    except OSError:
        asked = 0
    longest = min(asked, _NAME_MAX) if asked > 0 else _NAME_MAX
    if _takes_name(home, place, longest):
        return longest
    good, bad = 1, longest
    while bad - good > 1:
        middle = (good + bad) // 2
        if _takes_name(home, place, middle):
            good = middle
        else:
            bad = middle
    return good


def _takes_name(home: Home, place: int, length: int) -> bool:
    name = b"n" * length
    try:
        _make(home, place, name)
        home.unlink(place, name)
    except OSError as exc:
        if exc.errno in _PASSING:
            raise
        return exc.errno == errno.EEXIST
    return True
