"""Actions: what the gateway does at home for a batch of entries.

A batch is executed in three phases, and again in the same order when it is in doubt:
names first (a new object is made together with its content), then the content and attributes of
what home already held, then the times of the directories that were touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from afmfs.model.ranges import Ranges


@dataclass(frozen=True, slots=True)
class Content:
    """The merged effect of SIZE, WRITE, ATTR and XATTR entries on one inode.

    At home, in this order: cut to `smallest` if longer; set the size to `size`; write `ranges`
    from the blob (a hole in them is a hole made at home); then attributes and times.
    """

    smallest: int | None = None  # smallest size that any entry set; None: no entry set one
    size: int | None = None  # size after the last entry; None: known only as "what home has, or
    # the end of the last range if that is more"
    ranges: Ranges = ()  # sorted, disjoint, half-open byte ranges; none reaches beyond `size`
    attr: bool = False  # mode and owner are to be set (times always are)
    xattrs: frozenset[bytes] = frozenset()

    @property
    def changes_bytes(self) -> bool:
        return self.smallest is not None or bool(self.ranges)


Place = tuple[int, bytes]
"""A name: (inode number of its directory, name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    ids: tuple[int, ...]  # entries that are executed with it, ascending
    ino: int
    kind: int  # S_IFMT bits


@dataclass(frozen=True, slots=True, kw_only=True)
class _AtPlace(Action):
    place: Place
    passed: tuple[Place, ...] = ()  # names that its entries went through; not touched at home

    @property
    def inos(self) -> tuple[int, ...]:
        """The inodes that get, lose or change a name."""
        return (self.ino,)

    @property
    def places(self) -> tuple[Place, ...]:
        """The names that come, go or change hands."""
        return (self.place,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Make(_AtPlace):
    """A new object with its content. With `replaces` it is written beside and renamed over."""

    content: Content = Content()
    replaces: int | None = None

    @property
    def inos(self) -> tuple[int, ...]:
        return (self.ino,) if self.replaces is None else (self.ino, self.replaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link(_AtPlace):
    """One more name of an inode that home has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(_AtPlace):
    """A name goes. `kind` tells a directory from the rest, no more: what replaced the inode and
    then went itself may have been of another kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename(_AtPlace):
    target: Place
    replaces: int | None = None

    @property
    def inos(self) -> tuple[int, ...]:
        return (self.ino,) if self.replaces is None else (self.ino, self.replaces)

    @property
    def places(self) -> tuple[Place, ...]:
        return self.place, self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(_AtPlace):
    target: Place
    other: int

    @property
    def inos(self) -> tuple[int, ...]:
        return self.ino, self.other

    @property
    def places(self) -> tuple[Place, ...]:
        return self.place, self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Push(Action):
    """Content and attributes of an inode that home holds already (files, directories, ...)."""

    content: Content


NameAction = Make | Link | Remove | Rename | Exchange


@dataclass(frozen=True, slots=True)
class Batch:
    """What is executed as one: safe to execute again after any interruption (crash-rules.md)."""

    names: tuple[NameAction, ...]  # in an order that respects their dependencies
    pushes: tuple[Push, ...]  # after the names; independent of each other
    settled: tuple[int, ...]  # need nothing at home (made and removed); executed before the rest
    # Directories in which applications changed names, also where nothing of it is left to do at
    # home: their times have changed all the same.
    touched: frozenset[int] = frozenset()

    @property
    def ids(self) -> tuple[int, ...]:
        """Every entry of the batch, ascending."""
        every = [i for a in (*self.names, *self.pushes) for i in a.ids]
        return tuple(sorted([*every, *self.settled]))
