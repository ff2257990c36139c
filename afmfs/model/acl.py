"""POSIX access control lists in the form of their extended attributes. Pure.

A list is a version and entries of tag, permissions and id, little-endian (acl(5), and the kernel's
posix_acl_xattr.h). Where a mask is in it, the group bits of the mode are the mask.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF

_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


class Ace(NamedTuple):
    tag: int
    perm: int  # rwx bits
    id: int


def load(value: bytes) -> list[Ace]:
    """The entries of a list. ValueError if it is none."""
    if len(value) < 4 or (len(value) - 4) % 8 or _VERSION.unpack_from(value)[0] != 2:
        raise ValueError("not an access control list")
    return [Ace(*_ENTRY.unpack_from(value, at)) for at in range(4, len(value), 8)]


def dump(entries: list[Ace]) -> bytes:
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*e) for e in entries)


def is_minimal(entries: list[Ace]) -> bool:
    """Whether the mode says all that the list says."""
    return all(e.tag in (USER_OBJ, GROUP_OBJ, OTHER) for e in entries)


def mode_of(entries: list[Ace], mode: int) -> int:
    """`mode` with the permission bits that the list gives."""
    perms = {e.tag: e.perm for e in entries}
    group = perms.get(MASK, perms.get(GROUP_OBJ, 0))
    return mode & ~0o777 | perms.get(USER_OBJ, 0) << 6 | group << 3 | perms.get(OTHER, 0)


def with_mode(entries: list[Ace], mode: int) -> list[Ace]:
    """The list after chmod: the group bits set the mask where there is one."""
    masked = any(e.tag == MASK for e in entries)
    new = {
        USER_OBJ: mode >> 6 & 7,
        MASK if masked else GROUP_OBJ: mode >> 3 & 7,
        OTHER: mode & 7,
    }
    return [e._replace(perm=new.get(e.tag, e.perm)) for e in entries]


def inherited(entries: list[Ace], mode: int) -> tuple[list[Ace], int]:
    """What a new object gets of its directory's default list: its access list, and its mode, with
    which it was asked for and which the list can only narrow."""
    masked = any(e.tag == MASK for e in entries)
    limit = {USER_OBJ: mode >> 6 & 7, OTHER: mode & 7}
    limit[MASK if masked else GROUP_OBJ] = mode >> 3 & 7
    narrowed = [e._replace(perm=e.perm & limit.get(e.tag, 7)) for e in entries]
    return narrowed, mode_of(narrowed, mode)


def narrowest(entries: list[Ace], mode: int) -> int:
    """A mode that gives nobody more than the list does, for where lists are not in use."""
    named = [e.perm for e in entries if e.tag in (USER, GROUP)]
    perms = {e.tag: e.perm for e in entries}
    group, other = perms.get(GROUP_OBJ, 0) & perms.get(MASK, 7), perms.get(OTHER, 0)
    for perm in named:
        group, other = group & perm, other & perm
    return mode & ~0o77 | group << 3 | other
