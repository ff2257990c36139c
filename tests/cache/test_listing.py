"""Directories of home, as they are unpacked: bit by bit, whatever their size."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from afmfs.cache.names import listing


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("listing")
    yield fd
    os.close(fd)


def rows(count: int, longest: int = 255) -> list[list[Any]]:
    chance = random.Random(5)
    return [
        [chance.randbytes(chance.randint(1, longest)), n, "ä" * chance.randint(0, 9), None, 1 << 60]
        for n in range(count)
    ]


def pack(fd: int, entries: list[list[Any]]) -> None:
    os.write(fd, b"".join(msgpack.packb(row, use_bin_type=True) for row in entries))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 4096])
def test_entries_that_are_cut(memory: int, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Names, numbers and heads, at every place."""
    monkeypatch.setattr(listing, "SLICE", size)
    entries = rows(2 * listing.STEP + 3)
    pack(memory, entries)
    found = list(listing.steps(memory))
    assert [len(step) for step in found] == [listing.STEP, listing.STEP, 3]
    assert [row for step in found for row in step] == entries


def test_an_entry_of_many_slices(memory: int) -> None:
    entries = rows(3, longest=5 * listing.SLICE)
    pack(memory, entries)
    assert list(listing.steps(memory)) == [entries]


def test_nothing(memory: int) -> None:
    assert list(listing.steps(memory)) == [[]]


def test_little_of_it_is_in_memory_at_once(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fed and not yet taken, of a listing of many slices."""
    held = most = 0

    class Unpacker(msgpack.Unpacker):  # type: ignore[misc]
        def feed(self, data: Any) -> None:
            nonlocal most
            super().feed(data)
            fed[0] += len(data)
            most = max(most, fed[0] - self.tell())

    fed = [held]
    monkeypatch.setattr(msgpack, "Unpacker", Unpacker)
    entries = rows(5000)
    pack(memory, entries)
    length = os.fstat(memory).st_size
    assert length > 8 * listing.SLICE
    assert sum(map(len, listing.steps(memory))) == len(entries)
    assert fed[0] == length
    assert most <= listing.SLICE + 1024
