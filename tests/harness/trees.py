"""Exact comparison of two directory trees: what a home and its mount must agree on."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

Tree = dict[bytes, "Node"]
"""Relative path (the root is b"") to what is there."""

MARKER = b".afm"


@dataclass(frozen=True, slots=True)
class Node:
    kind: int  # S_IFMT bits
    mode: int  # permission bits
    owner: tuple[int, int]
    mtime: int  # ns
    size: int | None = None  # of regular files
    digest: bytes | None = None
    target: bytes | None = None  # of symlinks
    rdev: int | None = None  # of device nodes
    twins: tuple[bytes, ...] = ()  # every name of the inode in this tree, where there are several
    holes: tuple[tuple[int, int], ...] | None = None  # where asked for


def snapshot(root: Path | str | bytes, *, holes: bool = False) -> Tree:
    """Read a whole tree; the marker directory `/.afm` at its root is left out."""
    top = os.fsencode(root)
    tree: Tree = {}
    names: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    for path in _walk(top, b""):
        whole = os.path.join(top, path) if path else top
        info = os.lstat(whole)
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            names[info.st_dev, info.st_ino].append(path)
        tree[path] = _node(whole, info, holes)
    for paths in names.values():
        twins = tuple(sorted(paths))
        for path in paths if len(paths) > 1 else ():
            tree[path] = _with_twins(tree[path], twins)
    return tree


def _walk(top: bytes, path: bytes) -> Iterable[bytes]:
    yield path
    with os.scandir(os.path.join(top, path) if path else top) as entries:
        found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries)
    for name, is_dir in found:
        if not path and name == MARKER:
            continue
        below = os.path.join(path, name)
        if is_dir:
            yield from _walk(top, below)
        else:
            yield below


def _node(path: bytes, info: os.stat_result, holes: bool) -> Node:
    kind = stat.S_IFMT(info.st_mode)
    regular = kind == stat.S_IFREG
    return Node(
        kind=kind,
        mode=stat.S_IMODE(info.st_mode),
        owner=(info.st_uid, info.st_gid),
        mtime=info.st_mtime_ns,
        size=info.st_size if regular else None,
        digest=_digest(path) if regular else None,
        target=os.readlink(path) if kind == stat.S_IFLNK else None,
        rdev=info.st_rdev if kind in (stat.S_IFBLK, stat.S_IFCHR) else None,
        holes=find_holes(path, info.st_size) if regular and holes else None,
    )


def _with_twins(node: Node, twins: tuple[bytes, ...]) -> Node:
    values = {field.name: getattr(node, field.name) for field in fields(Node)}
    return Node(**{**values, "twins": twins})


def _digest(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "blake2b").digest()


def find_holes(path: bytes, size: int) -> tuple[tuple[int, int], ...]:
    """The holes of a file, as half-open byte ranges."""
    found = []
    with open(path, "rb", buffering=0) as file:
        end = 0
        while end < size:
            start = os.lseek(file.fileno(), end, os.SEEK_HOLE)
            if start >= size:
                break
            try:
                end = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind it
                end = size
            found.append((start, end))
    return tuple(found)


def differences(
    left: Mapping[bytes, Node], right: Mapping[bytes, Node], *, ignore: Iterable[str] = ()
) -> list[str]:
    """A line for each way in which two snapshots differ; `ignore` names fields of Node."""
    found = []
    compared = [f.name for f in fields(Node) if f.name not in set(ignore)]
    for path in sorted(left.keys() | right.keys()):
        a, b = left.get(path), right.get(path)
        if a is None or b is None:
            found.append(f"{path!r}: only in {'the second' if a is None else 'the first'}")
            continue
        for name in compared:
            one, other = getattr(a, name), getattr(b, name)
            if one != other:
                found.append(f"{path!r}: {name} {_shown(one)} / {_shown(other)}")
    return found


def _shown(value: object) -> str:
    return value.hex()[:12] if isinstance(value, bytes) and len(value) == 64 else repr(value)


def assert_same(
    left: Path, right: Path, *, ignore: Iterable[str] = (), holes: bool = False
) -> None:
    """Fail with the first differences of two trees."""
    found = differences(snapshot(left, holes=holes), snapshot(right, holes=holes), ignore=ignore)
    shown = "\n".join(found[:40])
    assert not found, f"{len(found)} differences between {left} and {right}:\n{shown}"
