"""Every guarantee in the README names tests, and these exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def rows() -> list[tuple[str, str]]:
    """What happens, and what shows that it does no harm."""
    text = (ROOT / "README.md").read_text()
    table = text.split("What survives what")[1].split("\n\n")[1]
    cells = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [(row[0].strip(), row[-1]) for row in cells]


def test_there_are_guarantees() -> None:
    assert len(rows()) >= 10


@pytest.mark.parametrize(("event", "shown_by"), rows(), ids=lambda text: text[:40])
def test_it_is_shown(event: str, shown_by: str) -> None:
    places = re.findall(r"`((?:tests|scripts)/[^`]+)`", shown_by)
    assert places, event
    for place in places:
        path = ROOT / place
        assert path.is_file() or list(path.glob("test_*.py")), place
