"""Figures that status needs, kept in the transactions that change them."""

from __future__ import annotations

from collections.abc import Iterable


class Counters:
    """The one row of `counters`, in memory."""

    __slots__ = ("queue_length", "bytes_pending", "cached_bytes", "inodes")

    def __init__(self, row: Iterable[int]) -> None:
        self.queue_length, self.bytes_pending, self.cached_bytes, self.inodes = row

    def row(self) -> tuple[int, int, int, int]:
        return self.queue_length, self.bytes_pending, self.cached_bytes, self.inodes
