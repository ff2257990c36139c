"""Bytes under a mask that has a 1 for each of them that counts.

As whole numbers: byte by byte, the oracles of the model tests took longer than what they judge.
"""

from __future__ import annotations

Bytes = bytes | bytearray


def masked(data: Bytes, mask: Bytes) -> bytes:
    """`data` where the mask, as long, is 1; null elsewhere."""
    kept = int.from_bytes(data, "little") & int.from_bytes(mask, "little") * 0xFF
    return kept.to_bytes(len(mask), "little")


def differing(one: Bytes, two: Bytes, mask: Bytes) -> list[int]:
    """Where the mask is 1 and two strings, as long at least, differ."""
    size = len(mask)
    one, two = one[:size], two[:size]
    if masked(one, mask) == masked(two, mask):
        return []
    return [n for n, counts in enumerate(mask) if counts and one[n] != two[n]]


def positions(mask: Bytes, value: int) -> list[int]:
    """Where a mask has `value`."""
    return [n for n, one in enumerate(mask) if one == value] if value in mask else []
