"""Which bytes of a file are valid in its blob, kept in the tables.

A file is whole (every byte is valid, holes are zeros), or it has a block map and, inside blocks
that are not complete, spans. Whatever is not valid reads as zeros from `home_valid` on and is
fetched below it. Marks are made in the caller's transaction, after the bytes are in the blob.

Anybody can give a file a size that would have millions of chunks, so nothing here goes through the
numbers of chunks: only through rows that there are, and those at the ends of a range (`bitmap`).

Each row has a checksum, which is verified where the row is read: one that is not as it was written
proves that cache.db is damaged, and no byte is read, or written, by it.
"""

from __future__ import annotations

from collections.abc import Iterable

from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.errors import BadRow
from afmfs.model import bitmap, blocks, ranges
from afmfs.model.bitmap import CHUNK
from afmfs.model.ranges import Range, Ranges
from afmfs.model.row_sum import row_sum

_SELECT_ROW = (
    "SELECT chunk, bits, crc FROM blockmap WHERE ino=? AND chunk<=? ORDER BY chunk DESC LIMIT 1"
)
_SELECT_ROWS = "SELECT chunk, bits, crc FROM blockmap WHERE ino=? AND chunk>? AND chunk<?"
_SELECT_ALL = "SELECT chunk, bits, crc FROM blockmap WHERE ino=?"
_PUT_ROW = "INSERT OR REPLACE INTO blockmap VALUES (?,?,?,?)"
_DELETE_ROWS = "DELETE FROM blockmap WHERE ino=? AND chunk>=? AND chunk<?"
_SELECT_SPANS = "SELECT start, end, crc FROM span WHERE ino=? AND start>=? AND start<?"
_DELETE_SPANS = "DELETE FROM span WHERE ino=? AND start>=? AND start<?"
_INSERT_SPAN = "INSERT INTO span VALUES (?,?,?,?)"

Row = tuple[int, bytes]
"""Of a block map: a chunk and what is stored with it."""


class Validity:
    def __init__(self, store: Store, block: int) -> None:
        self._store, self.block = store, block
        self._vouched: tuple[int, int, bytes, int] | None = None  # the last row that was verified

    # -- questions -------------------------------------------------------------------------------

    def valid(self, inode: Inode, start: int, end: int) -> Ranges:
        """The valid bytes in [start, end), nothing beyond the file's size."""
        end = min(end, inode.size)
        if start >= end:
            return ()
        if inode.whole:
            return ((start, end),)
        found: list[tuple[int, int]] = []
        among = blocks.touched(start, end, self.block)
        for chunk, stored in self._rows(inode.ino, among):
            for a, b in bitmap.cached(chunk, stored, among):
                found.append((a * self.block, b * self.block))
        first = start - start % self.block
        found += self._spans(inode.ino, first, end)
        return ranges.within(ranges.union(found), start, end)

    def missing(self, inode: Inode, start: int, end: int) -> Ranges:
        """The bytes of [start, end) that only home has."""
        if inode.whole:
            return ()
        end = min(end, inode.size, inode.home_valid)
        return ranges.gaps(self.valid(inode, start, end), start, end) if start < end else ()

    def uncached_blocks(self, inode: Inode, start: int, end: int) -> list[int]:
        """The blocks that have to be fetched to read [start, end)."""
        found: list[int] = []
        for a, b in self.missing(inode, start, end):
            found += (n for n in blocks.touched(a, b, self.block) if not found or n > found[-1])
        return found

    def cached_blocks(self, inode: Inode) -> tuple[int, int]:
        """Cached blocks and their bytes, the last cut at the end of the file."""
        total = blocks.count(inode.size, self.block)
        if inode.whole:
            return total, inode.size
        rows = self._store.execute(_SELECT_ALL, (inode.ino,)).fetchall()
        number = sum(bitmap.number(self._vouched_for(inode.ino, row)[1]) for row in rows)
        return number, number * self.block - self._beyond_end(inode, total)

    def cached_bytes(self, inode: Inode, among: range) -> int:
        """Bytes of the cached blocks `among`, the last cut at the end of the file."""
        total = blocks.count(inode.size, self.block)
        among = range(among.start, min(among.stop, total))
        if inode.whole:
            return (
                blocks.bounds(among.stop - 1, inode.size, self.block)[1] - among.start * self.block
            )
        number = sum(
            bitmap.number_among(chunk, stored, among)
            for chunk, stored in self._rows(inode.ino, among)
        )
        beyond = self._beyond_end(inode, total) if among.stop == total else 0
        return number * self.block - beyond

    def _beyond_end(self, inode: Inode, total: int) -> int:
        """What a cached last block lacks to a full one."""
        if not total or not self._is_cached(inode.ino, total - 1):
            return 0
        return total * self.block - inode.size

    def _is_cached(self, ino: int, number: int) -> bool:
        row = self._row(ino, number // CHUNK)
        return row is not None and bool(bitmap.load(row[1])[number % CHUNK])

    # -- marks, in the caller's transaction ------------------------------------------------------

    def mark(self, inode: Inode, start: int, end: int, size: int) -> None:
        """[start, end) of a file that is not whole became valid; `size` is its size from now on."""
        full = blocks.covered(start, end, size, self.block)
        self._set(inode.ino, full)
        if full:
            low, high = full.start * self.block, full.stop * self.block
            edges = [(start, min(low, end)), (high, end)]
        else:
            edges = [(start, end)]
        for a, b in edges:
            for number in blocks.touched(a, b, self.block):
                first, last = blocks.bounds(number, size, self.block)
                self._mark_part(inode.ino, number, max(a, first), min(b, last), (first, last))

    def _mark_part(
        self, ino: int, number: int, start: int, end: int, bounds: tuple[int, int]
    ) -> None:
        """A part of a block became valid: a span, or its bit if that completes it."""
        if start >= end or self._is_cached(ino, number):
            return
        where = (ino, number * self.block, (number + 1) * self.block)
        merged = ranges.add(tuple(self._spans(*where)), start, end)
        self._store.execute(_DELETE_SPANS, where)
        if merged == (bounds,):
            self._set(ino, range(number, number + 1))
        else:
            self._put_spans(ino, merged)

    def _set(self, ino: int, full: range) -> None:
        pieces, inner = bitmap.parts(full)
        for piece in pieces:
            self._change(ino, *piece, True)
        if inner:
            self._take_out(ino, inner)
            self._put(ino, inner.start, bitmap.run(len(inner)))
        if full:
            self._store.execute(
                _DELETE_SPANS,
                (ino, full.start * self.block, full.stop * self.block),
            )

    def _clear(self, ino: int, numbers: range) -> None:
        pieces, inner = bitmap.parts(numbers)
        for piece in pieces:
            self._change(ino, *piece, False)
        if inner:
            self._take_out(ino, inner)

    def unmark(self, inode: Inode, start: int, end: int | None = None) -> None:
        """Nothing in [start, end) is valid any more (to the end of the file where end is None).

        A block of which a part stays valid keeps that part as a span.
        """
        self._split(inode)
        ino, stop = inode.ino, max(inode.size, start) if end is None else end
        kept: list[tuple[int, int]] = []
        for edge in {start // self.block, (stop - 1) // self.block} if stop > start else set():
            first, last = blocks.bounds(edge, inode.size, self.block)
            kept += ranges.subtract(self.valid(inode, first, last), start, stop)
        self._clear(ino, blocks.touched(start, stop, self.block))
        low, high = start - start % self.block, blocks.count(stop, self.block) * self.block
        self._store.execute(_DELETE_SPANS, (ino, low, high))
        self._put_spans(ino, kept)

    def shrink(self, inode: Inode, size: int) -> None:
        """The file is about to become `size` bytes long; a block cut short stays as it was."""
        if inode.whole:
            return
        keep = blocks.count(size, self.block)
        total = blocks.count(inode.size, self.block)
        self._clear(inode.ino, range(keep, total))
        first = max(0, keep - 1) * self.block
        left = ranges.cut(ranges.union(self._spans(inode.ino, first, size)), size)
        self._store.execute("DELETE FROM span WHERE ino=? AND start>=?", (inode.ino, first))
        if left == ((first, size),):  # what is left of the block is all valid
            self._set(inode.ino, range(keep - 1, keep))
        else:
            self._put_spans(inode.ino, left)

    def become_whole(self, inode: Inode) -> None:
        """Drop the map if every block is cached; which of them are fresh stays known."""
        if inode.whole or self.cached_blocks(inode)[0] < blocks.count(inode.size, self.block):
            return
        self._drop_map(inode.ino)
        self._store.save(inode, whole=True)

    def forget(self, inode: Inode) -> None:
        """Nothing is known any more: the file is empty, or gone."""
        self._drop_map(inode.ino)
        self._store.execute("DELETE FROM fresh WHERE ino=?", (inode.ino,))

    def _drop_map(self, ino: int) -> None:
        for table in ("blockmap", "span"):
            self._store.execute(f"DELETE FROM {table} WHERE ino=?", (ino,))

    def _split(self, inode: Inode) -> None:
        """Give a whole file a map of its own."""
        if not inode.whole:
            return
        self._store.save(inode, whole=False)
        self._set(inode.ino, range(blocks.count(inode.size, self.block)))

    # -- rows ------------------------------------------------------------------------------------

    def _row(self, ino: int, chunk: int) -> Row | None:
        """The row that `chunk` lies in: its own, or a run's."""
        found = self._store.execute(_SELECT_ROW, (ino, chunk)).fetchone()
        if found is None:
            return None
        row = self._vouched_for(ino, found)
        return row if chunk < row[0] + bitmap.reach(row[1]) else None

    def _rows(self, ino: int, numbers: range) -> list[Row]:
        """The rows that have any of the blocks `numbers`."""
        among = bitmap.chunks(numbers)
        first = self._row(ino, among.start) if among else None
        found = self._store.execute(_SELECT_ROWS, (ino, among.start, among.stop)).fetchall()
        rows = [self._vouched_for(ino, row) for row in found]
        return rows if first is None else [first, *rows]

    def _change(self, ino: int, chunk: int, low: int, high: int, value: bool) -> None:
        """Set or clear bits of one chunk."""
        row = self._row(ino, chunk)
        if row is None and not value:
            return
        bits = bitmap.load(row and row[1])
        bits[low:high] = value
        if row is not None and (bitmap.is_run(row[1]) or not bits.any()):
            self._take_out(ino, range(chunk, chunk + 1))
        if bits.any():
            self._put(ino, chunk, bits.tobytes())

    def _take_out(self, ino: int, chunks: range) -> None:
        """No row is of any of `chunks` any more: a run that reaches in from outside is parted."""
        left, right = self._row(ino, chunks.start), self._row(ino, chunks.stop - 1)
        self._store.execute(_DELETE_ROWS, (ino, chunks.start, chunks.stop))
        if left is not None and left[0] < chunks.start:
            self._put(ino, left[0], bitmap.run(chunks.start - left[0]))
        if right is not None and (end := right[0] + bitmap.reach(right[1])) > chunks.stop:
            self._put(ino, chunks.stop, bitmap.run(end - chunks.stop))

    def _vouched_for(self, ino: int, found: tuple[int, bytes, int]) -> Row:
        """Raises BadRow if the row is not what was written."""
        row = (ino, *found)
        if row != self._vouched:  # most often it is: to compare costs a tenth
            if found[2] != row_sum(ino, *found[:2]):
                raise self._bad_row(ino)
            self._vouched = row
        return found[:2]

    def _put(self, ino: int, chunk: int, stored: bytes) -> None:
        self._vouched = row = (ino, chunk, stored, row_sum(ino, chunk, stored))
        self._store.execute(_PUT_ROW, row)

    def _spans(self, ino: int, first: int, end: int) -> list[Range]:
        """Those that begin in [first, end)."""
        rows = self._store.execute(_SELECT_SPANS, (ino, first, end)).fetchall()
        for start, stop, crc in rows:
            if crc != row_sum(ino, start, stop):
                raise self._bad_row(ino)
        return [row[:2] for row in rows]

    def _put_spans(self, ino: int, spans: Iterable[Range]) -> None:
        rows = [(ino, a, b, row_sum(ino, a, b)) for a, b in spans]
        self._store.db.executemany(_INSERT_SPAN, rows)

    def _bad_row(self, ino: int) -> Exception:
        return self._store.met(BadRow(f"the map of inode {ino} is not what was written"))
