"""Last of this package: whatever the programs did is at home."""

from __future__ import annotations

import pytest

from tests.harness.surfaces import Surface, rsync_differences
from tests.harness.trees import differences, snapshot

pytestmark = pytest.mark.mounted


def test_everything_is_at_home(surface: Surface) -> None:
    """Times agree to the nanosecond, and a remounted cache shows the same."""
    surface.flush()
    assert rsync_differences(surface) == ""
    before = snapshot(surface.path)
    assert differences(before, snapshot(surface.home)) == []
    surface.remount()
    assert differences(before, snapshot(surface.path)) == []
