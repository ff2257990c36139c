"""Reading at home for the mount process: bytes of files, and whole directories.

A file's version is compared before and after its bytes are read, unless its own push is under way
(or was interrupted): then what is asked for is not what is pushed. Nothing is read while a doubt
about a name on the way stands (fetch-waits-doubt), nor across two connections (connection).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgpack

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.home import MARKER, Home
from afmfs.gateway.home.stamp import Stamp, take
from afmfs.gateway.home.trouble import HomeAway, Inconsistent, MayEnd, Trouble, Verb, classify
from afmfs.gateway.home.walk import Path
from afmfs.gateway.protocol import MAX_FETCH, Message
from afmfs.gateway.state.locate import InDoubt, Locator
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.versions import adoptable, is_known, is_newest, may_be_ours
from afmfs.gateway.state.view import View
from afmfs.model import times

log = logging.getLogger(__name__)

THREADS = 8

PATIENCE_S = 2.0
"""How long a request waits for a doubt to be settled, or a push to end, before it is told to come
again."""

_PAUSE_S = 0.02
_STEP = 1 << 20

Send = Callable[[Message, tuple[int, ...]], None]


class TryAgain(Exception):
    """Home's version or name of the file is changing by our own doing."""


class Fetches:
    """`report` is told of inconsistencies, `send` sends a message with descriptors. `due` tells
    of an inode that a resync is yet to see to: what contradicts the cache till then is no news.
    While `astray`, directories may be where nobody knows: what is read could be another's names."""

    def __init__(
        self,
        view: View,
        progress: Progress,
        contact: Contact,
        send: Send,
        report: Callable[[Inconsistent], None],
        due: Callable[[int], bool] = lambda ino: False,
        astray: Callable[[], bool] = lambda: False,
        *,
        with_xattrs: bool,
    ) -> None:
        self._view, self._progress, self._contact = view, progress, contact
        self._send, self._report, self._xattrs = send, report, with_xattrs
        self._due, self._astray = due, astray
        self._pool = ThreadPoolExecutor(THREADS, "fetch")

    def submit(self, message: Message) -> None:
        """Serve a "fetch" or "list" request in a thread."""
        self._pool.submit(self._serve, message)

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self, message: Message) -> None:
        kind = message["type"]
        read, answer = (self._fetch, "fetched") if kind == "fetch" else (self._list, "listed")
        reply: Message = {"type": answer, "rid": message["rid"]}
        fds: tuple[int, ...] = ()
        try:
            found, fd = self._patiently(read, message)
            reply |= {"errno": 0, **found}
            fds = (fd,)
        except Trouble as trouble:
            code = errno.EIO if isinstance(trouble, HomeAway) else trouble.errno
            reply |= {"errno": code, "reason": str(trouble)}
            if isinstance(trouble, Inconsistent):
                self._report(trouble)
        except (TryAgain, InDoubt):
            reply["errno"] = errno.EAGAIN
        except Exception as exc:
            log.exception("%s: unexpected", kind)
            reply |= {"errno": errno.EIO, "reason": f"unexpected: {exc}"}
        try:
            self._send(reply, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _patiently(
        self, read: Callable[[Message], tuple[Message, int]], message: Message
    ) -> tuple[Message, int]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return read(message)
            except (TryAgain, InDoubt):
                if time.monotonic() > deadline:
                    raise
            except Inconsistent as trouble:
                if not self._due(message["ino"]):
                    raise
                if time.monotonic() > deadline:
                    raise TryAgain from trouble
            time.sleep(_PAUSE_S)

    # -- files -----------------------------------------------------------------------------------

    def _fetch(self, message: Message) -> tuple[Message, int]:
        ino, start = message["ino"], message["start"]
        end = min(message["end"], start + MAX_FETCH)
        with self._contact.opened() as (connection, home):
            with _judged(connection, home):
                path, fd = self._open(home, ino)
                try:
                    found, memory = self._read(home, ino, path, fd, start, end)
                except OSError as exc:
                    raise classify(exc, path, Verb.READ, properties=home.properties) from exc
                finally:
                    home.close_file(fd)
            self._contact.pulse()
            try:
                connection.check(home)
            except BaseException:
                os.close(memory)
                raise
        return found, memory

    def _open(self, home: Home, ino: int) -> tuple[bytes, int]:
        """Home's file, by the first of its names that is there. While it is looked for, no name
        is moved: what home's name is and what is found under it must be of one moment."""
        with self._progress.names.looking():
            row = self._view.row(ino)
            if row is None or (row.home_mtime is None and self._progress.stamp(ino) is None):
                raise TryAgain  # home does not hold it yet
            locator, path = self._locator(), b""
            for above, name in locator.paths(ino):
                path = b"/".join((*above, name))
                try:
                    return path, self._open_at(home, ino, home.directory(above), name)
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    raise classify(exc, path, Verb.READ, properties=home.properties) from exc
        if not path:
            raise TryAgain
        never = self._progress.journal.unheld(ino) or self._view.unheld(ino)
        if never:
            raise MayEnd(errno.EIO, "home can't hold this file")
        raise Inconsistent(path, "is missing")

    def _open_at(self, home: Home, ino: int, dirfd: int, name: bytes) -> int:
        """What a FUSE home remembers of a file is of this name alone: it may have been pushed to
        under another one since."""
        fd, st = home.open_file(dirfd, name, os.O_RDONLY)
        try:
            known = self._view, self._progress, home.properties, ino
            if home.properties.is_fuse and not is_newest(*known, st):
                home.fstat_anew(fd, dirfd, name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _locator(self) -> Locator:
        progress = self._progress
        return Locator(self._view, progress.executed, progress.forgotten, progress.in_doubt)

    def _read(
        self, home: Home, ino: int, path: bytes, fd: int, start: int, end: int
    ) -> tuple[Message, int]:
        before, pushing = os.fstat(fd), self._progress.is_pushing(ino)
        if pushing and not may_be_ours(self._view, self._progress, home.properties, ino, before):
            raise Inconsistent(path, "is another file")
        adopted = None if pushing else self._want_known(home, ino, path, fd, before)
        memory = os.memfd_create("fetched", os.MFD_CLOEXEC)
        try:
            length = _copy(fd, memory, start, min(end, before.st_size))
            after = os.fstat(fd)
            if not pushing and take(before, stable_inodes=True) != take(after, stable_inodes=True):
                raise TryAgain  # by a push of ours, or else the next look tells
        except BaseException:
            os.close(memory)
            raise
        found: Message = {"length": length}
        if adopted is not None:
            found["stamp"] = adopted._asdict()
        return found, memory

    def _want_known(
        self, home: Home, ino: int, path: bytes, fd: int, st: os.stat_result
    ) -> Stamp | None:
        """The stamp of a version that is not the known one but passes for it; None if it is known.

        Inconsistent if it is another version.
        """
        view, progress = self._view, self._progress
        if is_known(view, progress, home.properties, ino, st):
            return None
        fine = adoptable(view, progress, home.properties, ino, fd, st)
        if progress.is_pushing(ino) or is_known(view, progress, home.properties, ino, os.fstat(fd)):
            raise TryAgain  # our own push came in between
        if not fine:
            raise Inconsistent(path, "was changed at home")
        return take(st, stable_inodes=home.properties.stable_inodes)

    # -- directories -----------------------------------------------------------------------------

    def _list(self, message: Message) -> tuple[Message, int]:
        ino = message["ino"]
        with self._contact.opened() as (connection, home):
            with _judged(connection, home):
                count, memory = self._list_all(home, ino)
            try:
                connection.check(home)
            except BaseException:
                os.close(memory)
                raise
        return {"count": count}, memory

    def _list_all(self, home: Home, ino: int) -> tuple[int, int]:
        """Entries of a directory, and a memory file that holds them."""
        path, fd = self._open_directory(home, ino)
        memory = os.memfd_create("listed", os.MFD_CLOEXEC)
        try:
            return self._write_entries(home, path, fd, memory), memory
        except OSError as exc:
            os.close(memory)
            raise self._trouble(exc, path, home) from exc
        except BaseException:
            os.close(memory)
            raise
        finally:
            os.close(fd)

    def _open_directory(self, home: Home, ino: int) -> tuple[Path, int]:
        with self._progress.names.looking():
            path = self._locator().directory(ino)
            if path is None or self._astray():
                raise TryAgain
            try:
                return path, home.open_directory(path)
            except OSError as exc:
                raise self._trouble(exc, path, home) from exc

    @staticmethod
    def _trouble(exc: OSError, path: Path, home: Home) -> Trouble:
        return classify(exc, b"/".join(path), Verb.READ, properties=home.properties)

    def _write_entries(self, home: Home, path: Path, fd: int, memory: int) -> int:
        packer, buffer, count = msgpack.Packer(use_bin_type=True), bytearray(), 0
        for row in self._entries(home, path, fd):
            buffer += packer.pack(row)
            count += 1
            if len(buffer) > _STEP:
                _write(memory, buffer)
                buffer.clear()
                self._contact.pulse()
        _write(memory, buffer)
        return count

    def _entries(self, home: Home, path: Path, fd: int) -> Iterator[Entry]:
        with os.scandir(fd) as found:
            for entry in found:
                name = os.fsencode(entry.name)
                if name == MARKER and not path:
                    continue
                try:
                    st = entry.stat(follow_symlinks=False)
                    yield describe(home, fd, name, st, with_xattrs=self._xattrs)
                except FileNotFoundError:
                    continue  # removed in between


@contextmanager
def _judged(connection: Connection, home: Home) -> Iterator[None]:
    """What one file or directory meets must not end the connection for all who read."""
    try:
        yield
    except Trouble as trouble:
        raise connection.judge(home, trouble) from trouble


Entry = tuple[Any, ...]
"""name, mode, uid, gid, size, atime, mtime, ctime (ns), inode number (None where home does not keep
it stable), links, device number, target of a symbolic link, extended attributes (None where they
are off): as afmfs.cache.names.listing takes it in."""


def describe(
    home: Home, dirfd: int, name: bytes, st: os.stat_result, *, with_xattrs: bool
) -> Entry:
    """What the cache has to know of an object at home when it first hears of it."""
    mode, target, pairs = st.st_mode, None, None
    if stat.S_ISLNK(mode):
        target = home.leads_to(dirfd, name)
    elif not with_xattrs and home.properties.xattrs and mode & 0o77:
        mode = xattrs.narrowed(xattrs.at(dirfd, name), mode)
    if with_xattrs:
        pairs = list(xattrs.read(xattrs.at(dirfd, name)).items())
    return (
        name, mode, st.st_uid, st.st_gid, st.st_size,
        times.held(st.st_atime_ns), times.held(st.st_mtime_ns), times.held(st.st_ctime_ns),
        st.st_ino if home.properties.stable_inodes else None,
        st.st_nlink, st.st_rdev, target, pairs,
    )  # fmt: skip


def _copy(fd: int, memory: int, start: int, end: int) -> int:
    """Bytes [start, end) of home's file to the beginning of a memory file; how many there were."""
    offset = start
    while offset < end:
        done = os.sendfile(memory, fd, offset, min(end - offset, _STEP))
        if not done:
            break
        offset += done
    return max(0, offset - start)


def _write(memory: int, data: bytearray) -> None:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.write(memory, view[done:])
    view.release()
