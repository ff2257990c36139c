"""Whether home still has a version: judged as finely as home can tell, and no finer."""

from __future__ import annotations

from afmfs.gateway.home.stamp import Stamp, same

KNOWN = Stamp(10, 1_700_000_000_123_456_789, 7)


def test_another_nanosecond_is_another_version() -> None:
    assert same(KNOWN, KNOWN, 1)
    assert not same(KNOWN, KNOWN._replace(mtime=KNOWN.mtime + 1), 1)
    assert not same(KNOWN, KNOWN._replace(size=11), 1)
    assert not same(KNOWN, KNOWN._replace(ino=8), 1)


def test_what_home_can_not_tell_is_no_difference() -> None:
    whole = KNOWN._replace(mtime=1_700_000_000_000_000_000, ino=None)
    assert same(KNOWN, whole, 10**9)
    assert not same(KNOWN, whole._replace(mtime=whole.mtime - 1), 10**9)
    assert not same(KNOWN, whole, 1)
