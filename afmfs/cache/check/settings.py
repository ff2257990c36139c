"""What the cache remembers of itself, and whether its numbers go on beyond all that were used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from afmfs.cache.check.numbers import used_numbers
from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.model.blocks import is_block_size
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.findings import Finding, Severity

_TEXTS = {
    "identity": "mount it with its TARGET and -o takeover",
    "target": "name it at the next mount",
    "fileset": "the next mount gives it a name, of its own or by -o fileset=NAME",
    "device": "the next mount gives it a name, of its own or by -o device=NAME",
}
"""Settings that can't be done without, and what brings each back."""

_JSON = ("tunables", "tokens", "past", "pool", "leftover", "statvfs", "properties", "job",
         "callbacks", "homes", "restoring", "told")  # fmt: skip


def check(source: Source) -> Iterator[list[Finding]]:
    """The findings on the settings, and on the two inodes that there always are."""
    (inodes,) = source.execute("SELECT count(*) FROM (SELECT 1 FROM inode LIMIT 3)").fetchone()
    if not inodes and not source.settings and not any(source.blobs.glob("??/*")):
        return  # a cache that was never mounted
    yield [*_settings(source)]
    there = {
        ino
        for (ino,) in source.execute("SELECT ino FROM inode WHERE ino IN (?,?)", (ROOT, UNLINKED))
    }
    if inodes:
        yield [_no_directory(ino) for ino in (ROOT, UNLINKED) if ino not in there]


def _settings(source: Source) -> Iterator[Finding]:
    for key, way_out in _TEXTS.items():
        if not source.settings.get(key):
            yield _unknown(key, way_out)
    if not source.settings.get("token"):
        yield Finding(
            kind="setting",
            text="the word by which home knows this cache is missing",
            repair="nothing: mount it with -o takeover",
            severity=Severity.LOST,
        )
    block = source.settings.get("block_size")
    if not is_block_size(block):
        yield Finding(
            kind="setting",
            text=f"the setting block_size is {block!r}, no size of a block: nobody knows what the"
            " block maps speak of",
            repair="what home has of partly cached files is fetched again, in blocks of 1 MiB;"
            " what is pending stays",
            mend=Repair.forget_maps,
        )
    for key in _JSON:
        value = source.settings.get(key)
        if value and not _is_json(value):
            yield Finding(
                kind="setting",
                text=f"the setting {key} can't be read",
                repair="it is forgotten",
                mend=doing(Repair.forget_setting, key),
            )


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (TypeError, ValueError):
        return False
    return True


def _unknown(key: str, way_out: str) -> Finding:
    return Finding(
        kind="setting",
        text=f"the setting {key} is missing",
        repair=f"nothing: {way_out}",
        severity=Severity.LOST,
    )


def _no_directory(ino: int) -> Finding:
    name = "the root" if ino == ROOT else "the hidden directory of what is unlinked while open"
    return Finding(
        kind="orphan inode",
        text=f"{name} does not exist",
        repair="it is made anew, and read from home again",
        severity=Severity.LOST,
        ino=ino,
        mend=doing(Repair.plant, ino),
    )


def limits(source: Source) -> Iterator[list[Finding]]:
    """Numbers in use that count as free: they would be given out again."""
    with source.snapshot():
        source.read_settings()
        last = used_numbers(source.db)
    wrong = [
        f"{key} is {limit}, and {number} is in use"
        for key, limit, number in (
            ("ino_limit", source.ino_limit, last[0]),
            ("entry_limit", source.entry_limit, last[1]),
        )
        if number >= limit
    ]
    yield [
        Finding(
            kind="numbers",
            text=f"numbers would be used twice: {text}",
            repair="the next ones are beyond all that are in use",
            mend=Repair.go_on_beyond,
        )
        for text in wrong
    ]


def age(source: Source) -> Iterator[list[Finding]]:
    """What other parts have found that proves cache.db not to be the newest."""
    if source.old:
        yield [
            Finding(
                kind="old database",
                text=f"cache.db is older than the rest of the cache: {source.old}. Its log was"
                " lost or cut off, or an older copy was put back",
                repair="numbers go on beyond all that are in use, and what home has as well is"
                " fetched again. What was changed since is lost: `verify --data` compares",
                severity=Severity.LOST,
                mend=Repair.mend_old_database,
            )
        ]
