"""The marker in home's root: whose home this is.

``.afm/home.json`` tells which cache may write here. It guards against a path that is not home
(nothing mounted there, or something else), against a second single writer, and against an old
copy of the cache: each mount raises `counter`, and writes a `token` of its own that the cache
remembers. So of two copies that grew apart, the one that home has not heard last is refused,
whatever their counters. Written atomically; durable on return.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from afmfs.errors import Refused
from afmfs.gateway.home import syscalls
from afmfs.gateway.home.home import MARKER, NO_SYNC, Home
from afmfs.gateway.home.memory import fstat_own
from afmfs.gateway.home.trouble import HomeAway

SCHEMA = 1
NAME = b"home.json"
_NEW = b"home.json.new"
_BYTES_MAX = 64 << 10
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class Forbidden(Refused):
    """The marker forbids this cache to use the home. `hint` is the way out."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason}; {hint}")
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Marker:
    """What home says of its owner."""

    identity: str  # of the fileset, for good
    fileset: str
    counter: int  # raised, durably, by the cache before the gateway writes it here
    token: str  # of one mount
    owner: dict[str, Any] = field(default_factory=dict)  # host, machine_id, cache, ...: for people

    @property
    def who(self) -> str:
        host, cache = self.owner.get("host", "?"), self.owner.get("cache", "?")
        return f"fileset {self.fileset} (cache {cache} on {host})"

    def encode(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a cache may do with the marker when it connects.

    `tokens` are those that this cache has ever been about to write since it last saw home (it
    makes them durable first); empty if it doesn't know. `first` and `takeover` are for the first
    connection of a mount: said again later, they would seize what was taken or wiped since.
    """

    ours: Marker
    first: bool = False
    takeover: bool = False
    tokens: Collection[str] = ()
    past: Collection[str] = ()  # those of earlier mounts, which home has heard of since
    ours_alone: Collection[str] = ()  # paths that may not be in home, nor home in them
    time_ns: int = 0  # what the marker's modification time is to be; 0: as home sets it


def claim(home: Home, wish: Claim) -> Marker:
    """Make sure that home is ours; the marker as it now stands there (its token is to be kept).

    Forbidden if it is another's, HomeAway("Unmounted") if there is none. OSError from home.
    """
    if wish.first or wish.takeover:
        _refuse_nesting(home, wish)
    try:
        found = read(home)
    except Forbidden:
        if not wish.takeover:
            raise
        found = wish.ours
    else:
        if found is None:
            if not wish.first:
                raise missing(home)
            _write(home, wish, new=True)
            return wish.ours
        if not wish.takeover:
            if _is_ours(found, wish):
                return found
            _check(found, wish)
            return _raise_counter(home, wish, found)
    _write(home, wish, new=False)
    return wish.ours


def _refuse_nesting(home: Home, wish: Claim) -> None:
    """Forbidden where home is, by whatever links, in what is the cache's own, or has it in it: the
    cache would be cached, and changed at home."""
    found = os.readlink(f"/proc/self/fd/{home.root}").rstrip("/")  # asks the kernel alone
    for place in wish.ours_alone:
        if f"{found}/".startswith(f"{place}/") or f"{place}/".startswith(f"{found}/"):
            raise Forbidden(
                f"home is {found}, which is in, or has in it, {place}",
                "choose another target, or other places for the cache and the mount",
            )


def _raise_counter(home: Home, wish: Claim, found: Marker) -> Marker:
    """From here on older copies are refused. Where home has no room, it stays as it is."""
    try:
        _write(home, wish, new=False)
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        return found  # ours too, and home is still good for reading
    return wish.ours


def missing(home: Home) -> HomeAway:
    """Home's path exists, and is not home."""
    path = os.fsdecode(home.path)
    return HomeAway(
        "Unmounted",
        f"{path} has no marker (.afm/home.json): home is not mounted there; mount it. If home was "
        f"wiped on purpose, fail over to the same path: `failover --new-target {path}`",
    )


def _is_ours(found: Marker, wish: Claim) -> bool:
    """Written by this very mount: a connection made again."""
    ours = wish.ours
    if (found.identity, found.counter) != (ours.identity, ours.counter):
        return False
    return found.token == ours.token or found.token in wish.tokens


def _check(found: Marker, wish: Claim) -> None:
    ours = wish.ours
    if found.identity != ours.identity:
        raise Forbidden(
            f"this home belongs to {found.who}",
            "put this cache's home there, or choose another target, or mount with -o takeover if "
            "that cache is gone for good",
        )
    if wish.tokens:
        stale = found.token not in (*wish.tokens, *wish.past)
    else:
        stale = found.counter == ours.counter and found.owner != ours.owner
    if found.counter > ours.counter or stale:
        raise Forbidden(
            f"this is an old copy of the cache: home has seen a newer one, {found.who}",
            "mount that one, or this one with -o takeover if that one is gone for good",
        )


def read(home: Home) -> Marker | None:
    """None if there is none. Forbidden if it is nothing that we can read; OSError from home."""
    found, _ = look(home)
    return found


def look(home: Home, *, anew: bool = False) -> tuple[Marker | None, int]:
    """As `read`, and the marker's modification time, ns; `anew`: past what home remembers."""
    try:
        fd, raw, st = open_marker(home)
    except FileNotFoundError:
        return None, 0
    try:
        st = fstat_own(fd) if anew else st
    finally:
        os.close(fd)
    return parse(raw), st.st_mtime_ns


def open_marker(home: Home) -> tuple[int, bytes, os.stat_result]:
    """A descriptor of the marker, for writing where possible, its bytes and attributes."""
    try:
        directory = home.directory((MARKER,))
    except NotADirectoryError:
        raise _unreadable(".afm in home's root is not a directory") from None
    try:
        try:
            fd, st = home.open_file(directory, NAME, os.O_RDWR)
        except OSError as exc:
            if exc.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            fd, st = home.open_file(directory, NAME, os.O_RDONLY)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EISDIR, errno.ESTALE):
            raise _unreadable(".afm/home.json in home's root is no regular file") from None
        raise
    try:
        raw = os.pread(fd, _BYTES_MAX, 0)
    except BaseException:
        os.close(fd)
        raise
    home.pulse()
    return fd, raw, st


def parse(raw: bytes) -> Marker:
    """Forbidden if these bytes are no marker, or one of a later version."""
    try:
        found = json.loads(raw)
        schema = found["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise Forbidden(
                "home's marker was written by a later version of afmfs", "use that version"
            )
        marker = Marker(**{key: found[key] for key in Marker.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _unreadable(".afm/home.json in home's root is damaged") from None
    if not (
        isinstance(marker.identity, str)
        and isinstance(marker.counter, int)
        and isinstance(marker.owner, dict)
    ):
        raise _unreadable(".afm/home.json in home's root is damaged")
    return marker


def _unreadable(reason: str) -> Forbidden:
    return Forbidden(
        reason,
        "find out whose it is; if this cache is home's only one, remove it and mount with "
        "-o takeover",
    )


def _write(home: Home, wish: Claim, *, new: bool) -> None:
    """Put the marker in place; durable on return. With `new`, EEXIST if another was faster."""
    before = os.fstat(home.readable)
    try:
        home.make_dir(home.root, MARKER)
        fresh = True
    except FileExistsError:
        fresh = False
    try:
        directory = home.directory((MARKER,))
    except NotADirectoryError:
        raise _unreadable(".afm in home's root is not a directory") from None
    try:
        home.unlink(directory, _NEW)  # of a gateway that was killed here
    except FileNotFoundError:
        pass  # as it should be
    fd = home.make_file(directory, _NEW)
    try:
        os.write(fd, wish.ours.encode())
        if wish.time_ns:
            os.utime(fd, ns=(wish.time_ns, wish.time_ns))
        os.fsync(fd)
        # the bytes before the name: an empty marker would be nobody's
        if new:
            _rename_new(home, directory)
        else:
            home.rename(directory, _NEW, directory, NAME)
        _sync_name(home, fd, (MARKER,))
        if fresh:
            _keep_times(home, before)
            _sync_name(home, fd, ())
    finally:
        os.close(fd)


def _keep_times(home: Home, before: os.stat_result) -> None:
    """The root is as it was, so that who copied a tree there finds nothing changed."""
    try:
        home.set_times(home.readable, before.st_atime_ns, before.st_mtime_ns)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EACCES):  # it is another user's
            raise


def _rename_new(home: Home, directory: int) -> None:
    try:
        flags = syscalls.RENAME_NOREPLACE
        syscalls.renameat2(directory, _NEW, directory, NAME, flags)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
        home.rename(directory, _NEW, directory, NAME)


def _sync_name(home: Home, fd: int, path: tuple[bytes, ...]) -> None:
    """Bring a directory's names to the disk, by way of the file where home can't sync one."""
    directory = home.open_directory(path)
    try:
        os.fsync(directory)
    except OSError as exc:
        if exc.errno not in NO_SYNC:
            raise
        os.fsync(fd)
    finally:
        os.close(directory)
