"""A program that works in one directory and knows what it was promised.

It runs outside pytest: `python -m tests.crash.writer DIRECTORY CONTROL SEED`. CONTROL, a directory
outside the mount, holds what the test tells it (`epoch`, raised before a kill and after the
remount; `rest`: do nothing for a while; `stop`) and what it tells the test: `log`, every operation
before it begins and once it is acknowledged, or fsynced; `seen`, the last epoch whose tree it has
compared with what it was promised; `resting`; at the end `result.json`, the tree that the mount and
home must show.

An operation that returned must last. The one that was running when the mount died may have
happened or not; which of the two is read once the mount is back.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tests.crash.deeds import Deeds
from tests.crash.promised import Tree, differences, digests, lies_between, observe

T = TypeVar("T")

DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
"""What a call says whose server is gone."""

PATIENCE = 60.0
"""Seconds until the mount is back."""

LATE = 10.0
"""Seconds in which the test says that a kill was its own."""


class Broken(Exception):
    """The file system broke a promise."""


class Writer(Deeds):
    def __init__(self, directory: Path, control: Path, seed: int) -> None:
        self.control = control
        self.log = os.open(control / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        super().__init__(directory, random.Random(seed), observe(directory))
        self.count = self.uncertain = 0
        self.compared = ""

    # --- one operation

    def step(
        self, what: str, after: Tree, call: Callable[[], object], *, synced: bool = False
    ) -> bool:
        """Run `call`, which turns the tree into `after`; whether it did."""
        self.count += 1
        concerned = sorted(p for p in {*self.tree, *after} if self.tree.get(p) is not after.get(p))
        self.note(f"{self.count} {what} {concerned[:3]}")
        epoch = self.epoch()
        try:
            call()
        except OSError as error:
            if error.errno not in DEAD and not self.mount_died(epoch, LATE):
                raise Broken(f"{what}: {error} while the mount lived") from error
            self.note(f"{self.count} ? {error}")
            return self.settle(what, after, concerned)
        self.note(f"{self.count} {'synced' if synced else 'ok'}")
        self.tree = after
        return True

    def settle(self, what: str, after: Tree, concerned: list[str]) -> bool:
        """The mount is back: either nothing of the operation has happened, or all of it."""
        self.uncertain += 1
        found = self.look(concerned)
        happened = not differences(found, after)
        if not happened and differences(found, self.tree):
            if not lies_between(found, self.tree, after):
                said = "; ".join(differences(found, self.tree)[:4])
                more = "; ".join(differences(found, after)[:4])
                raise Broken(f"after {what}: not before: {said}; not after: {more}")
            self.note(f"{self.count} happened in part")
            after, happened = _with_bytes(found, after), True
        self.note(f"{self.count} {'happened' if happened else 'did not happen'}")
        if happened:
            self.tree = after
        return happened

    # --- what there is

    def look(self, concerned: list[str] | None = None) -> Tree:
        """All names, and the bytes of some files: of others, blocks are to stay uncached."""
        share = self.dice.choice((0.0, 0.3, 1.0))
        chosen = {path for path in self.tree if self.dice.random() < share} | {*(concerned or ())}
        return self.retried(lambda: observe(self.directory, chosen.__contains__))

    def compare(self) -> None:
        """What was promised before the kill is there after it."""
        epoch = self.epoch()
        wrong = differences(self.look(), self.tree)
        if wrong:
            raise Broken("; ".join(wrong[:6]))
        self.compared = epoch
        self.tell("seen", epoch)

    def retried(self, call: Callable[[], T]) -> T:
        """The answer of something that only looks, once there is a mount to give it."""
        end = time.monotonic() + PATIENCE
        while True:
            epoch = self.epoch()
            try:
                return call()
            except OSError as error:
                # Without its gateway, the cache says EIO to reads of what it does not hold.
                away = error.errno in (*DEAD, errno.EIO)
                died = away or self.mount_died(epoch, LATE) or not self.directory.exists()
                if not died or time.monotonic() > end:
                    raise Broken(f"looking: {error}") from error
            time.sleep(0.02)

    def expect(self, path: str, call: Callable[[], bytes], wanted: bytes) -> None:
        epoch = self.epoch()
        while (found := self.retried(call)) != wanted:
            if wanted.startswith(found) and self.mount_died(epoch, LATE):
                epoch = self.epoch()  # it was killed between two requests of one read
                continue
            pairs = enumerate(zip(found, wanted, strict=False))
            at = next((n for n, (seen, due) in pairs if seen != due), -1)
            raise Broken(f"{path}: {len(found)} of {len(wanted)} bytes, byte {at} is another")

    def mount_died(self, epoch: str, seconds: float) -> bool:
        """Whether the mount is down, or was: the test may be late to say so."""
        end = time.monotonic() + seconds
        while not (_is_down(self.directory) or self.epoch() != epoch):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    # --- beside the mount

    def epoch(self) -> str:
        return (self.control / "epoch").read_text()

    def tell(self, name: str, text: str) -> None:
        beside = self.control / f"{name}.new"
        beside.write_text(text)
        beside.rename(self.control / name)

    def note(self, line: str) -> None:
        os.write(self.log, os.fsencode(f"{line}\n"))

    def run(self) -> None:
        while not (self.control / "stop").exists():
            if (self.control / "rest").exists():
                self.tell("resting", "")
                time.sleep(0.02)
            else:
                (self.control / "resting").unlink(missing_ok=True)
                self.act()
            if self.epoch() != self.compared:
                self.compare()

    def result(self) -> dict[str, object]:
        return {
            "tree": digests(self.tree),
            "operations": self.count,
            "uncertain": self.uncertain,
        }


def _with_bytes(found: Tree, after: Tree) -> Tree:
    """`after`, with the bytes that were found where those are others."""
    seen = {
        id(after[path]): replace(after[path], data=thing.data, size=thing.size)
        for path, thing in found.items()
        if thing.data is not None and thing.data != after[path].data
    }
    return {path: seen.get(id(thing), thing) for path, thing in after.items()}


def _is_down(directory: Path) -> bool:
    try:
        os.statvfs(directory)  # no answer of the kernel's own
    except OSError:
        return True
    return False


def main() -> None:
    directory, control, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    result: dict[str, object] = {}
    writer: Writer | None = None
    try:
        writer = Writer(directory, control, seed)
        writer.run()
    except Exception as broken:
        result["broken"] = f"{type(broken).__name__}: {broken}"
        if not isinstance(broken, Broken):
            raise
    finally:
        if writer is not None:
            result |= writer.result()
        (control / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
