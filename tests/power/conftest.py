"""Lives are recorded in a directory of their own, which is kept if the test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import has_failed
from tests.power.again import keep
from tests.power.disks import Disks
from tests.power.life import WATCH_SECONDS
from tests.power.recording import Recording


@pytest.fixture
def recording(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Recording]:
    with Disks(tmp_path / "disks", WATCH_SECONDS) as disks:
        recording = Recording(tmp_path, disks)
        yield recording
        if has_failed(request.node):
            keep(recording)
            print(f"look again: python -m tests.power.again {tmp_path} 'Cut(...)'")
