"""Everything that lies at a home, its trash included, at a moment when nobody works on it.

Objects are told apart by their inode numbers, which must never be given out twice: so it is on a
tmpfs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

Name = tuple[int, bytes]
"""A name where it stands: the inode number of its directory, and itself. The renaming of anything
above does not change it."""


class Zone(Enum):
    """What lies in different parts of a home."""

    TREE = "tree"
    TRASH = "trash"
    UNLINKED = "unlinked"
    EXCHANGE = "exchange"
    SCRATCH = "scratch"
    OTHER = "other"


_ZONES = {
    b".afmtrash": Zone.TRASH,
    b"unlinked": Zone.UNLINKED,
    b"exchange": Zone.EXCHANGE,
    b"scratch": Zone.SCRATCH,
}


@dataclass(slots=True, eq=False)
class HomeObject:
    ino: int
    mode: int
    owner: tuple[int, int]
    size: int
    mtime: int
    data: bytes | None  # of a file
    target: bytes | None  # of a symlink
    xattrs: dict[str, bytes]
    names: dict[Name, tuple[Zone, bytes]] = field(default_factory=dict)  # each, and its path

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def zones(self) -> set[Zone]:
        return {zone for zone, _ in self.names.values()}

    def same_content(self, other: HomeObject) -> bool:
        return (self.kind, self.data, self.target) == (other.kind, other.data, other.target)

    def facts(self) -> tuple[object, ...]:
        """All that a second resync must leave as it is."""
        times = None if Zone.OTHER in self.zones else self.mtime
        return self.mode, self.owner, self.size, times, self.data, self.target, self.xattrs

    def __str__(self) -> str:
        paths = ", ".join(f"{zone.value}:{path!r}" for zone, path in self.names.values())
        return f"{paths} ({stat.filemode(self.mode)}, inode {self.ino}, {self.size} bytes)"


class HomeState:
    """`objects` by inode number; `tree` has the path of every name that users see."""

    def __init__(self, root: Path) -> None:
        self.objects: dict[int, HomeObject] = {}
        self.tree: dict[bytes, HomeObject] = {}
        self._walk(os.fsencode(root), b"", Zone.TREE)
        self.root = os.lstat(root).st_ino

    def _walk(self, top: bytes, path: bytes, zone: Zone) -> None:
        whole = os.path.join(top, path) if path else top
        above = os.lstat(whole).st_ino
        with os.scandir(whole) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                below = os.path.join(path, entry.name)
                within = _zone(below, zone)
                found = self._object(entry.path, entry.stat(follow_symlinks=False))
                found.names[above, entry.name] = within, below
                if within is Zone.TREE:
                    self.tree[below] = found
                if stat.S_ISDIR(found.mode):
                    self._walk(top, below, within)

    def _object(self, path: bytes, st: os.stat_result) -> HomeObject:
        found = self.objects.get(st.st_ino)
        if found is None:
            found = self.objects[st.st_ino] = HomeObject(
                st.st_ino, st.st_mode, (st.st_uid, st.st_gid),
                0 if stat.S_ISDIR(st.st_mode) else st.st_size, st.st_mtime_ns,
                Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(st.st_mode) else None,
                os.readlink(path) if stat.S_ISLNK(st.st_mode) else None,
                xattrs_of(path),
            )  # fmt: skip
        return found

    def kept(self) -> Iterator[HomeObject]:
        """What users have put here, or a job has moved aside, but for the root."""
        wanted = {Zone.TREE, Zone.TRASH, Zone.UNLINKED, Zone.EXCHANGE}
        return (one for one in self.objects.values() if one.zones & wanted)

    def children(self, directory: int) -> list[HomeObject]:
        return [
            one for one in self.objects.values() if any(name[0] == directory for name in one.names)
        ]


def _zone(path: bytes, above: Zone) -> Zone:
    parts = path.split(b"/")
    if parts[0] != b".afm":
        return Zone.TREE
    if len(parts) == 4 and parts[1:4:2] == [b".afmtrash", b"index"]:
        return Zone.OTHER  # it tells of the trash, and grows
    return _ZONES.get(parts[1], Zone.OTHER) if len(parts) > 1 else Zone.OTHER


def xattrs_of(path: bytes) -> dict[str, bytes]:
    """The extended attributes of users, where the file system keeps any."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(names)
        if name.startswith("user.")
    }


def canary_state(root: Path) -> dict[bytes, tuple[object, ...]]:
    """What nobody may ever touch: contents, attributes and the time of the last change of any."""
    found: dict[bytes, tuple[object, ...]] = {}
    for top, below, files in os.walk(os.fsencode(root)):
        for path in [top, *(os.path.join(top, name) for name in [*below, *files])]:
            st = os.lstat(path)
            data: object = None
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
            owner = (st.st_uid, st.st_gid)
            found[path] = st.st_mode, owner, st.st_nlink, st.st_mtime_ns, st.st_ctime_ns, data
    return found
