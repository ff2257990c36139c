"""What a cache holds, read from its tables and blobs as they are documented, and no other way."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.harness.masks import masked, positions

ROOT, UNLINKED = 1, 2
MAKE, LINK, REMOVE, RENAME, EXCHANGE, WRITE, SIZE, ATTR, XATTR = range(1, 10)
NAME_OPS = range(MAKE, EXCHANGE + 1)

_INODE = (
    "ino, mode, uid, gid, nlink, size, mtime, gen, whole, home_valid, listed,"
    " home_size, home_mtime, home_ino, target"
)


class Version(NamedTuple):
    """What is known of a file at home."""

    size: int
    mtime: int
    ino: int | None


class Pending(NamedTuple):
    """An entry that home has not seen, as far as is recorded."""

    id: int
    op: int
    ino: int
    parent: int | None
    name: bytes | None
    parent2: int | None
    name2: bytes | None
    ino2: int | None
    start: int
    end: int

    @property
    def names(self) -> set[bytes]:
        return {name for name in (self.name, self.name2) if name is not None}


@dataclass(slots=True)
class Cached:
    """One inode of the cache."""

    ino: int
    mode: int
    owner: tuple[int, int]
    nlink: int
    size: int
    mtime: int
    home_valid: int
    listed: bool
    target: bytes | None
    xattrs: dict[str, bytes]
    data: bytes  # of a file: what it reads, where it is known
    known: bytearray  # of a file: 1 for each byte that is read without home
    valid: bytearray  # of a file: 1 for each byte that is cached
    versions: list[Version] = field(default_factory=list)  # that home may hold; newest last
    dirty: bytearray = field(default_factory=bytearray)  # 1 for each byte with a pending change
    resized: bool = False  # a pending entry sets its size
    pending: bool = False  # any entry is pending
    nulled: bytearray = field(default_factory=bytearray)  # 1 for each byte that a resync made null
    pushing: bool = False  # its version at home is anybody's guess
    lost: bool = False  # home has lost it
    names: set[bytes] = field(default_factory=set)  # its paths

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def is_file(self) -> bool:
        return self.kind == stat.S_IFREG

    @property
    def gaps(self) -> list[int]:
        """Where only home may have bytes."""
        return positions(self.known, 0)

    @property
    def unread(self) -> bool:
        """Whether it is a directory that was never looked into."""
        return stat.S_ISDIR(self.mode) and not self.listed

    @property
    def without_data(self) -> bool:
        return self.is_file and 0 in self.known and 1 not in self.valid

    def facts(self) -> tuple[object, ...]:
        """What no job may change."""
        return self.mode, self.owner, self.nlink, self.size, self.mtime, self.target, self.xattrs

    def __str__(self) -> str:
        return f"inode {self.ino} {sorted(self.names)} ({stat.filemode(self.mode)}, {self.size})"


class CacheState:
    """Both databases of a cache at a moment when nothing is under way."""

    def __init__(self, cache: Path, block: int) -> None:
        self.block, self._cache = block, cache
        self.inodes: dict[int, Cached] = {}
        db = _connect(cache / "cache.db")
        try:
            self.job = json.loads(_setting(db, "job") or "null")
            self.needs_resync = str(_setting(db, "needs_resync") or "")
            number = int(_setting(db, "home") or 1)
            for row in db.execute(f"SELECT {_INODE} FROM inode"):
                self.inodes[row[0]] = self._cached(db, row)
            self.queue = [
                Pending._make(row)
                for row in db.execute(
                    'SELECT id, op, ino, parent, name, parent2, name2, ino2, start, "end"'
                    " FROM queue ORDER BY id"
                )
            ]
            for (ino,) in db.execute("SELECT ino FROM lost"):
                if ino in self.inodes:
                    self.inodes[ino].lost = True
            self.dentries = db.execute("SELECT parent, name, ino FROM dentry").fetchall()
            self._name(self.dentries)
        finally:
            db.close()
        self.trash: list[tuple[int, int, str]] = []
        journal = cache / "gateway" / str(number) / "gateway.db"
        if journal.exists():
            self._add_journal(journal)
        self._mark_dirty()

    def _cached(self, db: sqlite3.Connection, row: tuple[int, ...]) -> Cached:
        (ino, mode, uid, gid, nlink, size, mtime, gen, whole, home_valid, listed,
         home_size, home_mtime, home_ino, target) = row  # fmt: skip
        is_file = stat.S_ISREG(mode)
        length = size if is_file else 0
        valid = bytearray(length)
        if is_file:
            for start, end in [(0, size)] if whole else self._ranges(db, ino):
                valid[start : min(end, size)] = b"\1" * (min(end, size) - start)
        known = bytearray(valid)
        if home_valid < length:
            known[home_valid:] = b"\1" * (length - home_valid)
        pairs = db.execute("SELECT name, value FROM xattr WHERE ino=?", (ino,))
        found = Cached(
            ino, mode, (uid, gid), nlink, size, mtime, home_valid, listed == 2, target,
            {_text(name): value for name, value in pairs if name.startswith(b"user.")},
            self._data(gen, length, valid), known, valid,
            dirty=bytearray(length), nulled=bytearray(length),
        )  # fmt: skip
        if home_mtime is not None:
            found.versions.append(Version(home_size, home_mtime, home_ino))
        return found

    def _ranges(self, db: sqlite3.Connection, ino: int) -> Iterable[tuple[int, int]]:
        rows = db.execute("SELECT chunk, bits FROM blockmap WHERE ino=?", (ino,)).fetchall()
        for chunk, bits in rows:
            if len(bits) == 8:  # a run of full chunks
                stop = chunk + int.from_bytes(bits, "little")
                yield chunk * 8192 * self.block, stop * 8192 * self.block
                continue
            for number in range(len(bits) * 8):
                if bits[number // 8] >> number % 8 & 1:
                    start = (chunk * 8192 + number) * self.block
                    yield start, start + self.block
        yield from db.execute("SELECT start, end FROM span WHERE ino=?", (ino,)).fetchall()

    def _data(self, gen: int, size: int, valid: bytearray) -> bytes:
        path = self._cache / "blobs" / f"{gen >> 10 & 0xFF:02x}" / f"{gen:x}"
        raw = path.read_bytes() if gen and path.exists() else b""
        raw = raw[:size].ljust(size, b"\0")
        return masked(raw, valid)

    def _name(self, rows: list[tuple[int, bytes, int]]) -> None:
        inside: dict[int, list[tuple[bytes, int]]] = {}
        for parent, name, ino in rows:
            inside.setdefault(parent, []).append((name, ino))
        self.paths: dict[bytes, Cached] = {}
        todo = [(ROOT, b"")]
        while todo:
            directory, path = todo.pop()
            for name, ino in inside.get(directory, ()):
                below = path + b"/" + name if path else name
                self.paths[below] = self.inodes[ino]
                self.inodes[ino].names.add(below)
                if stat.S_ISDIR(self.inodes[ino].mode):
                    todo.append((ino, below))

    def _add_journal(self, path: Path) -> None:
        """What the gateway did and the cache has not taken over yet, and what is in doubt."""
        db = _connect(path)
        try:
            done = set()
            for entry, ino, size, mtime, home_ino in db.execute(
                "SELECT id, ino, home_size, home_mtime, home_ino FROM outcome ORDER BY seq"
            ):
                done.add(entry)
                if mtime is not None and ino in self.inodes:
                    self.inodes[ino].versions.append(Version(size, mtime, home_ino))
            flight = {entry for (entry,) in db.execute("SELECT id FROM flight")}
            begun = {ino for (ino,) in db.execute(
                "SELECT ino FROM priority WHERE verdict IS NOT NULL"
            )}  # fmt: skip
            self.trash = db.execute("SELECT number, job, state FROM trash").fetchall()
            for ino, start, end in db.execute("SELECT ino, start, end FROM nulled"):
                one = self.inodes.get(ino)
                if one is not None:
                    end = min(end, len(one.nulled))
                    one.nulled[start:end] = b"\1" * max(0, end - start)
        finally:
            db.close()
        self.queue = [e for e in self.queue if e.id not in done]
        begun |= {e.ino for e in self.queue if e.id in flight and e.op in (MAKE, WRITE, SIZE)}
        for ino in begun & self.inodes.keys():
            self.inodes[ino].pushing = True

    def _mark_dirty(self) -> None:
        for e in self.queue:
            for ino in (e.ino, e.ino2):
                if ino in self.inodes:
                    self.inodes[ino].pending = True
            one = self.inodes.get(e.ino)
            if one is None or not one.is_file:
                continue
            if e.op == WRITE:
                end = min(e.end, one.size)
                one.dirty[e.start : end] = b"\1" * max(0, end - e.start)
            elif e.op == SIZE:
                one.resized = True
                one.dirty[e.end :] = b"\1" * max(0, one.size - e.end)
            elif e.op == MAKE:
                one.dirty[:] = b"\1" * one.size

    @property
    def pending_names(self) -> set[bytes]:
        """Last components of the names that pending entries make, free or move."""
        return {name for e in self.queue if e.op in NAME_OPS for name in e.names}

    def by_home_ino(self) -> dict[int, Cached]:
        """Which inode a file at home is the known version of, by home's inode numbers."""
        return {
            version.ino: one
            for one in self.inodes.values()
            for version in one.versions
            if version.ino is not None and not one.lost
        }

    def paths_at_home(self) -> dict[int, set[bytes]]:
        """Where home is to have each inode now: under its present names, with what is pending
        undone."""
        places: dict[int, set[tuple[int, bytes]]] = {ino: set() for ino in self.inodes}
        for parent, name, ino in self.dentries:
            places.setdefault(ino, set()).add((parent, name))
        for e in reversed(self.queue):
            if e.op in NAME_OPS:
                _undo(e, places)
        return {
            ino: {path for place in found if (path := _path(place, places)) is not None}
            for ino, found in places.items()
        }


Places = dict[int, set[tuple[int, bytes]]]


def _undo(e: Pending, places: Places) -> None:
    """Take back what an entry does to names."""
    assert e.parent is not None and e.name is not None
    source, here = (e.parent, e.name), places.setdefault(e.ino, set())
    if e.op in (MAKE, LINK):
        here.discard(source)
        return
    if e.op == REMOVE:
        here.add(source)
        return
    assert e.parent2 is not None and e.name2 is not None
    target = (e.parent2, e.name2)
    here.discard(target)
    here.add(source)
    if e.ino2 is not None:
        other = places.setdefault(e.ino2, set())
        if e.op == EXCHANGE:
            other.discard(source)
        other.add(target)


def _path(place: tuple[int, bytes], places: Places) -> bytes | None:
    """None below a directory that home does not have."""
    parts, (at, name) = [place[1]], place
    while at != ROOT:
        above = sorted(places.get(at, ()))
        if not above or len(parts) > 99:
            return None
        at, name = above[0]
        parts.append(name)
    return b"/".join(reversed(parts))


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    db.text_factory = _text
    return db


def _setting(db: sqlite3.Connection, key: str) -> object:
    row = db.execute("SELECT value FROM fileset WHERE key=?", (key,)).fetchone()
    return row and row[0]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
