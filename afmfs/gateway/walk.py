"""Descriptors of the directories below a root, walked without ever following a symlink."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict, deque

Path = tuple[bytes, ...]
"""A place below home's root, component by component; () is the root."""

MAX_DIRECTORIES = 512
PINNED = 8
"""A descriptor stays open until its thread has asked for this many others."""

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_NO_NAMES = frozenset({b"", b".", b".."})


def check_name(name: bytes) -> None:
    """Refuse what is no single component: an absolute name would leave home altogether."""
    if name in _NO_NAMES or b"/" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)


class _Directory:
    __slots__ = ("cached", "fd", "pins")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pins = 0  # how often it stands in a thread's ring
        self.cached = True


class Walker:
    """A bounded cache of O_PATH descriptors. Thread-safe, but for `close_directories`.

    A descriptor that one thread uses must not be closed by another that needs room: so each
    thread has a ring of those it asked for last, and what stands in a ring stays open.
    """

    def __init__(self, root: int) -> None:
        """`root` stays the caller's."""
        self._lock = threading.Lock()
        self._rings = threading.local()
        self._top = _Directory(root)
        self._cache: OrderedDict[Path, _Directory] = OrderedDict()
        self._evicted: set[_Directory] = set()  # still in some thread's ring
        self._epoch = 0

    def directory(self, path: Path) -> int:
        """An O_PATH descriptor of the directory at `path`.

        Never follows a symlink (ENOTDIR). Valid until the calling thread has asked for PINNED
        others. It is that directory for good, also when it is moved: see forget_directories.
        """
        with self._lock:
            found = self._cache.get(path)
            if found is not None:
                self._cache.move_to_end(path)
                return self._pin(found)
            depth = len(path)
            while depth and path[:depth] not in self._cache:
                depth -= 1
            epoch = self._epoch
            fd = self._pin(self._cache[path[:depth]] if depth else self._top)
        # home may take its time: not under the lock
        for end in range(depth + 1, len(path) + 1):
            check_name(path[end - 1])
            fd = self._keep(path[:end], os.open(path[end - 1], _WALK, dir_fd=fd), epoch)
        return fd

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

    def _keep(self, path: Path, fd: int, epoch: int) -> int:
        with self._lock:
            found = self._cache.get(path)
            if found is not None:  # another thread was faster
                os.close(fd)
                return self._pin(found)
            directory = _Directory(fd)
            if epoch == self._epoch:
                self._cache[path] = directory
            else:
                # forgotten while we walked: it may no longer be what the path leads to
                directory.cached = False
                self._evicted.add(directory)
            self._pin(directory)
            if len(self._cache) > MAX_DIRECTORIES:
                self._evict(self._cache.popitem(last=False)[1])
            return fd

    def _pin(self, directory: _Directory) -> int:
        ring: deque[_Directory] | None = getattr(self._rings, "ring", None)
        if ring is None:
            ring = self._rings.ring = deque()
        directory.pins += 1
        ring.append(directory)
        if len(ring) > PINNED:
            oldest = ring.popleft()
            oldest.pins -= 1
            if not (oldest.pins or oldest.cached):
                self._evicted.discard(oldest)
                os.close(oldest.fd)
        return directory.fd

    def _evict(self, directory: _Directory) -> None:
        directory.cached = False
        if directory.pins:
            self._evicted.add(directory)
        else:
            os.close(directory.fd)
