"""The judge of what a loss of power leaves: it lets pass what may be, and nothing else."""

from __future__ import annotations

import pytest

from tests.power.history import Do, Found, History, Step

END = 100


def history(*steps: Step) -> History:
    """Each step takes one position."""
    made = History()
    for position, step in enumerate(steps):
        step.begun = position
        made.done(made.add(step), position + 1)
    return made


def made(file: int, path: str) -> Step:
    return Step(Do.MAKE, 0, file=file, path=path)


def wrote(offset: int, data: bytes, file: int = 1) -> Step:
    return Step(Do.WRITE, 0, file=file, offset=offset, data=data)


def resized(size: int) -> Step:
    return Step(Do.SIZE, 0, file=1, size=size)


def follow(*steps: Step) -> History:
    return history(made(1, "f"), wrote(0, b"old!"), Step(Do.SYNC, 0, file=1), *steps)


MAY_BE: list[tuple[History, Found, int]] = [
    (follow(), {"f": b"old!"}, 0),
    (follow(wrote(0, b"NEW")), {"f": b"old!"}, 0),
    (follow(wrote(0, b"NEW")), {"f": b"NEW!"}, 0),
    (follow(wrote(0, b"NEW")), {"f": b"oEW!"}, 0),
    (follow(wrote(4, b"more")), {"f": b"old!"}, 1),
    (follow(wrote(4, b"more")), {"f": b"old!mo"}, 1),
    (follow(wrote(4, b"more")), {"f": b"old!\0\0\0\0"}, 0),
    (follow(resized(2), resized(4)), {"f": b"ol\0\0"}, 0),
    (follow(resized(2), resized(4)), {"f": b"ol"}, 1),
    (follow(Step(Do.RENAME, 0, path="f", target="g")), {"g": b"old!"}, 0),
    (follow(Step(Do.RENAME, 0, path="f", target="g")), {"f": b"old!"}, 1),
    (follow(Step(Do.MKDIR, 0, path="d"), made(2, "d/x")), {"f": b"old!", "d": None}, 1),
]

MAY_NOT: list[tuple[History, Found]] = [
    (follow(), {}),
    (follow(), {"f": b"\0\0\0\0"}),
    (follow(), {"f": b"old"}),
    (follow(), {"f": b"old!", "g": b""}),
    (follow(wrote(0, b"NEW")), {"f": b"\0\0\0!"}),
    (follow(wrote(0, b"NEW")), {"f": b"NEW\0"}),
    (follow(wrote(4, b"more")), {"f": b"old!nore"}),
    (follow(wrote(4, b"more"), Step(Do.SYNC, 0, file=1)), {"f": b"old!\0\0\0\0"}),
    (follow(wrote(4, b"more"), Step(Do.SYNC, 0, file=-1)), {"f": b"old!"}),
    (follow(wrote(0, b"NEW"), Step(Do.SETTLE, 0)), {"f": b"old!"}),
    # what was cut off shows again
    (follow(resized(2), resized(4), Step(Do.SYNC, 0, file=-1)), {"f": b"old!"}),
    (follow(Step(Do.RENAME, 0, path="f", target="g")), {"f": b"old!", "g": b"old!"}),
    (follow(Step(Do.MKDIR, 0, path="d"), made(2, "x")), {"f": b"old!", "x": b""}),  # out of order
]


@pytest.mark.parametrize("steps, found, lost", MAY_BE)
def test_what_may_be_left(steps: History, found: Found, lost: int) -> None:
    assert steps.check(found, END) == lost


@pytest.mark.parametrize("steps, found", MAY_NOT)
def test_what_may_not(steps: History, found: Found) -> None:
    with pytest.raises(AssertionError):
        steps.check(found, END)


def test_it_is_the_moment_that_counts() -> None:
    """A sync that had not returned promises nothing, and a step that had not begun has done
    nothing."""
    steps = follow(wrote(4, b"more"), Step(Do.SYNC, 0, file=1))
    assert steps.check({"f": b"old!"}, 4) == 2  # the sync had begun
    with pytest.raises(AssertionError):
        steps.check({"f": b"old!"}, 5)
    with pytest.raises(AssertionError):
        steps.check({"f": b"old!more"}, 2)
