"""TARGET: what a person calls a home. Pure."""

from __future__ import annotations

import errno
import re
from os import fsencode
from urllib.parse import unquote_to_bytes

from afmfs.errors import Refused

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def parse_target(text: str) -> bytes:
    """The absolute path that `text` (a path, or file:///path) means. Refused for anything else.

    A trailing slash and doubled ones are dropped; `..` stays, as what it means is home's affair.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        path = fsencode(text)
    elif scheme[1].lower() == "file":
        host, slash, rest = text[scheme.end() :].partition("/")
        if host not in ("", "localhost"):
            raise _refused(f"{text}: a file on another host; mount it here and give its path")
        path = unquote_to_bytes(fsencode(slash + rest))
    else:
        raise _refused(f"{text}: {scheme[1]}:// is not supported yet; mount it and give its path")
    if not path.startswith(b"/") or b"\0" in path:
        raise _refused(f"{text or repr(text)}: a target is an absolute path or file:///path")
    return b"/" + b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def _refused(message: str) -> Refused:
    return Refused(message, errno=errno.EINVAL)
