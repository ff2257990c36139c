"""A program that works in one directory and knows what it was promised.

It runs outside pytest: `python -m tests.crash.writer DIRECTORY CONTROL SEED`. CONTROL, a directory
outside the mount, holds `epoch` (the test raises it before it kills the mount), `stop`, the log of
every operation, and at the end `result.json`: the tree that the mount and home must show.

An operation that returned must last. The one that was running when the mount died may have
happened or not; which of the two is read once the mount is back. Nothing lies in between, but for
a write: each byte that was there is an old one or a new one, and it may have come to a part of what
it adds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Content = bytes | None
"""Of a name: a file's bytes, or None for a directory."""

T = TypeVar("T")

Model = dict[str, Content]

LARGEST = 400_000
"""Bytes of a file: several blocks, where a block has 64 KiB."""

ONE_WRITE = 60_000
"""Bytes of a write, at most."""

DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
"""What a call says whose server is gone."""

PATIENCE = 60.0
"""Seconds until the mount is back."""


class Broken(Exception):
    """The file system broke a promise."""


class Writer:
    def __init__(self, directory: Path, control: Path, seed: int) -> None:
        self.directory = directory
        self.control = control
        self.dice = random.Random(seed)
        self.log = os.open(control / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        self.model: Model = self.observe()
        self.serial = 0
        self.count = 0
        self.uncertain = 0

    # --- what there is

    def observe(self) -> Model:
        """The tree as the file system shows it."""
        found: Model = {}
        for top, directories, files in os.walk(self.directory, onerror=_raise):
            base = Path(top).relative_to(self.directory)
            found |= {str(base / name): None for name in directories}
            found |= {str(base / name): (Path(top) / name).read_bytes() for name in files}
        return found

    def files(self) -> list[str]:
        return [path for path, content in self.model.items() if content is not None]

    def directories(self) -> list[str]:
        return ["", *(path for path, content in self.model.items() if content is None)]

    def new_name(self) -> str:
        self.serial += 1
        return os.path.join(self.dice.choice(self.directories()), f"n{self.serial}")

    def bytes(self, limit: int = ONE_WRITE) -> bytes:
        return self.dice.randbytes(self.dice.randrange(1, limit))

    # --- one operation: what it does, and the model after it

    def create(self) -> None:
        path = self.new_name()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        self.do("create", path, b"", lambda p: os.close(os.open(p, flags)))
        if path in self.model:
            self.write_at(path, 0)

    def overwrite(self) -> None:
        if path := self.some_file():
            self.write_at(path, self.dice.randrange(self.size(path) + 1))

    def append(self) -> None:
        if path := self.some_file():
            self.write_at(path, self.size(path))

    def write_at(self, path: str, offset: int) -> None:
        data, old = self.bytes(), self.model[path]
        assert old is not None
        new = old[:offset] + data + old[offset + len(data) :]
        if len(new) > LARGEST:
            return

        def write(place: str) -> None:
            descriptor = os.open(place, os.O_WRONLY)
            try:
                # The kernel cuts a write at page borders as it likes: killed between two requests,
                # the call returns what the first one wrote.
                if os.pwrite(descriptor, data, offset) != len(data):
                    raise OSError(errno.ECONNABORTED, "written in part")
            finally:
                os.close(descriptor)

        self.do(f"write {offset} {len(data)}", path, new, write)

    def truncate(self) -> None:
        if path := self.some_file():
            size, old = self.dice.randrange(LARGEST), self.model[path]
            assert old is not None
            new = old[:size] + bytes(size - len(old[:size]))
            self.do(f"truncate {size}", path, new, lambda p: os.truncate(p, size))

    def mkdir(self) -> None:
        if len(self.directories()) < 12:
            self.do("mkdir", self.new_name(), None, os.mkdir)

    def remove(self) -> None:
        if len(self.files()) > 3 and (path := self.some_file()):
            self.step("remove", [path], {}, lambda: os.unlink(self.place(path)))

    def rename(self) -> None:
        """To a new name, over another file, or a directory with all that is in it."""
        sources = [*self.files(), *self.directories()[1:]]
        if not sources:
            return
        source, target = self.dice.choice(sources), self.new_name()
        others = [path for path in self.files() if path != source]
        if self.model[source] is not None and others and self.dice.random() < 0.4:
            target = self.dice.choice(others)
        if target.startswith(f"{source}/"):
            return
        below = [p for p in self.model if p == source or p.startswith(f"{source}/")]
        moved = {target + path[len(source) :]: self.model[path] for path in below}
        call = lambda: os.rename(self.place(source), self.place(target))  # noqa: E731
        self.step(f"rename to {target}", below, moved, call)

    def read(self) -> None:
        """Not an operation that changes anything: what was promised is looked at."""
        if path := self.some_file():
            found = self.retried(lambda: Path(self.place(path)).read_bytes())
            if found != self.model[path]:
                raise Broken(f"{path} reads {_brief(found)} not {_brief(self.model[path])}")

    # --- doing it

    def place(self, path: str) -> str:
        return os.path.join(self.directory, path)

    def size(self, path: str) -> int:
        return len(self.model[path] or b"")

    def some_file(self) -> str | None:
        files = self.files()
        return self.dice.choice(files) if files else None

    def do(self, what: str, path: str, after: Content, call: Callable[[str], object]) -> None:
        self.step(what, [], {path: after}, lambda: call(self.place(path)))

    def step(self, what: str, gone: list[str], made: Model, call: Callable[[], object]) -> None:
        """Run `call`; it removes the names in `gone` and leaves those in `made`."""
        self.count += 1
        after = {path: content for path, content in self.model.items() if path not in gone} | made
        self.note(f"{self.count} {what} {sorted({*gone, *made})[:3]}")
        epoch = self.epoch()
        try:
            call()
        except OSError as error:
            if error.errno not in DEAD and not self.mount_died(epoch):
                raise Broken(f"{what}: {error} while the mount lived") from error
            self.note(f"{self.count} ? {error}")
            self.settle(what, after)
        else:
            self.note(f"{self.count} ok")
            self.model = after

    def settle(self, what: str, after: Model) -> None:
        """The mount is back: either nothing of the operation has happened, or all of it."""
        self.uncertain += 1
        found = self.retried(self.observe)
        if found not in (self.model, after) and not _is_torn(found, self.model, after):
            wrong = [p for p in {*found, *after} if found.get(p, b"-") != after.get(p, b"-")]
            seen = {p: (_brief(found.get(p)), _brief(self.model.get(p))) for p in wrong[:5]}
            raise Broken(f"after {what}: neither before nor after: {seen}")
        self.note(f"{self.count} {'happened' if found == after else 'did not happen'}")
        self.model = found

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
                died = away or self.mount_died(epoch) or not self.directory.exists()
                if not died or time.monotonic() > end:
                    raise Broken(f"looking: {error}") from error
            time.sleep(0.05)

    def mount_died(self, epoch: str) -> bool:
        return _is_down(self.directory) or self.epoch() != epoch

    def epoch(self) -> str:
        return (self.control / "epoch").read_text()

    def note(self, line: str) -> None:
        os.write(self.log, os.fsencode(f"{line}\n"))

    def run(self) -> None:
        choices = [self.create, self.overwrite, self.overwrite, self.append, self.truncate]
        choices += [self.mkdir, self.remove, self.rename, self.rename, self.read, self.read]
        while not (self.control / "stop").exists():
            self.dice.choice(choices)()
            if len(self.files()) > 40:
                self.remove()

    def result(self) -> dict[str, object]:
        tree = {
            p: None if c is None else hashlib.sha256(c).hexdigest() for p, c in self.model.items()
        }
        return {"tree": tree, "operations": self.count, "uncertain": self.uncertain}


def _is_torn(found: Model, before: Model, after: Model) -> bool:
    """Whether `found` lies between two trees that differ in the bytes of one file only."""
    changed = [path for path in after if before.get(path, b"-") != after[path]]
    if found.keys() != before.keys() or before.keys() != after.keys() or len(changed) != 1:
        return False
    path = changed[0]
    old, new, seen = before[path], after[path], found[path]
    if old is None or new is None or seen is None or {**found, path: new} != after:
        return False
    if not len(old) <= len(seen) <= len(new):
        return False  # a truncation is one step of the inode's
    old = old.ljust(len(new), b"\0")
    return all(byte in pair for byte, pair in zip(seen, zip(old, new, strict=True), strict=False))


def _is_down(directory: Path) -> bool:
    try:
        os.statvfs(directory)  # no answer of the kernel's own
    except OSError:
        return True
    return False


def _raise(error: OSError) -> None:
    raise error


def _hash(content: Content) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _brief(content: Content) -> str:
    if content is None:
        return "nothing, or a directory"
    zeros = content.count(0)
    return f"{len(content)} bytes ({zeros} zeros, {hashlib.sha256(content).hexdigest()[:8]})"


def main() -> None:
    directory, control, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    writer = Writer(directory, control, seed)
    result: dict[str, object] = {}
    try:
        writer.run()
    except Broken as broken:
        result["broken"] = str(broken)
    result |= writer.result()
    (control / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
