"""The table of others' pains is complete, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pains import PAINS, Pain

ROOT = Path(__file__).resolve().parents[1]


def test_every_pain_has_its_row() -> None:
    assert [pain.number for pain in PAINS] == list(range(1, 20))


@pytest.mark.parametrize("pain", PAINS, ids=lambda pain: f"P{pain.number}")
def test_each_part_is_shown_or_explained(pain: Pain) -> None:
    assert pain.name and pain.parts
    for part in pain.parts:
        assert bool(part.shown_by) != bool(part.otherwise), part.what
        assert all(map(exists, part.shown_by)), part


def exists(place: str) -> bool:
    """Whether it is a test that its file defines, or a script."""
    file, _, name = place.partition("::")
    if not name:
        script = ROOT / file.split()[0]
        return script.parent.name == "scripts" and script.is_file()
    return bool(re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE))


def test_what_is_not_there_is_noticed() -> None:
    assert exists("tests/test_pains.py::test_what_is_not_there_is_noticed")
    assert not exists("tests/test_pains.py::test_what")
    assert not exists("scripts/no-such-script")
