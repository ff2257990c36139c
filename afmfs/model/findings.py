"""What a check of a cache finds: one record for each thing that is not as it should be.

A finding says what is affected, and what `--repair` does about it; it carries the repair along, for
whoever may write. Exit statuses are those of fsck(8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

CLEAN, CORRECTED, UNCORRECTED, OPERATIONAL, USAGE, CANCELLED = 0, 1, 4, 8, 16, 32
"""Exit statuses: no findings; all repaired; some left; the check failed; wrong usage; ended."""


class Severity(StrEnum):
    ERROR = "error"  # a contradiction; nothing that is only here is lost by it
    LOST = "lost"  # something that was only here is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. `mend` does what `repair` says; None: nothing can be done here."""

    kind: str  # a word or two, the same for the same sort of damage
    text: str  # what is wrong
    repair: str  # what `--repair` does, or what somebody else has to do
    severity: Severity = Severity.ERROR
    path: bytes | None = None  # relative to the root
    ino: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)  # more, for JSON
    mend: Callable[[Any], None] | None = None


@dataclass(slots=True)
class Tally:
    """How many findings there were, and what became of them."""

    found: dict[str, int] = field(default_factory=dict)  # by kind
    lost: int = 0
    repaired: int = 0
    left: int = 0

    def add(self, finding: Finding, *, repaired: bool) -> None:
        self.found[finding.kind] = self.found.get(finding.kind, 0) + 1
        self.lost += finding.severity is Severity.LOST
        self.repaired += repaired
        self.left += not repaired

    @property
    def status(self) -> int:
        """The exit status. What was lost and is reported is dealt with, where it was repaired."""
        if self.left:
            return UNCORRECTED
        return CORRECTED if self.repaired else CLEAN
