"""What a tree is promised to hold: names, objects with one or several of them, bytes.

Trees are compared as `shape`s. Between the tree before an operation and the one after it there is
nothing, but for the bytes of one file: a write may have come to a part of them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIRECTORY, FILE, SYMLINK, FIFO = "directory", "file", "symlink", "fifo"

_KINDS = {stat.S_IFDIR: DIRECTORY, stat.S_IFREG: FILE, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO}


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """An object of the tree; two names of one object are two keys of one Thing."""

    kind: str
    mode: int  # permission bits
    data: bytes | None = b""  # of a file, or a symlink's target; None: not looked at
    size: int = 0  # of a file


Tree = dict[str, Thing]


def a_file(data: bytes, mode: int = 0o644) -> Thing:
    return Thing(FILE, mode, data, len(data))


def observe(directory: Path, reads: Callable[[str], bool] = lambda path: True) -> Tree:
    """The tree as the file system shows it, with the bytes of files that `reads` chooses."""
    inodes: dict[str, int] = {}
    known: dict[int, Thing] = {}
    for top, directories, files in os.walk(directory, onerror=_raise):
        for name in (*directories, *files):
            place = os.path.join(top, name)
            path = os.path.relpath(place, directory)
            st = os.lstat(place)
            thing = known.get(st.st_ino)
            if thing is None or (thing.data is None and reads(path)):
                known[st.st_ino] = _look(place, st, reads(path))
            inodes[path] = st.st_ino
    return {path: known[ino] for path, ino in inodes.items()}


def _look(place: str, st: os.stat_result, read: bool) -> Thing:
    kind, mode = _KINDS[stat.S_IFMT(st.st_mode)], stat.S_IMODE(st.st_mode)
    if kind == FILE:
        return Thing(kind, mode, Path(place).read_bytes() if read else None, st.st_size)
    return Thing(kind, mode, os.fsencode(os.readlink(place)) if kind == SYMLINK else b"")


Look = tuple[str, int, bytes | None, int, str]
"""Of an object its kind, mode, bytes, size and first name."""

Shape = dict[str, Look]


def shape(tree: Tree) -> Shape:
    first: dict[int, str] = {}
    for path in sorted(tree):
        first.setdefault(id(tree[path]), path)
    return {
        path: (thing.kind, thing.mode, thing.data, thing.size, first[id(thing)])
        for path, thing in tree.items()
    }


def differences(found: Tree, wanted: Tree) -> list[str]:
    """How a tree differs from the promised one; bytes that were not looked at are as they were."""
    said: list[str] = []
    seen, due = shape(found), shape(wanted)
    for path in sorted({*seen, *due}):
        a, b = seen.get(path), due.get(path)
        if a is None or b is None:
            said.append(f"{path}: {_brief(a)} in place of {_brief(b)}")
        elif a != b and (a[2] is not None or a[:2] + a[3:] != b[:2] + b[3:]):
            said.append(f"{path}: {_brief(a)} in place of {_brief(b)}; {_where(a[2], b[2])}")
    return said


def lies_between(found: Tree, before: Tree, after: Tree) -> bool:
    """Whether only bytes of one object tell `found` from `before` and `after`, and each of them is
    an old or a new one."""
    seen, old, new = shape(found), shape(before), shape(after)
    if not seen.keys() == old.keys() == new.keys():
        return False
    for path, now in seen.items():
        a, b = old[path], new[path]
        if now[:2] != a[:2] or now[4] != a[4] or a[4] != b[4]:
            return False
        if now[2] is None:
            if now[3] not in (a[3], b[3]):
                return False
        elif not _torn(now[2], a[2] or b"", b[2] or b""):
            return False
    return True


def _torn(seen: bytes, old: bytes, new: bytes) -> bool:
    if seen in (old, new):
        return True
    if not len(old) <= len(seen) <= len(new):
        return False  # a truncation is one step of the inode's
    old = old.ljust(len(new), b"\0")
    for low in range(0, len(seen), 4096):
        piece, high = seen[low : low + 4096], min(low + 4096, len(seen))
        choices = old[low:high], new[low:high]
        if piece not in choices and not all(
            byte in pair for byte, pair in zip(piece, zip(*choices, strict=True), strict=True)
        ):
            return False
    return True


def digests(tree: Tree) -> dict[str, list[object]]:
    """A shape as JSON can hold it."""
    return {path: digest(entry) for path, entry in shape(tree).items()}


def digest(entry: Look) -> list[object]:
    kind, mode, data, size, first = entry
    return [kind, mode, hashlib.sha256(data or b"").hexdigest(), size, first]


def _brief(entry: Look | None) -> str:
    if entry is None:
        return "nothing"
    kind, mode, data, size, first = entry
    what = (
        "" if data is None else f", {data.count(0)} zeros, {hashlib.sha256(data).hexdigest()[:8]}"
    )
    return f"{kind} {mode:o} as {first!r} of {size} bytes{what}"


def _where(seen: bytes | None, due: bytes | None) -> str:
    if seen is None or due is None or seen == due:
        return "the same bytes"
    at = next((n for n, pair in enumerate(zip(seen, due, strict=False)) if pair[0] != pair[1]), -1)
    return f"the first other byte is {at}"


def _raise(error: OSError) -> None:
    raise error
