"""What can go wrong at home, in four classes, each with its own consequence.

Trouble
├── HomeAway         home can't be reached: replay waits, probes go on for ever
├── MayEnd           will pass, perhaps with somebody's help: requeued with back-off, and shown
│   └── Unclear      and may be done all the same: in doubt until it is tried again
├── Unrepresentable  this home can never hold it: recorded on the inode, no longer pending
└── Inconsistent     home is not as it was left: made durable, NeedsResync, nothing is replayed

Verbs of home raise plain OSErrors; ``classify`` says what one means. Nothing is ever dropped for
an errno that the tables don't know: it may end.
"""

from __future__ import annotations

import errno
import os
from enum import Enum, auto
from typing import Literal

from afmfs.errors import AfmError
from afmfs.model import remedies
from afmfs.model.properties import Properties

AwayState = Literal["Disconnected", "Unmounted"]


class Trouble(AfmError):
    """A home call failed."""


class HomeAway(Trouble):
    """Home can't be reached. Unmounted: its path or its marker is missing or another's."""

    errno = errno.EHOSTDOWN

    def __init__(self, state: AwayState, reason: str) -> None:
        super().__init__(reason)
        self.state: AwayState = state
        self.reason = reason


def gone(what: str, code: int | None, state: AwayState = "Disconnected") -> HomeAway:
    """`what` answers with an errno that speaks of home as a whole; says what to do."""
    code = code or errno.EIO
    return HomeAway(state, f"{what}: {os.strerror(code)}; {remedies.of_away(code)}")


class MayEnd(Trouble):
    """Can't be done now; may be possible later without any change here."""

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(reason, errno=errno)
        self.reason = reason


class Unclear(MayEnd):
    """An input/output error of one object, at a home that answers: it may have been done."""


class Unrepresentable(Trouble):
    """Home can't hold this at all; `what` names the thing, not the file."""

    def __init__(self, errno: int, what: str) -> None:
        super().__init__(what, errno=errno)
        self.what = what


class Inconsistent(Trouble):
    """Home contradicts what it is known to hold. `path` is relative to home's root. `missing`: by
    having nothing there."""

    errno = errno.ESTALE

    def __init__(self, path: bytes, reason: str, *, missing: bool = False) -> None:
        super().__init__(f"{os.fsdecode(path) or '/'}: {reason}")
        self.path = path
        self.reason = reason
        self.missing = missing


class Verb(Enum):
    """What was tried, as far as the meaning of an errno depends on it."""

    READ = auto()  # look, open, list, read
    WRITE = auto()  # bytes and sizes
    MAKE = auto()  # a new object
    LINK = auto()
    MOVE = auto()  # rename, exchange
    REMOVE = auto()
    ATTR = auto()  # mode, times
    OWNER = auto()
    XATTR = auto()
    SYNC = auto()


_AWAY = frozenset(
    {
        errno.EIO,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ENONET,
        errno.ENOLINK,
        errno.ECOMM,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ESHUTDOWN,
        errno.EPIPE,
        errno.EPROTO,
        errno.EREMOTEIO,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOMEDIUM,
        errno.ENOKEY,  # an expired ticket: the whole mount refuses
        errno.EKEYEXPIRED,
        errno.EKEYREVOKED,
        errno.EKEYREJECTED,
    }
)

_INCONSISTENT = frozenset(
    {
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.ELOOP,
        errno.EXDEV,
        errno.ESTALE,
    }
)

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})

_NEW_NAME = frozenset({Verb.MAKE, Verb.LINK, Verb.MOVE})
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})
_REFUSED = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES})
_NEVER = {
    Verb.WRITE: frozenset({errno.EFBIG, errno.EOVERFLOW, errno.EINVAL}),
    Verb.ATTR: frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EOVERFLOW}),
    Verb.OWNER: frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EOVERFLOW}),
    Verb.XATTR: frozenset(
        {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.ERANGE}
    ),
}
"""Per verb, errnos that no waiting will change."""


def classify(
    exc: OSError,
    path: bytes,
    verb: Verb,
    *,
    kind: int = 0,
    properties: Properties | None = None,
) -> Trouble:
    """What an OSError of a home call means; to be raised by the caller.

    `path` is relative to home's root, `kind` has the S_IFMT bits of what is made or linked. A
    home that refuses with EPERM or EACCES what the probe saw it do is a home that refuses *now*.
    """
    code = exc.errno or errno.EIO
    said = os.strerror(code)
    if code == errno.ENXIO and verb is Verb.READ:
        # a FIFO or a socket in the place of a file, opened in the moment after it was looked at
        return Inconsistent(path, "is no regular file")
    if code == errno.ESTALE and not path:
        return gone("home's root", code)
    if code in _AWAY:
        return gone(os.fsdecode(path) or "home", code)
    if code in _INCONSISTENT:
        return Inconsistent(path, said, missing=code in _MISSING)
    what = _never_held(code, verb, kind, properties or Properties())
    if what is not None:
        return Unrepresentable(code, what)
    return MayEnd(code, f"{os.fsdecode(path) or 'home'}: {said}")


def is_bad_name(code: int | None, properties: Properties) -> bool:
    """Whether it says that home can't have a name: what is looked for under it is not there."""
    return code in _BAD_NAME or (code == errno.EINVAL and not properties.raw_names)


def _never_held(code: int, verb: Verb, kind: int, properties: Properties) -> str | None:
    """The thing that this home can't hold, if that is what the errno says."""
    if verb is Verb.MAKE and code in _REFUSED and not properties.holds(kind):
        return "an object of this type"
    if verb is Verb.LINK and code in _REFUSED and not properties.hard_links:
        return "a hard link"
    if verb in _NEW_NAME and is_bad_name(code, properties):
        return "a name or link target like this"
    if code == errno.EPERM and (
        (verb is Verb.OWNER and not properties.owners)
        or (verb is Verb.ATTR and not properties.modes)
    ):
        return _THINGS[verb]
    if code in _NEVER.get(verb, ()):
        return _THINGS[verb]
    return None


_THINGS = {
    Verb.WRITE: "a file of this size",
    Verb.ATTR: "this mode or these times",
    Verb.OWNER: "this owner",
    Verb.XATTR: "this extended attribute",
}
