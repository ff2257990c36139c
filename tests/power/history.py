"""What a program has done, when, and what of it a loss of power may leave.

Steps come one after another. Each carries the recorder's position before its call and after its
return. After a cut at some position

* names and sizes are those after some step: not before the last one that was made durable, not
  after the last that had begun (the cache commits its operations in their order);
* a byte that nobody has touched since its file was made durable is what it was;
* any other is what it was, or what was written since. Zero only where the file has grown, or was
  cut, since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

GRAIN = 512

Found = dict[str, bytes | None]
"""Path to a file's bytes, or None for a directory."""


class Do(Enum):
    MAKE, MKDIR, LINK, WRITE, SIZE, RENAME, REMOVE = range(7)
    SYNC = 7  # names and sizes are durable, and the bytes of one file
    SETTLE = 8  # everything is durable


@dataclass(slots=True)
class Step:
    what: Do
    begun: int
    file: int = 0
    path: str = ""
    target: str = ""
    offset: int = 0
    size: int = 0
    data: bytes = b""
    done: int | None = None  # None: it never returned


@dataclass(slots=True)
class State:
    """Names and sizes after some step. File 0 stands for directories."""

    names: dict[str, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)

    def apply(self, step: Step) -> None:
        match step.what:
            case Do.MAKE:
                self.names[step.path] = step.file
                self.sizes[step.file] = step.size
            case Do.MKDIR:
                self.names[step.path] = 0
            case Do.LINK:
                self.names[step.target] = self.names[step.path]
            case Do.WRITE:
                self.sizes[step.file] = max(self.sizes[step.file], step.offset + len(step.data))
            case Do.SIZE:
                self.sizes[step.file] = step.size
            case Do.REMOVE:
                del self.names[step.path]
            case Do.RENAME:
                below = [p for p in self.names if f"{p}/".startswith(f"{step.path}/")]
                moved = {step.target + p[len(step.path) :]: self.names.pop(p) for p in below}
                self.names |= moved

    def shape(self) -> dict[str, int | None]:
        """Path to a file's size; None: a directory."""
        return {path: self.sizes[file] if file else None for path, file in self.names.items()}


class History:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.now = State()
        self.contents: dict[int, bytearray] = {}

    def add(self, step: Step) -> Step:
        self.steps.append(step)
        return step

    def done(self, step: Step, position: int) -> None:
        """It has returned."""
        step.done = position
        self.now.apply(step)
        change(self.contents, step)

    @property
    def expected(self) -> Found:
        """What is there if no power is cut."""
        return {p: bytes(self.contents[f]) if f else None for p, f in self.now.names.items()}

    # -- after a cut -----------------------------------------------------------------------------

    def check(self, found: Found, position: int) -> int:
        """Whether a loss of power at `position` may leave this; how many steps are lost."""
        first, last = self._bounds(position)
        shape = {path: None if data is None else len(data) for path, data in found.items()}
        states = self._states(first, last)
        faults: list[str] | None = None
        for number in range(last, first - 1, -1):
            state = states[number - first]
            if self._fits(state, shape, number, last):
                wrong = list(self._wrong_bytes(found, state, number, position))
                if not wrong:
                    return last - number
                if faults is None or len(wrong) < len(faults):
                    faults = wrong
        raise AssertionError(
            f"cut at {position}, after step {last}, durable up to step {first}:\n"
            + "\n".join((faults or _unlike(states[-1].shape(), shape))[:12])
        )

    def _states(self, first: int, last: int) -> list[State]:
        """After each of some steps."""
        state, found = State(), []
        for number, step in enumerate(self.steps[: last + 1]):
            state.apply(step)
            if number >= first:
                found.append(State(dict(state.names), dict(state.sizes)))
        return found

    def _bounds(self, position: int) -> tuple[int, int]:
        """The last step that is durable for certain, and the last that had begun."""
        begun = [n for n, step in enumerate(self.steps) if step.begun <= position]
        kept = [n for n in begun if self._is_durable(self.steps[n], position)]
        return max(kept, default=0), begun[-1]

    @staticmethod
    def _is_durable(step: Step, position: int) -> bool:
        synced = step.what in (Do.SYNC, Do.SETTLE)
        return synced and step.done is not None and step.done <= position

    def _fits(self, state: State, shape: dict[str, int | None], number: int, last: int) -> bool:
        ours = state.shape()
        if ours == shape:
            return True
        # The kernel may make several requests of one write.
        step = self.steps[number + 1] if number < last else None
        if step is None or step.what is not Do.WRITE or ours.keys() != shape.keys():
            return False
        before, after = state.sizes[step.file], step.offset + len(step.data)
        other = {path for path in ours if ours[path] != shape[path]}
        return all(
            state.names[path] == step.file and before <= (shape[path] or 0) <= after
            for path in other
        )

    def _wrong_bytes(self, found: Found, state: State, number: int, position: int) -> Iterator[str]:
        for path, file in state.names.items():
            seen = found[path]
            if seen is not None:
                base, later = self._since(file, number, position)
                yield from (f"{path}: {fault}" for fault in wrong_bytes(seen, base, later))

    def _since(self, file: int, number: int, position: int) -> tuple[bytes, list[Step]]:
        """The last durable bytes of a file, and what came after them and may show: no truncation
        that is not part of the state, but writes, whose bytes may be ahead of it."""
        base, later = b"", list[Step]()
        contents: dict[int, bytearray] = {}
        for n, step in enumerate(self.steps):
            if step.begun > position:
                break
            if self._is_durable(step, position) and step.file in (0, file):
                base, later = bytes(contents.get(file, b"")), []
            if step.file == file and step.what in (Do.MAKE, Do.WRITE, Do.SIZE):
                change(contents, step)
                if step.what is not Do.MAKE and (step.what is Do.WRITE or n <= number):
                    later.append(step)
                elif step.what is Do.MAKE:
                    base = bytes(contents[file])
        return base, later


def change(contents: dict[int, bytearray], step: Step) -> None:
    """What a step makes of the bytes of files."""
    if step.what is Do.MAKE:
        contents[step.file] = bytearray(step.data)
    elif step.what is Do.WRITE:
        content, end = contents[step.file], step.offset + len(step.data)
        content.extend(bytes(max(0, end - len(content))))
        content[step.offset : end] = step.data
    elif step.what is Do.SIZE:
        content = contents[step.file]
        del content[step.size :]
        content.extend(bytes(step.size - len(content)))


def wrong_bytes(seen: bytes, base: bytes, later: Iterable[Step]) -> Iterator[str]:
    """Where a file holds what it never did: of `base` and each of the `later` steps, any byte may
    show, but for what was cut off."""
    steps = list(later)
    for start in range(0, len(seen), GRAIN):
        end = min(start + GRAIN, len(seen))
        versions = [base[start:end].ljust(end - start, b"\0")]
        for step in steps:
            _change_versions(versions, step, start, end)
        piece = seen[start:end]
        if piece not in versions:
            bad = [n for n, byte in enumerate(piece) if all(v[n] != byte for v in versions)]
            if bad:
                zeros = all(piece[n] == 0 for n in bad)
                what = "zeros" if zeros else "other bytes"
                known = "changed since" if len(versions) > 1 else "durable and untouched"
                yield f"{len(bad)} bytes from {start + bad[0]} are {what}, {known}"


def _change_versions(versions: list[bytes], step: Step, start: int, end: int) -> None:
    if step.what is Do.SIZE and step.size < end:
        keep = max(0, step.size - start)
        cut = [version[:keep].ljust(end - start, b"\0") for version in versions]
        versions[:] = list(dict.fromkeys(cut))
    elif step.what is Do.WRITE:
        low, high = max(start, step.offset), min(end, step.offset + len(step.data))
        if low < high:
            data = step.data[low - step.offset : high - step.offset]
            last = versions[-1]
            versions.append(last[: low - start] + data + last[high - start :])


def _unlike(ours: dict[str, int | None], theirs: dict[str, int | None]) -> list[str]:
    missing, nothing = object(), "not there"
    return [
        f"{path}: {theirs.get(path, nothing)}, not {ours.get(path, nothing)}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path, missing) != theirs.get(path, missing)
    ]
