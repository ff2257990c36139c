"""Blobs: one sparse file for each inode and generation, holding the bytes that are valid here.

A blob is as long as its inode (up to LONGEST_BLOB): its length is changed before the transaction
that changes the size, and what a crash left beyond is cut when the blob is first opened. So one
that is missing, or shorter, was damaged, and is not taken for zeros: what it still holds is read,
and nothing is written to it. Where nothing was ever written there is no blob and no generation, and
all is zeros. Local system calls only; nothing here knows which bytes are valid.

Making a file is the dearest part of creating one (20 to 600 us on ext4), so empty blobs are made in
advance, by a thread. They have no inode yet, so a blob is named after its generation alone, a
number that is never used twice.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from afmfs.cache.store.disk import Disk
from afmfs.cache.store.inode import Inode
from afmfs.errors import Damaged
from afmfs.model.blocks import SHARDS as SHARDS
from afmfs.model.blocks import blob_length
from afmfs.model.blocks import blob_name as blob_name
from afmfs.model.ranges import Ranges

OPEN_BLOBS = 512
_ZEROS = 1 << 20
"""Most zeros that are written at a time."""
POOL = 64
"""Empty blobs that are made at a time; as many more may wait. On a disk with few inodes left they
are fewer: one in `SPARING` of those."""
SPARING = 16


def _about(inode: Inode) -> str:
    return f"blob {blob_name(inode.gen)} of inode {inode.ino}"


class Blobs:
    def __init__(self, cache: Path, take_number: Callable[[], int], disk: Disk) -> None:
        root = cache / "blobs"
        self._take_number, self._disk = take_number, disk
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._dir = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[int, int] = OrderedDict()  # generation -> descriptor
        self._in_threads: dict[int, int] = {}  # descriptors in use by threads
        self._to_close: set[int] = set()
        self._pool: deque[tuple[int, int]] = deque()  # generations and descriptors of empty blobs
        self.pool_low = trio.Event()
        self.pool_low.set()
        self.created: set[int] = set()  # generations whose file's name may not be durable yet
        self.in_reclaim: set[int] = set()  # inodes whose shrink is not durable: tails must stay
        self.filling = trio.Lock()  # held while files are made for the pool
        self._short: set[int] = set()  # generations of open blobs that have lost their tail
        self._read_only: set[int] = set()  # of those that were opened on a disk that was so

    def descriptor(self, inode: Inode) -> int | None:
        """An open descriptor of the inode's blob, valid until the next call on the loop thread
        (a thread that needs it longer borrows it). None if there is no blob."""
        gen = inode.gen
        fd = self._open.get(gen)
        if fd is not None or not gen:
            return fd
        try:
            fd = os.open(blob_name(gen), os.O_RDWR | os.O_CLOEXEC, dir_fd=self._dir)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno != errno.EROFS:
                raise
            fd = os.open(blob_name(gen), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._dir)
            self._read_only.add(gen)
        # Killed between a blob write and its transaction: a later extension of the file must not
        # show these bytes.
        if gen not in self._read_only:
            self._cut_excess(fd, inode)
        if os.fstat(fd).st_size < blob_length(inode.size):
            self._short.add(gen)
        self._keep(gen, fd)
        return fd

    def prepare(self, inode: Inode) -> int:
        """A descriptor to write by; the inode gets a generation, and a blob, if it has none.
        Damaged if it has a generation and the blob is not what it was."""
        fd = self._to_write(inode)
        if inode.gen in self._short:
            raise self.lost_end(inode)
        return self._create(inode) if fd is None else fd

    def _to_write(self, inode: Inode) -> int | None:
        """As `descriptor`; what was opened on a read-only disk is opened anew."""
        if inode.gen in self._read_only:
            self.let_go(inode.gen)
        fd = self.descriptor(inode)
        if inode.gen in self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return fd

    def lost(self, inode: Inode) -> Damaged:
        """The inode's blob is missing: damage is proven."""
        return self._disk.harm.prove(f"{_about(inode)} is missing")

    def lost_end(self, inode: Inode) -> Damaged:
        """It is shorter than the inode."""
        return self._disk.harm.prove(f"the end of {_about(inode)} is missing")

    def _create(self, inode: Inode) -> int:
        """A blob for an inode that has none. Its generation becomes part of the inode with the
        transaction that makes bytes in it valid."""
        if inode.gen:
            raise self.lost(inode)
        if self._pool:
            gen, fd = self._pool.popleft()
        else:
            self._disk.take_file()
            gen = self._take_number()
            fd = self._make(gen)
        inode.gen = gen
        if len(self._pool) < POOL:
            self.pool_low.set()
        self.created.add(gen)
        self._keep(gen, fd)
        if inode.size:
            os.ftruncate(fd, blob_length(inode.size))
        return fd

    def abandon(self, inode: Inode, gen: int) -> None:
        """A transaction has failed; before it the inode's generation was `gen`. A blob that was
        made for it goes again: no table knows of it. So does what was written beyond the end."""
        made, inode.gen = inode.gen, gen
        try:
            if made != gen:
                self.created.discard(made)
                self.remove(made)
            elif (fd := self._open.get(gen)) is not None and gen not in self._read_only:
                self._cut_excess(fd, inode)
        except OSError as exc:  # a disk that takes nothing: the next start finds it
            self._disk.met(exc)

    def extend(self, inode: Inode, size: int) -> None:
        """The inode, which has a blob, is about to be `size` bytes long."""
        fd = self.prepare(inode)
        if os.fstat(fd).st_size < blob_length(size):
            os.ftruncate(fd, blob_length(size))

    def restore(self, inode: Inode, *, may_be_missing: bool) -> None:
        """After lost writes the blob may be short, or `may_be_missing`: what is gone is zeros."""
        fd = self.descriptor(inode)
        if fd is None and may_be_missing:
            fd = self._make(inode.gen)
            self._keep(inode.gen, fd)
        if fd is not None and os.fstat(fd).st_size < blob_length(inode.size):
            os.ftruncate(fd, blob_length(inode.size))
        self._short.discard(inode.gen)

    def _make(self, gen: int) -> int:
        flags, name = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, blob_name(gen)
        try:
            return os.open(name, flags, 0o600, dir_fd=self._dir)
        except FileNotFoundError:
            self._make_shard(os.path.dirname(name))
            return os.open(name, flags, 0o600, dir_fd=self._dir)

    def _make_shard(self, shard: str) -> None:
        """Durable on return: the fsync of a blob looks no further than at its directory."""
        try:
            os.mkdir(shard, 0o700, dir_fd=self._dir)
        except FileExistsError:
            pass  # made beside us; and durable before we go on, too
        os.fsync(self._dir)

    def _keep(self, gen: int, fd: int) -> None:
        self._open[gen] = fd
        if len(self._open) > OPEN_BLOBS:
            self._close(self._open.popitem(last=False)[1])

    def write(self, inode: Inode, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`, for which room was asked; on failure no byte beyond the inode's size
        stays behind."""
        fd = self.prepare(inode)
        try:
            done = os.pwrite(fd, data, offset)
            while done < len(data):
                done += os.pwrite(fd, memoryview(data)[done:], offset + done)
        except OSError as exc:
            self._disk.met(exc)
            self._cut_excess(fd, inode)
            raise

    def take(self, size: int) -> None:
        """So many bytes are about to be written. ENOSPC, or what else the disk has against it."""
        self._disk.take(size)

    def claim(self, inode: Inode, parts: Ranges) -> None:
        """What is about to be overwritten has its place, or ENOSPC: once the transaction is made
        that says so, a write must not fail for want of room. Its holes have none."""
        fd = self.prepare(inode)
        info = os.fstat(fd)
        if info.st_blocks * 512 < info.st_size:
            for start, end in parts:
                self._disk.claim(fd, start, end)

    def _cut_excess(self, fd: int, inode: Inode) -> None:
        """A blob is never longer than its inode, but for a tail that waits for its reclaim."""
        if os.fstat(fd).st_size > inode.size and inode.ino not in self.in_reclaim:
            os.ftruncate(fd, inode.size)

    def cut(self, inode: Inode, size: int) -> None:
        """Destroy the blob's bytes at and beyond `size`."""
        fd = self._to_write(inode)
        if fd is not None and os.fstat(fd).st_size > size:
            os.ftruncate(fd, size)

    async def sync(self, inode: Inode) -> None:
        """The blob's length and bytes are durable on return; the name of a new one is not."""
        fd = self.descriptor(inode)
        if fd is not None:
            self.borrow(fd)
            try:
                await trio.to_thread.run_sync(self._disk.sync, os.fsync, fd)
            finally:
                self.give_back(fd)

    def clear(self, inode: Inode, start: int, end: int) -> None:
        """Let [start, end) read as zeros; where the blob has a hole it keeps it."""
        fd = self._to_write(inode)
        end = 0 if fd is None else min(end, os.fstat(fd).st_size)
        while fd is not None and start < end:
            try:
                start = os.lseek(fd, start, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno == errno.ENXIO:
                    return  # holes to the end
                raise
            stop = min(end, os.lseek(fd, start, os.SEEK_HOLE), start + _ZEROS)
            if stop <= start:
                return  # all holes up to there
            start += os.pwrite(fd, bytes(stop - start), start)

    def remove(self, gen: int) -> None:
        """Destroy a whole blob; none there is fine."""
        self.let_go(gen)
        self.destroy([gen])

    def let_go(self, gen: int) -> None:
        """Keep the blob open no longer than threads use it."""
        self._short.discard(gen)
        self._read_only.discard(gen)
        fd = self._open.pop(gen, None)
        if fd is not None:
            self._close(fd)

    def destroy(self, gens: Iterable[int]) -> None:
        """Destroy whole blobs that are let go. May run in a thread."""
        for gen in gens:
            try:
                os.unlink(blob_name(gen), dir_fd=self._dir)
            except FileNotFoundError:
                pass  # reclaimed before a crash took its row's removal back

    def destroy_durably(self, gens: list[int]) -> None:
        """As `destroy`: once their rows have gone, nothing tells of them any more."""
        self.destroy(gens)
        for gen in {os.path.dirname(blob_name(gen)): gen for gen in gens}.values():
            try:
                shard = self.shard_descriptor(gen)
            except FileNotFoundError:
                continue  # power loss has taken all of it
            try:
                self._disk.sync(os.fsync, shard)
            finally:
                os.close(shard)

    # -- empty blobs made in advance -------------------------------------------------------------

    @property
    def oldest_in_pool(self) -> int | None:
        return self._pool[0][0] if self._pool else None

    def wanted(self) -> int:
        """How many empty blobs should be made now."""
        return min(POOL, max(0, self._disk.room().files // SPARING))

    def fill_pool(self, numbers: range) -> list[tuple[int, int]]:
        """Make an empty blob for each number, or none; for a thread. The loop thread takes them
        over."""
        made: list[tuple[int, int]] = []
        try:
            for gen in numbers:
                made.append((gen, self._make(gen)))
        except OSError:
            for _, fd in made:
                os.close(fd)
            self.destroy([gen for gen, _ in made])
            raise
        return made

    def take_over(self, made: list[tuple[int, int]]) -> None:
        self._pool.extend(made)
        self.pool_low = trio.Event()

    def discard_empty(self, numbers: range) -> None:
        """Remove blobs of a pool that a crash left unused: none in use is empty."""
        for gen in numbers:
            try:
                if os.stat(blob_name(gen), dir_fd=self._dir).st_size == 0:
                    self.remove(gen)
            except FileNotFoundError:
                pass  # never made, or reclaimed

    # -- descriptors that threads use ------------------------------------------------------------

    def borrow(self, fd: int) -> None:
        self._in_threads[fd] = self._in_threads.get(fd, 0) + 1

    def give_back(self, fd: int) -> None:
        self._in_threads[fd] -= 1
        if not self._in_threads[fd]:
            del self._in_threads[fd]
            if fd in self._to_close:
                self._to_close.remove(fd)
                os.close(fd)

    def _close(self, fd: int) -> None:
        if fd in self._in_threads:
            self._to_close.add(fd)
        else:
            os.close(fd)

    def shard_descriptor(self, gen: int) -> int:
        """A new descriptor of the directory that holds a blob."""
        shard = os.path.dirname(blob_name(gen))
        return os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._dir)

    @property
    def root_descriptor(self) -> int:
        return self._dir

    def close(self) -> None:
        """Close everything; what is left of the pool goes."""
        while self._pool:
            gen, fd = self._pool.popleft()
            os.close(fd)
            try:
                self.remove(gen)
            except OSError as exc:  # the next start removes it
                self._disk.met(exc)
        while self._open:
            self._close(self._open.popitem()[1])
        os.close(self._dir)
