"""A short soak: the programs, the weather and the comparison of `scripts/soak`; and its verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.sshd import available
from tests.soak.gauges import MIB, Gauge, growth, is_flat
from tests.soak.soak import Soak, crew


@pytest.mark.long
@pytest.mark.mounted
@pytest.mark.remote
def test_a_short_soak(tmp_path: Path) -> None:
    if missing := available():
        pytest.skip(missing)
    report = Soak(tmp_path, seed=1, workers=5).run(12, calm=2, storm=2)
    print("\n".join(report.lines()))
    # In so short a time nothing is flat, and the machine is busy with other tests.
    wrong = [fault for fault in report.faults if " -> " not in fault and " took " not in fault]
    assert not wrong
    assert report.storms
    assert len(report.results) == 6
    assert all(result["times"] for n, result in report.results.items() if n.startswith("scribe"))


def test_the_crew_has_everybody() -> None:
    assert {name: crew(16).count(name) for name in crew(16)} == {
        "reader": 3,
        "database": 1,
        "repository": 1,
        "archive": 1,
        "scribe": 10,
    }
    assert crew(2) == ["reader", "scribe"]


def test_what_grows_is_not_flat() -> None:
    def gauges(memory_more: int, descriptors_more: int) -> list[Gauge]:
        return [
            Gauge(n, 100 * MIB + n * memory_more, 50 + n * descriptors_more // 10, 10)
            for n in range(90)
        ]

    def flat(found: list[Gauge]) -> dict[str, bool]:
        return {kind: is_flat(kind, *pair) for kind, pair in growth(found).items()}

    assert flat(gauges(0, 0)) == {"memory": True, "descriptors": True, "threads": True}
    assert flat(gauges(MIB, 0)) == {"memory": False, "descriptors": True, "threads": True}
    assert flat(gauges(0, 10)) == {"memory": True, "descriptors": False, "threads": True}
    assert growth(gauges(0, 0)[:2]) == {}
