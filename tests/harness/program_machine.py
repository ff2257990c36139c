"""A random program on a cache whose home may be harmed: what has to be readable all the same.

A plain directory takes the same calls and says what the cache holds. Of each byte it is known here
whether the cache must have it: what was written or read stays readable, whatever becomes of home,
until it is evicted. Any other is home's business: it reads as home has it, or not at all.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.harness.cache_state import CacheState
from tests.harness.machine import TreeMachine, indexes, names, outcome
from tests.harness.masks import differing, masked
from tests.harness.oracle import Wrong

BLOCK = 4096
OFFSETS = [0, 1, 100, 4095, 4096, 5000, 8192, 9000]
LENGTHS = [1, 10, 1000, 4096, 5000]

KEPT, GROWN = 1, 2
"""Of a byte: it was written or read; it is a zero by which the file has grown."""

_KEPT_ALONE = bytes(one == KEPT for one in range(256))


def is_kept(mask: bytearray) -> bool:
    """Whether all of it is."""
    return mask.count(KEPT) == len(mask)


offsets = st.sampled_from(OFFSETS)
sizes = st.sampled_from(LENGTHS)
contents = st.builds(
    lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 255), sizes
)


def fill(root: Path) -> None:
    """What is at home before: files of some blocks, links, a tree, and what is never looked at."""
    dice = random.Random(7)
    for name in ("b", "d/b", "dark/b"):
        (root / name).mkdir(parents=True)
    files = {"a": 12_000, "b/a": 9000, "d/a": 5000, "d/b/c": 4096, "e": 20_000, "dark/a": 5000}
    for path, size in files.items():
        (root / path).write_bytes(dice.randbytes(size))
    os.link(root / "b/a", root / "b/b")
    (root / "c").symlink_to("b")
    (root / "b/c").symlink_to("nowhere")
    os.mkfifo(root / "d/f")


class ProgramMachine(TreeMachine):
    """Subclasses set `tested`, `plain`, and the attributes below, before the first rule."""

    SHORT_READS = False  # whether a read may end where bytes can't be had, and asks for pages
    where: Path  # where home is
    unread: int  # a plain directory that no program looks into

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        self.differs = False
        self.xattrs = False
        self.handles: list[tuple[int, Any, int]] = []
        self._masks: dict[int, bytearray] = {}  # by the plain file's inode number

    # -- choosing --------------------------------------------------------------------------------

    def _known(self, *, directories: bool = False) -> list[bytes]:
        found, unread = super()._known(directories=directories), self.unread_path()
        return [
            path
            for path in found
            if not path.startswith(unread + b"/")
            and not (directories and self._leads_to_unread(path))
        ]

    def unread_path(self) -> bytes:
        for top, below, _ in os.walk(self.plain.root):
            for name in below:
                if os.lstat(os.path.join(top, name)).st_ino == self.unread:
                    return os.path.join(top, name)[len(self.plain.root) + 1 :]
        raise AssertionError("nobody can have removed it")

    def _leads_to_unread(self, path: bytes) -> bool:
        return outcome(lambda: os.stat(self.plain.at(path)).st_ino) == ("ok", self.unread)

    def _is_unread(self, path: bytes) -> bool:
        return outcome(lambda: os.lstat(self.plain.at(path)).st_ino) == ("ok", self.unread)

    # -- what must be readable -------------------------------------------------------------------

    def begin_masks(self) -> None:
        """Nothing is cached yet."""
        for top, _, files in os.walk(self.plain.root):
            for name in files:
                info = os.lstat(os.path.join(top, name))
                self._masks[info.st_ino] = bytearray(info.st_size)

    def mask(self, info: os.stat_result) -> bytearray:
        """What is known of each byte of a plain file. To be asked after each change of its size."""
        mask = self._masks.setdefault(info.st_ino, bytearray())
        del mask[info.st_size :]
        whole = is_kept(mask)  # then the cache has the zeros, too
        mask += bytes([KEPT if whole else GROWN]) * (info.st_size - len(mask))
        return mask

    def _resized(self, path: bytes) -> None:
        info = outcome(lambda: os.stat(self.plain.at(path)))[1]
        if isinstance(info, os.stat_result) and stat.S_ISREG(info.st_mode):
            self.mask(info)

    def _keep(self, info: os.stat_result, start: int, size: int) -> None:
        mask = self.mask(info)
        mask[start : start + size] = bytes([KEPT]) * len(mask[start : start + size])

    def _wrote(self, path: bytes, start: int, size: int) -> None:
        if stat.S_ISREG(self._mode(path)):
            self._keep(os.stat(self.plain.at(path)), start, size)

    def check_cache(self, cache: CacheState) -> None:
        """The cache holds the tree of the plain directory, and every byte that it must have."""
        unread = self.unread_path() + b"/"
        plain = {path for path in super()._known() if not path.startswith(unread)}
        extra = {path for path in cache.paths if not path.startswith(unread)} - plain
        if extra:
            raise Wrong(f"the cache has names that nobody gave: {sorted(extra)}")
        for path in plain:
            info, one = os.lstat(self.plain.at(path)), cache.paths.get(path)
            if one is None:
                raise Wrong(f"{path!r} is not in the cache any more")
            if (info.st_mode, info.st_uid, info.st_gid) != (one.mode, *one.owner):
                raise Wrong(f"{path!r}: its mode or owner changed in the cache: {one}")
            if not stat.S_ISREG(info.st_mode):
                continue
            if info.st_size != one.size:
                raise Wrong(f"{path!r} has {one.size} bytes in the cache, not {info.st_size}")
            data = Path(os.fsdecode(self.plain.at(path))).read_bytes()
            kept = self.mask(info).translate(_KEPT_ALONE)
            wrong = differing(data, one.data, kept) + differing(kept, one.known, kept)
            if wrong:
                raise Wrong(f"{path!r}: {len(wrong)} bytes from {wrong[0]} on are not cached")

    def forget_evicted(self, cache: CacheState) -> None:
        for path in self._known():
            info, one = os.lstat(self.plain.at(path)), cache.paths[path]
            if stat.S_ISREG(info.st_mode):
                mask = self.mask(info)
                mask[:] = masked(mask, one.valid)

    def forget_nulls(self, before: CacheState, after: CacheState) -> None:
        """What was cached and is not any more, which `check_cache_kept` grants to nulls alone."""
        for path in self._known():
            info, now = os.lstat(self.plain.at(path)), after.paths[path]
            one = before.inodes.get(now.ino)
            if stat.S_ISREG(info.st_mode) and one is not None and one.size == now.size:
                mask = self.mask(info)
                for n in differing(one.valid, now.known, one.valid):
                    mask[n] = 0

    def follow_home(self, cache: CacheState) -> None:
        """Files with nothing cached may have taken over home's size."""
        for path in self._known():
            info, one = os.lstat(self.plain.at(path)), cache.paths[path]
            if stat.S_ISREG(info.st_mode) and info.st_size != one.size:
                os.truncate(self.plain.at(path), one.size)
                self._masks[info.st_ino] = bytearray(one.size)

    # -- files -----------------------------------------------------------------------------------

    @rule(index=indexes, offset=offsets, data=contents, truncate=st.booleans())
    def write(self, index: int, offset: int, data: bytes, truncate: bool) -> None:
        path = self._old(index)
        if truncate and stat.S_ISREG(self._mode(path)):
            self._same(lambda f: f.truncate(path, 0))
            self._resized(path)
        self._on_file(path, os.O_WRONLY, lambda f, h: f.write(h, offset, data))
        self._wrote(path, offset, len(data))

    @rule(index=indexes, data=contents)
    def append(self, index: int, data: bytes) -> None:
        path = self._old(index)
        size = os.stat(self.plain.at(path)).st_size if stat.S_ISREG(self._mode(path)) else 0
        self._on_file(path, os.O_WRONLY | os.O_APPEND, lambda f, h: f.append(h, data))
        self._wrote(path, size, len(data))

    @rule(index=indexes, size=offsets)
    def truncate(self, index: int, size: int) -> None:
        path = self._old(index)
        if not stat.S_ISFIFO(self._mode(path)):
            self._same(lambda f: f.truncate(path, size))
        self._resized(path)

    def map_write(self) -> None:
        """Left out: a page fault that finds home changed ends the program."""

    @rule(index=indexes, offset=offsets, size=sizes)
    def read(self, index: int, offset: int, size: int) -> None:
        path = self._old(index)
        if stat.S_ISREG(self._mode(path)):
            self.read_path(path, offset, size)

    def read_path(self, path: bytes, offset: int, size: int) -> bytes | None:
        one = self.plain.open(path, os.O_RDONLY)
        other = self.tested.files.open(path, os.O_RDONLY)
        try:
            return self._read(one, other, offset, size)
        finally:
            self.plain.close(one)
            self.tested.files.close(other)

    def _read(self, one: int, other: Any, offset: int, size: int) -> bytes | None:
        """What was read; None if it can't be read now, which must not be for want of home."""
        info, expected = os.fstat(one), os.pread(one, size, offset)
        mask = self.mask(info)
        word, data = outcome(lambda: self.tested.files.read(other, offset, size))
        if word == "failed":
            page = BLOCK if self.SHORT_READS else 1
            start, end = offset // page * page, -(-(offset + len(expected)) // page) * page
            if data != errno.EIO or is_kept(mask[start:end]):
                raise Wrong(f"what is cached can't be read: {data}")
            return None
        if len(data) != len(expected) and not (self.SHORT_READS and len(data) < len(expected)):
            raise Wrong(f"{len(data)} bytes were read of {len(expected)}")
        if data != expected[: len(data)]:
            self._check_as_at_home(mask, offset, data, expected)
        self._learn(one, info, offset, data)
        return bytes(data)

    def _check_as_at_home(self, mask: bytearray, offset: int, data: bytes, expected: bytes) -> None:
        """Each byte that is not the expected one was never kept, and some file at home has it."""
        at_home = self._at_home(mask, offset, len(data))
        for n, byte in enumerate(data):
            kept = mask[offset + n] == KEPT
            # It may have come with what was read before, in one block or ahead of it.
            if byte != expected[n] and (kept or all(there[n] != byte for there in at_home)):
                raise Wrong(f"byte {offset + n} reads {byte}, not {expected[n]}, nor as at home")

    def _at_home(self, mask: bytearray, offset: int, size: int) -> list[bytes]:
        """What any file at home has there: which of them is meant is home's business."""
        found = [bytes(size)]
        if not is_kept(mask[offset : offset + size]):
            for top, _, files in os.walk(self.where):
                for path in (os.path.join(top, name) for name in files):
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        with open(path, "rb") as file:
                            piece = os.pread(file.fileno(), size, offset)
                        found.append(piece.ljust(size, b"\0"))
        return found

    def _learn(self, one: int, info: os.stat_result, offset: int, data: bytes) -> None:
        """What was read is cached from now on."""
        fd = os.open(f"/proc/self/fd/{one}", os.O_WRONLY)
        try:
            os.pwrite(fd, data, offset)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
        finally:
            os.close(fd)
        self._keep(info, offset, len(data))

    # -- handles ---------------------------------------------------------------------------------

    @precondition(lambda self: self.handles)
    @rule(index=indexes, offset=offsets, data=contents)
    def write_held(self, index: int, offset: int, data: bytes) -> None:
        one, _, flags = self.handles[index % len(self.handles)]
        if flags & os.O_APPEND:
            offset = os.fstat(one).st_size
            self._same_at(index, lambda f, h: f.append(h, data))
        else:
            self._same_at(index, lambda f, h: f.write(h, offset, data))
        self._keep(os.fstat(one), offset, len(data))

    @precondition(lambda self: self.handles)
    @rule(index=indexes, offset=offsets, size=sizes)
    def read_held(self, index: int, offset: int, size: int) -> None:
        one, other, _ = self.handles[index % len(self.handles)]
        self._read(one, other, offset, size)

    @precondition(lambda self: self.handles)
    @rule(index=indexes, size=offsets)
    def cut_held(self, index: int, size: int) -> None:
        self._same_at(index, lambda f, h: f.cut(h, size))
        self.mask(os.fstat(self.handles[index % len(self.handles)][0]))

    # -- names -----------------------------------------------------------------------------------

    @rule(index=indexes)
    def rmdir(self, index: int) -> None:
        path = self._old(index)
        if not self._is_unread(path):  # whether it is empty only home knows
            self._same(lambda f: f.rmdir(path))

    @rule(index=indexes, parent=indexes, name=names, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, index: int, parent: int, name: bytes, flags: int) -> None:
        self._rename(self._old(index), self._new(parent, name), flags)

    @rule(index=indexes, other=indexes, flags=st.sampled_from([0, 2]))
    def rename_over(self, index: int, other: int, flags: int) -> None:
        self._rename(self._old(index), self._old(other), flags)

    def _rename(self, path: bytes, target: bytes, flags: int) -> None:
        if not self._is_unread(target):
            self._same(lambda f: f.rename(path, target, flags))

    @rule(index=indexes, name=names, text=st.sampled_from([b"a", b"b", b"nowhere"]))
    def symlink(self, index: int, name: bytes, text: bytes) -> None:
        """None leads through a directory and back, which may be the one not to be looked into."""
        path = self._new(index, name)
        self._same(lambda f: f.symlink(text, path))

    @rule(index=indexes)
    def look(self, index: int) -> None:
        path = self._old(index)
        self._same(lambda f: f.look(path))
        self._same(lambda f: f.readlink(path))
        if not self._leads_to_unread(path):
            self._same(lambda f: f.names(path))

    @precondition(lambda self: self.xattrs)
    @rule(index=indexes, value=st.sampled_from([b"1", b"two", None]))
    def change_xattr(self, index: int, value: bytes | None) -> None:
        path = self._old(index)
        if stat.S_ISREG(self._mode(path)):
            self._same(lambda f: f.change_xattr(path, "user.b", value))
