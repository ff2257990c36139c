"""What the writers do: everything that changes a tree, in small and in large, in random order."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.crash.promised import DIRECTORY, FIFO, FILE, SYMLINK, Thing, Tree, a_file
from tests.harness.syscalls import RENAME_EXCHANGE, renameat2

LARGEST = 200_000
"""Bytes of most files: several blocks, where a block has 64 KiB."""

LARGE = 1_500_000
"""Bytes of a few."""

ONE_WRITE = 40_000
"""Bytes of most writes, at most."""

MOST_FILES, MOST_DIRECTORIES = 36, 12

NOBODY = 65534


class Deeds(ABC):
    """A directory, the tree that is promised to be in it, and dice."""

    def __init__(self, directory: Path, dice: random.Random, tree: Tree) -> None:
        self.directory, self.dice, self.tree = directory, dice, tree
        self.serial = 0
        often = [self.overwrite, self.overwrite, self.append, self.read, self.read_part]
        seldom = [
            self.create, self.create, self.truncate, self.truncate, self.save, self.rename,
            self.rename, self.remove, self.link, self.mkdir, self.rmdir, self.symlink, self.fifo,
            self.exchange, self.chmod, self.chown, self.times, self.evict, self.evict, self.large,
            self.store_by_mmap, self.work_unlinked, self.fsync, self.fsync_directory,
        ]  # fmt: skip
        self._choices: list[Callable[[], None]] = often * 3 + seldom

    @abstractmethod
    def step(
        self, what: str, after: Tree, call: Callable[[], object], *, synced: bool = False
    ) -> bool: ...

    @abstractmethod
    def expect(self, path: str, call: Callable[[], bytes], wanted: bytes) -> None: ...

    def act(self) -> None:
        self.dice.choice(self._choices)()
        if len(self.of_kind(FILE)) > MOST_FILES:
            self.remove()

    # --- choosing

    def place(self, path: str) -> str:
        return os.path.join(self.directory, path)

    def of_kind(self, kind: str) -> list[str]:
        return [path for path, thing in self.tree.items() if thing.kind == kind]

    def some(self, kind: str) -> str | None:
        paths = self.of_kind(kind)
        return self.dice.choice(paths) if paths else None

    def content(self, path: str) -> bytes:
        data = self.tree[path].data
        assert data is not None
        return data

    def new_name(self) -> str:
        self.serial += 1
        return os.path.join(self.dice.choice(["", *self.of_kind(DIRECTORY)]), f"n{self.serial}")

    def some_bytes(self, limit: int = ONE_WRITE) -> bytes:
        """Mostly noise; sometimes with a run of zeros, which may become a hole."""
        data = self.dice.randbytes(self.dice.randrange(1, limit))
        if self.dice.random() < 0.1:
            half = len(data) // 2
            data = data[:half] + bytes(len(data) - half)
        return data

    # --- trees

    def with_data(self, path: str, data: bytes) -> Tree:
        """All names of the file have these bytes."""
        return self.with_thing(path, replace(self.tree[path], data=data, size=len(data)))

    def with_thing(self, path: str, thing: Thing) -> Tree:
        old = self.tree[path]
        return {name: thing if other is old else other for name, other in self.tree.items()}

    def without(self, *paths: str) -> Tree:
        return {path: thing for path, thing in self.tree.items() if path not in paths}

    # --- bytes

    def create(self) -> None:
        path = self.new_name()
        if self.make(path):
            self.write_at(path, 0, self.some_bytes())

    def make(self, path: str) -> bool:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        call = lambda: os.close(os.open(self.place(path), flags, 0o644))  # noqa: E731
        return self.step("create", self.tree | {path: a_file(b"")}, call)

    def overwrite(self) -> None:
        if path := self.some(FILE):
            offset = self.dice.randrange(self.tree[path].size + 1)
            self.write_at(path, offset, self.some_bytes(self.dice.choice((20, ONE_WRITE))))

    def append(self) -> None:
        if path := self.some(FILE):
            self.write_at(path, self.tree[path].size, self.some_bytes())

    def large(self) -> None:
        if path := self.some(FILE):
            self.write_at(path, 0, self.some_bytes(LARGE), LARGE)

    def write_at(self, path: str, offset: int, data: bytes, most: int = LARGEST) -> bool:
        old = self.content(path)
        new = old[:offset] + data + old[offset + len(data) :]
        if len(new) > max(most, len(old)):
            return False

        def write() -> None:
            descriptor = os.open(self.place(path), os.O_WRONLY)
            try:
                _write_all(descriptor, data, offset)
            finally:
                os.close(descriptor)

        return self.step(f"write {offset} {len(data)}", self.with_data(path, new), write)

    def truncate(self) -> None:
        if path := self.some(FILE):
            size, old = self.dice.choice((0, self.dice.randrange(LARGEST))), self.content(path)
            new = old[:size] + bytes(size - len(old[:size]))
            call = lambda: os.truncate(self.place(path), size)  # noqa: E731
            self.step(f"truncate {size}", self.with_data(path, new), call)

    def store_by_mmap(self) -> None:
        """In a process of its own: a page fault on a dead mapping is its end."""
        path = self.some(FILE)
        if path is None or self.tree[path].size < 10:
            return
        old = self.content(path)
        offset, data = self.dice.randrange(len(old) - 9), self.dice.randbytes(9)

        def store() -> None:
            descriptor = os.open(self.place(path), os.O_RDWR)
            with mmap.mmap(descriptor, len(old)) as mapped:
                mapped[offset : offset + len(data)] = data
                mapped.flush()

        new = old[:offset] + data + old[offset + len(data) :]
        self.step(f"mmap {offset}", self.with_data(path, new), lambda: _in_child(store))

    def fsync(self) -> None:
        if path := self.some(FILE):
            self.sync(path)

    def fsync_directory(self) -> None:
        if path := self.some(DIRECTORY):
            self.sync(path)

    def sync(self, path: str) -> None:
        def call() -> None:
            descriptor = os.open(self.place(path), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        self.step(f"fsync {path}", self.tree, call, synced=True)

    def save(self) -> None:
        """As an editor does: beside, fsync, over the old one."""
        beside, target = self.new_name(), self.some(FILE) or self.new_name()
        if not self.make(beside) or not self.write_at(beside, 0, self.some_bytes()):
            return
        self.sync(beside)
        self.move(beside, target)

    # --- names

    def mkdir(self) -> None:
        path = self.new_name()
        if len(self.of_kind(DIRECTORY)) < MOST_DIRECTORIES:
            after = self.tree | {path: Thing(DIRECTORY, 0o755)}
            self.step("mkdir", after, lambda: os.mkdir(self.place(path), 0o755))

    def rmdir(self) -> None:
        path = self.some(DIRECTORY)
        if path and not any(other.startswith(f"{path}/") for other in self.tree):
            self.step("rmdir", self.without(path), lambda: os.rmdir(self.place(path)))

    def symlink(self) -> None:
        path, target = self.new_name(), "../somewhere"
        if len(self.of_kind(SYMLINK)) < 5:
            after = self.tree | {path: Thing(SYMLINK, 0o777, target.encode())}
            self.step("symlink", after, lambda: os.symlink(target, self.place(path)))

    def fifo(self) -> None:
        path = self.new_name()
        if len(self.of_kind(FIFO)) < 3:
            after = self.tree | {path: Thing(FIFO, 0o600)}
            self.step("mkfifo", after, lambda: os.mkfifo(self.place(path), 0o600))

    def link(self) -> None:
        path, target = self.some(FILE), self.new_name()
        if path:
            call = lambda: os.link(self.place(path), self.place(target))  # noqa: E731
            self.step(f"link to {target}", self.tree | {target: self.tree[path]}, call)

    def remove(self) -> None:
        path = self.some(self.dice.choice((FILE, FILE, FILE, SYMLINK, FIFO)))
        if path and (self.tree[path].kind != FILE or len(self.of_kind(FILE)) > 4):
            self.step("remove", self.without(path), lambda: os.unlink(self.place(path)))

    def rename(self) -> None:
        """To a new name, over another file, or a directory with all that is in it."""
        source, target = self.dice.choice([*self.tree, ""]), self.new_name()
        others = [path for path in self.of_kind(FILE) if path != source]
        if source and self.tree[source].kind == FILE and others and self.dice.random() < 0.4:
            target = self.dice.choice(others)
        if source:
            self.move(source, target)

    def move(self, source: str, target: str) -> None:
        same = target in self.tree and self.tree[target] is self.tree[source]
        if target == source or target.startswith(f"{source}/") or same:
            return  # of two names of one object, rename does nothing
        after = self.without(*self.below(source)) | self.moved(source, target)
        call = lambda: os.rename(self.place(source), self.place(target))  # noqa: E731
        self.step(f"rename to {target}", after, call)

    def exchange(self) -> None:
        a, b = self.dice.choice([*self.tree, ""]), self.dice.choice([*self.tree, ""])
        if not a or not b or f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/"):
            return
        if self.tree[a] is self.tree[b]:
            return
        after = self.without(*self.below(a), *self.below(b)) | self.moved(a, b) | self.moved(b, a)
        places = os.fsencode(self.place(a)), os.fsencode(self.place(b))
        self.step("exchange", after, lambda: renameat2(*places, RENAME_EXCHANGE))

    def below(self, path: str) -> list[str]:
        return [p for p in self.tree if p == path or p.startswith(f"{path}/")]

    def moved(self, source: str, target: str) -> Tree:
        return {target + path[len(source) :]: self.tree[path] for path in self.below(source)}

    # --- attributes

    def chmod(self) -> None:
        if path := self.some(self.dice.choice((FILE, DIRECTORY))):
            mode = self.dice.choice((0o644, 0o640, 0o755, 0o700))
            after = self.with_thing(path, replace(self.tree[path], mode=mode))
            self.step(f"chmod {mode:o}", after, lambda: os.chmod(self.place(path), mode))

    def chown(self) -> None:
        """Owners are not in the tree: they are compared at the end."""
        if os.geteuid() == 0 and (path := self.some(FILE)):
            owner = self.dice.choice((0, NOBODY))
            self.step(f"chown {owner}", self.tree, lambda: os.chown(self.place(path), owner, owner))

    def times(self) -> None:
        if path := self.some(FILE):
            ns = self.dice.randrange(10**18, 2 * 10**18)
            self.step("utime", self.tree, lambda: os.utime(self.place(path), ns=(ns, ns)))

    # --- what changes nothing

    def read(self) -> None:
        if path := self.some(FILE):
            self.expect(path, lambda: Path(self.place(path)).read_bytes(), self.content(path))

    def read_part(self) -> None:
        """Of what is not cached, some blocks come from home."""
        if path := self.some(FILE):
            wanted = self.content(path)
            start = self.dice.randrange(len(wanted) + 1)
            part = wanted[start : start + 5000]

            def call() -> bytes:
                descriptor = os.open(self.place(path), os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                    return os.pread(descriptor, 5000, start)
                finally:
                    os.close(descriptor)

            self.expect(path, call, part)

    def evict(self) -> None:
        """May be refused: the file may be dirty, home away."""
        files = self.of_kind(FILE)
        chosen = self.dice.sample(files, min(len(files), 8))
        root = self.directory.parent
        words = " ".join(f"{self.directory.name}/{path}" for path in chosen)
        try:
            descriptor = os.open(root / ".afm/control", os.O_WRONLY)
        except OSError:
            return  # the mount is down, or the directory is a plain one
        try:
            os.write(descriptor, f"evict --file {words}\n".encode())
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def work_unlinked(self) -> None:
        """A file that has lost its last name goes on being one until it is closed."""
        path = self.some(FILE)
        names = [p for p, thing in self.tree.items() if path and thing is self.tree[path]]
        if path is None or len(names) > 1 or len(self.of_kind(FILE)) < 5:
            return
        data, old = self.some_bytes(), self.content(path)

        def call() -> None:
            descriptor = os.open(self.place(path), os.O_RDWR)
            try:
                os.unlink(self.place(path))
                _write_all(descriptor, data, 0)
                _want(descriptor, data + old[len(data) :])
            finally:
                os.close(descriptor)

        self.step("unlink while open", self.without(path), call)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    # The kernel cuts a write at page borders as it likes: killed between two requests, the call
    # returns what the first one wrote.
    if os.pwrite(descriptor, data, offset) != len(data):
        raise OSError(errno.ECONNABORTED, "written in part")


def _want(descriptor: int, wanted: bytes) -> None:
    """An unlinked file has these bytes, unless home has to be asked for them and can't be."""
    try:
        found = os.pread(descriptor, len(wanted) + 1, 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    else:
        if len(found) < len(wanted) and wanted.startswith(found):
            raise OSError(errno.ECONNABORTED, "read in part")  # killed between two requests
        if found != wanted:
            raise AssertionError("it has other bytes once it is unlinked")


def _in_child(call: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        status = 255
        try:
            call()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS:
        raise OSError(errno.ECONNABORTED, "the mapping is dead")
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise OSError(code, os.strerror(code))
