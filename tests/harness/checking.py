"""A cache without findings: what every test may ask of one that nobody works with."""

from __future__ import annotations

from pathlib import Path

from afmfs.cache.check.run import look
from afmfs.model.findings import Finding


def findings(cache: Path) -> list[Finding]:
    """What a check of an unmounted cache says."""
    found: list[Finding] = []
    look(cache, lambda finding, _: found.append(finding))
    return found


def assert_sound(cache: Path) -> None:
    """Nothing is wrong with an unmounted cache, whatever was done to the processes."""
    lines = [f"{one.kind}: {one.path!r} ({one.ino}): {one.text}" for one in findings(cache)]
    assert not lines, "a check has findings:\n" + "\n".join(lines[:20])
