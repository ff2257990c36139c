"""What may happen at a home behind the cache's back.

Each method is one act of somebody who works at home while the gateway does not. Which object it is
about is said by a number, taken modulo what is there, so that any sequence of acts makes sense.
Names that come to be by it are remembered: these are nobody's but theirs.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.harness.home_state import Name
from tests.harness.syscalls import renameat2

EXCHANGE = 2
MARKER = b".afm"


class Damage:
    """`outside` is a tree beside home that nobody may touch, with names that home has too."""

    def __init__(self, home: Path, outside: Path) -> None:
        self.root, self.outside = os.fsencode(home), os.fsencode(outside)
        self.foreign: set[Name] = set()
        self.strangers: set[int] = set()  # inodes that came to be by it
        self.done: list[str] = []

    def move(self, home: Path) -> None:
        """Home is there now."""
        self.root = os.fsencode(home)

    # -- choosing --------------------------------------------------------------------------------

    def paths(self, want: Callable[[int], bool] = lambda mode: True) -> list[bytes]:
        """What is there of some types, as whole paths; home's own directory left out."""
        found = []
        for top, below, files in os.walk(self.root):
            if top == self.root:
                below[:] = [name for name in below if name != MARKER]
            found += [os.path.join(top, name) for name in [*below, *files]]
        return sorted(path for path in found if want(os.lstat(path).st_mode))

    def _old(self, index: int, want: Callable[[int], bool] = lambda mode: True) -> bytes | None:
        found = self.paths(want)
        return found[index % len(found)] if found else None

    def _new(self, index: int, name: bytes) -> bytes:
        tops = [self.root, *self.paths(stat.S_ISDIR)]
        return os.path.join(tops[index % len(tops)], name)

    def _claim(self, path: bytes) -> None:
        """Whatever stands there now is somebody else's."""
        top, name = os.path.split(path)
        self.foreign.add((os.lstat(top).st_ino, name))
        if stat.S_ISDIR(os.lstat(path).st_mode):
            for below, directories, files in os.walk(path):
                for one in [*directories, *files]:
                    self.foreign.add((os.lstat(below).st_ino, one))

    def _note(self, what: str, *paths: bytes) -> None:
        self.done.append(f"{what} {' '.join(repr(p[len(self.root) + 1 :]) for p in paths)}")

    # -- bytes -----------------------------------------------------------------------------------

    def write(self, index: int, offset: int, data: bytes, *, quietly: bool) -> None:
        """Bytes in a file; `quietly`: none beyond its end, and its mtime put back."""
        path = self._old(index, stat.S_ISREG)
        if path is None:
            return
        st = os.lstat(path)
        if quietly:
            offset = min(offset, max(0, st.st_size - 1))
            data = data[: st.st_size - offset]
        self._note("write quietly" if quietly else "write", path)
        with open(path, "r+b") as file:
            os.pwrite(file.fileno(), data, offset)
        if quietly:
            os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))

    def cut(self, index: int, size: int) -> None:
        path = self._old(index, stat.S_ISREG)
        if path is not None:
            self._note("cut", path)
            os.truncate(path, size)

    def touch(self, index: int, mtime: int) -> None:
        path = self._old(index)
        if path is not None:
            self._note("touch", path)
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)

    def chmod(self, index: int, mode: int) -> None:
        path = self._old(index, lambda mode: not stat.S_ISLNK(mode))
        if path is not None:
            self._note("chmod", path)
            os.chmod(path, mode | 0o700)

    def set_xattr(self, index: int, value: bytes) -> None:
        path = self._old(index, lambda mode: stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        if path is not None:
            self._note("xattr", path)
            with suppress(OSError):
                os.setxattr(path, "user.a", value)

    # -- names -----------------------------------------------------------------------------------

    def remove(self, index: int) -> None:
        """A file, or a whole tree."""
        path = self._old(index)
        if path is not None:
            self._note("remove", path)
            _remove(path)

    def wipe(self) -> None:
        """Everything but the marker."""
        self._note("wipe")
        for name in os.listdir(self.root):
            if name != MARKER:
                _remove(os.path.join(self.root, name))

    def rename(self, index: int, parent: int, name: bytes) -> None:
        path, target = self._old(index), self._new(parent, name)
        if path is None or (target + b"/").startswith(path + b"/") or target == path:
            return
        self._note("rename", path, target)
        if os.path.lexists(target):
            if (path + b"/").startswith(target + b"/"):
                return
            _remove(target)
        os.rename(path, target)
        self._claim(target)

    def exchange(self, index: int, other: int) -> None:
        one, two = self._old(index), self._old(other)
        if one is None or two is None:
            return
        if (one + b"/").startswith(two + b"/") or (two + b"/").startswith(one + b"/"):
            return
        self._note("exchange", one, two)
        renameat2(one, two, EXCHANGE)
        self._claim(one)
        self._claim(two)

    def link(self, index: int, parent: int, name: bytes) -> None:
        """One more name of a file, also in the place of another."""
        path, target = self._old(index, stat.S_ISREG), self._new(parent, name)
        if path is None or path == target:
            return
        if os.path.lexists(target):
            if (path + b"/").startswith(target + b"/"):
                return
            _remove(target)
        self._note("link", path, target)
        os.link(path, target)
        self._claim(target)

    def replace(self, index: int, data: bytes, *, alike: bool) -> None:
        """Another file under the same name, as an editor saves; `alike`: a copy, times and all."""
        path = self._old(index, stat.S_ISREG)
        if path is None:
            return
        self._note("copy anew" if alike else "replace", path)
        beside = path[:200] + b".new"
        if alike:
            shutil.copy2(path, beside)
        else:
            Path(os.fsdecode(beside)).write_bytes(data)
        os.replace(beside, path)
        self._claim(path)

    # -- types -----------------------------------------------------------------------------------

    def make(self, parent: int, name: bytes, kind: str, data: bytes) -> None:
        """Something new, also in the place of something old."""
        path = self._new(parent, name)
        if os.path.lexists(path):
            _remove(path)
        self._note(f"make a {kind}", path)
        self._make(path, kind, data)

    def retype(self, index: int, kind: str, data: bytes) -> None:
        """Something of another type in the place of what was there."""
        path = self._old(index)
        if path is None:
            return
        self._note(f"make it a {kind}", path)
        _remove(path)
        self._make(path, kind, data)

    def _make(self, path: bytes, kind: str, data: bytes) -> None:
        if kind == "file":
            Path(os.fsdecode(path)).write_bytes(data)
        elif kind == "directory":
            os.mkdir(path)
        elif kind == "tree":
            os.makedirs(os.path.join(path, b"b"))
            for below in (b"a", b"b/a"):
                Path(os.fsdecode(os.path.join(path, below))).write_bytes(data)
        elif kind == "symlink":
            os.symlink(b"a", path)
        elif kind == "leading out":
            os.symlink(self.outside, path)
        else:
            os.mkfifo(path)
        self._claim(path)
        self.strangers.add(os.lstat(path).st_ino)

    def lead_out(self, index: int, *, keep: bool) -> None:
        """A directory is swapped for a symlink that leads out of home, to a tree that has the same
        names; `keep`: it is still there, under another name."""
        path = self._old(index, stat.S_ISDIR)
        if path is None:
            return
        self._note("lead out", path)
        moved = path[:200] + b".moved"
        if keep and not os.path.lexists(moved):
            os.rename(path, moved)
            self._claim(moved)
        else:
            _remove(path)
        os.symlink(self.outside, path)
        self._claim(path)


KINDS = ["file", "directory", "tree", "symlink", "leading out", "fifo"]


def make_outside(root: Path) -> None:
    """The tree that nobody may touch; whoever is led into it finds every name of home's."""
    dice = random.Random(11)
    for top in (root, root / "b", root / "b" / "b", root / "dark"):
        top.mkdir()
        for name in ("a", "c"):
            (top / name).write_bytes(dice.randbytes(5000))


def _remove(path: bytes) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
