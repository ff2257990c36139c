"""The faults of `scripts/faults` can still be planted, and the tests that they name do exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.__main__ import ALL
from tests.faults.planted import Fault

ROOT = Path(__file__).resolve().parents[2]


def test_there_are_enough() -> None:
    assert len({(fault.file, fault.old) for fault in ALL}) >= 15


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.name)
def test_it_can_be_planted(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    assert text.count(fault.old) == 1
    compile(text.replace(fault.old, fault.new), fault.file, "exec")
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert not name or re.search(rf"def {name}\(", (ROOT / file).read_text()), test
