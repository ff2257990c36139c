"""Findings as objects of JSON: one for each, and a summary at the end."""

from __future__ import annotations

from typing import Any

from afmfs.model.findings import Finding, Tally
from afmfs.model.paths import path_fields


def finding_row(finding: Finding, *, repaired: bool = False) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "kind": finding.kind,
        **path_fields("path", finding.path),
        "ino": finding.ino,
        "text": finding.text,
        "repair": finding.repair,
        "repaired": repaired,
        **finding.detail,
    }


def summary_row(tally: Tally) -> dict[str, Any]:
    return {
        "summary": {
            "found": tally.found,
            "lost": tally.lost,
            "repaired": tally.repaired,
            "left": tally.left,
            "status": tally.status,
        }
    }
