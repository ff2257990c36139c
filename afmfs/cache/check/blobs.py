"""Blobs on the disk that no inode has, two inodes with one blob, and what is to be destroyed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.content.blobs import SHARDS, blob_name
from afmfs.model.findings import Finding, Severity

AT_ONCE = 500_000
"""About so many inodes' generations are held in memory; the shards are gone through in as many
turns as that takes."""


class Stray(NamedTuple):
    """A file below `blobs/`."""

    shard: str
    name: str
    gen: int | None  # None: no blob has such a name


def check(source: Source, inodes: int) -> Iterator[list[Finding]]:
    turns = min(SHARDS, max(1, -(-inodes // AT_ONCE)))
    step = -(-SHARDS // turns)
    for first in range(0, SHARDS, step):
        yield [*_turn(source, range(first, min(first + step, SHARDS)))]
    yield [*_other(source)]


def _turn(source: Source, shards: range) -> Iterator[Finding]:
    """The disk first: on a mounted cache a blob is there before a table knows of it, and only
    numbers of the pool are in use between."""
    there = [stray for shard in shards for stray in _listed(source, f"{shard:02x}")]
    with source.snapshot():
        owners, twice = _owners(source, shards)
        dying = {gen: start for _, gen, start in _reclaims(source)}
        source.read_settings()
        nobodys = source.nobodys()
    # A blob is made once a range with its number is committed: what is beyond tells of a state that
    # is lost.
    newest = max(one.stop for one in nobodys)
    yield from (_shared(source, gen, inos) for gen, inos in sorted(twice.items()))
    for gen in sorted(dying.keys() & owners.keys()):
        if dying[gen] == 0:
            yield _doomed(source, gen, owners[gen])
    spare: list[Stray] = []
    for stray in there:
        if stray.gen is None:
            yield _orphan(source, stray, "it has no name of a blob")
        elif not (
            stray.gen in owners
            or stray.gen in dying
            or any(stray.gen in numbers for numbers in nobodys)
            or _gone(source, stray.gen)
        ):
            if stray.gen >= newest:
                source.old = f"blob {stray.shard}/{stray.name} is younger"
                if source.blob(stray.gen).length == 0:
                    spare.append(stray)
                else:
                    yield _orphan(source, stray, "it is younger than cache.db")
            else:
                yield _orphan(source, stray, "no inode has it")
    if spare:
        yield _spare(spare)


def _gone(source: Source, gen: int) -> bool:
    """Whether a mounted cache has destroyed the blob since its directory was read."""
    return source.live and source.blob(gen).length is None


def _listed(source: Source, shard: str) -> Iterator[Stray]:
    try:
        names = os.listdir(source.blobs / shard)
    except FileNotFoundError:
        return
    for name in names:
        try:
            gen = int(name, 16)
        except ValueError:
            gen = 0
        yield Stray(shard, name, gen if gen and blob_name(gen) == f"{shard}/{name}" else None)


def _owners(source: Source, shards: range) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Inodes by the generations that they have, and generations that several have."""
    owners: dict[int, int] = {}
    twice: dict[int, list[int]] = {}
    for ino, gen in source.execute(
        "SELECT ino, gen FROM inode WHERE gen > 0 AND (gen >> 10 & 255) BETWEEN ? AND ?",
        (shards.start, shards.stop - 1),
    ):
        if gen in owners:
            twice.setdefault(gen, [owners[gen]]).append(ino)
        owners[gen] = ino
    return owners, twice


def _reclaims(source: Source) -> list[tuple[int, int, int]]:
    return source.execute("SELECT ino, gen, start FROM reclaim").fetchall()


def _orphan(source: Source, stray: Stray, text: str) -> Finding:
    name = f"{stray.shard}/{stray.name}"
    return Finding(
        kind="orphan blob",
        text=f"blob {name}: {text}",
        repair="it is moved to the cache's lost+found/",
        detail={"blob": name},
        mend=doing(Repair.set_aside, stray.shard, stray.name),
    )


def _spare(strays: list[Stray]) -> Finding:
    """Blobs are made in advance, a hundred and more: one line for all of them."""

    def mend(repair: Repair) -> None:
        for stray in strays:
            repair.set_aside(stray.shard, stray.name)

    return Finding(
        kind="orphan blob",
        text=f"empty blobs that are younger than cache.db: {len(strays)}",
        repair="they are removed",
        detail={"blobs": [f"{stray.shard}/{stray.name}" for stray in strays]},
        mend=mend,
    )


def _shared(source: Source, gen: int, inos: list[int]) -> Finding:
    def mend(repair: Repair) -> None:
        for ino in inos:
            repair.give_up_blob(ino)

    return Finding(
        kind="shared blob",
        text=f"blob {blob_name(gen)} is said to be that of inodes {', '.join(map(str, inos))}",
        repair="neither is believed: what home has is fetched again, and the blob is set aside",
        severity=Severity.LOST,
        ino=inos[0],
        path=source.path(inos[0]),
        detail={"blob": blob_name(gen), "inodes": inos},
        mend=mend,
    )


def _doomed(source: Source, gen: int, ino: int) -> Finding:
    return Finding(
        kind="reclaim",
        text=f"its blob {blob_name(gen)} is in use, and was to be destroyed",
        repair="it stays",
        ino=ino,
        path=source.path(ino),
        mend=doing(Repair.delete, "reclaim", "gen=?", gen),
    )


def _other(source: Source) -> Iterator[Finding]:
    """Rows on the way to destruction that lead nowhere."""
    with source.snapshot():
        rows = source.execute(
            "SELECT r.ino, r.gen, r.start FROM reclaim r LEFT JOIN inode i ON i.ino = r.ino"
            " WHERE typeof(r.gen) <> 'integer' OR r.gen < 1 OR typeof(r.start) <> 'integer'"
            " OR r.start < 0 OR (r.start > 0 AND i.gen IS NOT r.gen)"
        ).fetchall()
        fresh = source.execute(
            "SELECT count(*) FROM fresh WHERE typeof(start) <> 'integer'"
            " OR typeof(end) <> 'integer' OR start >= end OR typeof(point) <> 'integer'"
        ).fetchone()[0]
    for ino, gen, start in rows:
        yield Finding(
            kind="reclaim",
            text=f"bytes from {start} of generation {gen} were to be destroyed, which is not there",
            repair="the row is removed",
            ino=ino,
            mend=doing(Repair.delete, "reclaim", "gen IS ?", gen),
        )
    if fresh:
        yield Finding(
            kind="bad row",
            text=f"{fresh} notes on what was fetched lately make no sense",
            repair="all that was fetched since the last durable point is fetched again",
            mend=Repair.disbelieve_fetched,
        )
