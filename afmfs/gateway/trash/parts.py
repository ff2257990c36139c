"""What bringing something back from home's trash needs of the gateway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View
from afmfs.gateway.trash.book import TrashBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    journal: Journal
    book: TrashBook
    view: View
    progress: Progress
    contact: Contact
    due: Callable[[int], bool]  # whether a running job is yet to see to an inode
    tell: Callable[[], None]  # there is a new outcome
