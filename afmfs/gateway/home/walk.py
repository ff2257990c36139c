"""Descriptors of the directories below a root, walked without ever following a symlink."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from afmfs.model.paths import is_name

Path = tuple[bytes, ...]
"""A place below home's root, component by component; () is the root."""

MAX_DIRECTORIES = 512
PINNED = 8
"""A descriptor stays open until its thread has asked for this many more."""

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def check_name(name: bytes) -> None:
    """EINVAL for what is no name."""
    if not is_name(name):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)


class _Directory:
    __slots__ = ("cached", "fd", "pins")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pins = 0  # how often it stands in a thread's ring, or is walked through
        self.cached = True


class _Held(threading.local):
    """What one thread may be using."""

    def __init__(self) -> None:
        self.ring: deque[_Directory] = deque()
        self.path: Path | None = None  # the one asked for last, and the epoch and answer of then
        self.epoch = 0
        self.fd = -1


class Walker:
    """A bounded cache of O_PATH descriptors. Thread-safe, but for `close_directories`.

    A descriptor that one thread uses must not be closed by another that needs room: so each
    thread has a ring of those it asked for last, and what stands in a ring stays open.
    """

    def __init__(self, root: int, pulse: Callable[[], None] = lambda: None) -> None:
        """`root` stays the caller's; `pulse` is called when a call to home has returned."""
        self.pulse = pulse
        self._lock = threading.Lock()
        self._held = _Held()
        self._top = _Directory(root)
        self._cache: OrderedDict[Path, _Directory] = OrderedDict()
        self._evicted: set[_Directory] = set()  # still pinned
        self._epoch = 0

    def directory(self, path: Path) -> int:
        """An O_PATH descriptor of the directory at `path`.

        Never follows a symlink (ENOTDIR). Valid until the calling thread has asked for PINNED
        more. It is that directory for good, also when it is moved: see forget_directories.
        """
        held = self._held
        if held.path == path and held.epoch == self._epoch:
            return held.fd  # many files in one directory: no lock
        with self._lock:
            at = self._cache.get(path)
            if at is not None:
                self._cache.move_to_end(path)
                at.pins += 1
                return self._hold(path, at, self._epoch)
            depth = len(path)
            while depth and path[:depth] not in self._cache:
                depth -= 1
            epoch = self._epoch
            at = self._cache[path[:depth]] if depth else self._top
            at.pins += 1
        try:
            # home may take its time: not under the lock
            for end in range(depth + 1, len(path) + 1):
                check_name(path[end - 1])
                at = self._keep(path[:end], os.open(path[end - 1], _WALK, dir_fd=at.fd), epoch, at)
                self.pulse()
        except BaseException:
            with self._lock:
                self._unpin(at)
            raise
        with self._lock:
            return self._hold(path, at, epoch)

    def forget_directory(self, path: Path) -> None:
        """After an rmdir: `path` may come to name another directory."""
        with self._lock:
            self._epoch += 1
            found = self._cache.pop(path, None)
            if found is not None:
                self._evict(found)

    def forget_directories(self) -> None:
        """After a directory was moved: paths lead elsewhere now."""
        with self._lock:
            self._epoch += 1
            while self._cache:
                self._evict(self._cache.popitem()[1])

    def close_directories(self) -> None:
        """Close all. No other thread may be at work: the numbers will be given to other files."""
        for directory in (*self._cache.values(), *self._evicted):
            os.close(directory.fd)
        self._cache.clear()
        self._evicted.clear()
        self._epoch += 1
        self._top.fd = -1  # whoever comes late gets EBADF, not another file

    def _keep(self, path: Path, fd: int, epoch: int, parent: _Directory) -> _Directory:
        """Take in a directory just opened; it is pinned in its parent's stead."""
        with self._lock:
            self._unpin(parent)
            found = self._cache.get(path)
            if found is not None:  # another thread was faster
                os.close(fd)
                found.pins += 1
                return found
            directory = _Directory(fd)
            directory.pins = 1
            if epoch == self._epoch:
                self._cache[path] = directory
                if len(self._cache) > MAX_DIRECTORIES:
                    self._evict(self._cache.popitem(last=False)[1])
            else:
                # forgotten while we walked: it may no longer be what the path leads to
                self._evict(directory)
            return directory

    def _hold(self, path: Path, directory: _Directory, epoch: int) -> int:
        """Hand a pinned directory to the calling thread, in the place of its oldest."""
        held = self._held
        held.ring.append(directory)
        if len(held.ring) > PINNED:
            self._unpin(held.ring.popleft())
        held.path, held.epoch, held.fd = path, epoch, directory.fd
        return directory.fd

    def _unpin(self, directory: _Directory) -> None:
        directory.pins -= 1
        if not (directory.pins or directory.cached):
            self._evicted.discard(directory)
            os.close(directory.fd)

    def _evict(self, directory: _Directory) -> None:
        directory.cached = False
        if directory.pins:
            self._evicted.add(directory)
        else:
            os.close(directory.fd)
