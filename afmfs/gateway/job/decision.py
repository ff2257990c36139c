"""What is decided about an object before anything of it is done, as it is kept with its row."""

from __future__ import annotations

import json
from typing import NamedTuple

from afmfs.model.action import Place
from afmfs.model.ranges import Ranges
from afmfs.model.resync import Do


class Aside(NamedTuple):
    """Something that is moved to home's trash."""

    place: Place
    number: int  # in the trash
    why: str
    path: bytes  # below home's root
    kind: int
    size: int


class Decision(NamedTuple):
    """What is done about one object, as it was decided."""

    do: Do
    at: Place | None = None  # the name under which it is made, or was found
    null: Ranges = ()
    asides: tuple[Aside, ...] = ()

    def dump(self) -> str:
        at = None if self.at is None else [self.at[0], self.at[1].hex()]
        asides = [
            [a.place[0], a.place[1].hex(), a.number, a.why, a.path.hex(), a.kind, a.size]
            for a in self.asides
        ]
        return json.dumps([self.do, at, self.null, asides])

    @classmethod
    def load(cls, text: str) -> Decision:
        do, at, null, asides = json.loads(text)
        return cls(
            Do(do),
            None if at is None else (at[0], bytes.fromhex(at[1])),
            tuple((a, b) for a, b in null),
            tuple(
                Aside((parent, bytes.fromhex(name)), number, why, bytes.fromhex(path), kind, size)
                for parent, name, number, why, path, kind, size in asides
            ),
        )
