"""Times as the databases hold them: ns since the epoch in 64 bits, so from 1677 to 2262.

File systems know times that are further away (XFS up to 2486), and anybody may give a file one.
They become the nearest that can be held, as a local file system does with what it can't hold.
"""

from __future__ import annotations

FIRST, LAST = -(2**63), 2**63 - 1


def held(ns: int) -> int:
    """The nearest time that can be held."""
    return min(max(ns, FIRST), LAST)
