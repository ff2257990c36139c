"""Extended attributes at home. `where` is a descriptor (not O_PATH) or what `at` or `Home.held`
returns."""

from __future__ import annotations

import errno
import os

from afmfs.gateway.home.walk import check_name
from afmfs.model import acl


class Held(bytes):
    """A path of /proc that leads to the object of a descriptor, also where that is O_PATH."""


Where = int | bytes


def _is_followed(where: Where) -> bool:
    return isinstance(where, int | Held)


def at(dirfd: int, name: bytes) -> bytes:
    """A path for calls that know no directory descriptor; its last component is not followed."""
    check_name(name)
    return b"/proc/self/fd/%d/%b" % (dirfd, name)


def put(where: Where, key: bytes, value: bytes) -> None:
    os.setxattr(where, key, value, follow_symlinks=_is_followed(where))


def remove(where: Where, key: bytes) -> None:
    """Also if there is none."""
    try:
        os.removexattr(where, key, follow_symlinks=_is_followed(where))
    except OSError as exc:
        if exc.errno != errno.ENODATA:
            raise


def read(where: Where) -> dict[bytes, bytes]:
    """All that we may see; none where home has no extended attributes."""
    follow = _is_followed(where)
    found: dict[bytes, bytes] = {}
    try:
        keys = os.listxattr(where, follow_symlinks=follow)
    except OSError as exc:
        if exc.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return found
        raise
    for key in map(os.fsencode, keys):
        try:
            found[key] = os.getxattr(where, key, follow_symlinks=follow)
        except OSError as exc:
            if exc.errno != errno.ENODATA:  # removed in between
                raise
    return found


def narrowed(where: Where, mode: int) -> int:
    """The mode of an object where access lists are not in use: nobody gets more by it than the list
    that the object may have at home gives."""
    try:
        value = os.getxattr(where, acl.ACCESS, follow_symlinks=_is_followed(where))
        return acl.narrowest(acl.load(value), mode)
    except (OSError, ValueError):
        return mode  # it has none
