"""The troubles of a home: how each is made, and how it ends.

The README has a row for each, under the same name: the state that is shown, what the message says
and the way out; `readme_rows` reads them from there, so that what is promised is what is tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.harness.mounting import REPOSITORY, Mount, wait_until
from tests.troubles import homes
from tests.troubles.scene import flush, say, work

Act = Callable[[Any, Mount], object]
"""Something that is done to a home (of the trouble's own kind) and its mount."""


@dataclass(frozen=True)
class Trouble:
    name: str
    home: type[homes.Home]
    strike: Act
    cure: Act
    refused: bool = False  # a mount is refused as long as it lasts
    stuck: bool = False  # a gateway may be left behind, until it is over


@dataclass(frozen=True)
class Promise:
    """A row of the README's table."""

    state: str
    words: list[str]  # of the message
    uncached: str  # what becomes of a read of what is not cached
    way_out: str


def readme_rows() -> dict[str, Promise]:
    text = (REPOSITORY / "README.md").read_text()
    section = text.partition("\n## Troubles and ways out\n")[2].partition("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 5 and cells[0] != "home":
            name, state, message, uncached, way_out = cells
            rows[name] = Promise(state, re.findall("`([^`]+)`", message), uncached, way_out)
    return rows


def _say(command: str) -> Act:
    return lambda home, mount: say(mount, command)


def _fail_over(home: homes.Home, mount: Mount) -> None:
    say(mount, f"failover --new-target {home.target}")


def _then_resume(cure: Callable[[Any], object]) -> Act:
    def act(home: homes.Home, mount: Mount) -> None:
        cure(home)
        say(mount, "resumeRequeued")

    return act


def _only(act: Callable[[Any], object]) -> Act:
    return lambda home, mount: act(home)


def _wipe(home: homes.Home, mount: Mount) -> None:
    for path in mount.point.glob("*/old*"):
        path.read_bytes()  # what nobody has afterwards would be missing for good
    home.wipe()


def _restore_older(home: homes.Home, mount: Mount) -> None:
    home.copy()
    work(mount.point, 0)
    flush(mount)
    home.put_snapshot()


def _change_in_between(home: homes.Faulty, mount: Mount) -> None:
    home.fs.set(delay=0.02)
    work(mount.point, 0)
    wait_until(lambda: mount.status()["executing"], 20, "a replay runs")
    home.change()
    home.fs.set()


TROUBLES = [
    Trouble(
        "away", homes.Home, _only(homes.Home.put_aside), _only(homes.Home.put_back)
    ),
    Trouble(
        "not mounted", homes.Bound, _only(homes.Bound.unmount), _only(homes.Bound.mount)
    ),
    Trouble("wiped", homes.Home, _wipe, _fail_over),
    Trouble(
        "replaced", homes.Home, _only(homes.Home.replace), _only(homes.Home.put_back),
        refused=True,
    ),
    Trouble("slow", homes.Faulty, _only(homes.Faulty.be_slow), _only(homes.Faulty.be_well)),
    Trouble(
        "hung", homes.Remote, _only(homes.Remote.hang), _only(homes.Remote.answer), stuck=True
    ),
    Trouble(
        "frozen", homes.OnDisk, _only(homes.OnDisk.freeze), _only(homes.OnDisk.thaw), stuck=True
    ),
    Trouble("dead", homes.Faulty, _only(homes.Faulty.die), _only(homes.Faulty.mount_again)),
    Trouble("stale", homes.Faulty, _only(homes.Faulty.be_stale), _only(homes.Faulty.be_well)),
    Trouble("failing", homes.Faulty, _only(homes.Faulty.fail), _only(homes.Faulty.be_well)),
    Trouble(
        "a bad sector", homes.Faulty, _only(homes.Faulty.lose_sector),
        _then_resume(homes.Faulty.be_well),
    ),
    Trouble("closed", homes.Faulty, _only(homes.Faulty.shut_out), _only(homes.Faulty.be_well)),
    Trouble(
        "read-only", homes.OnDisk, _only(homes.OnDisk.make_read_only),
        _then_resume(homes.OnDisk.make_writable),
    ),
    Trouble(
        "full", homes.OnDisk, _only(homes.OnDisk.fill_up), _then_resume(homes.OnDisk.make_room)
    ),
    Trouble(
        "out of inodes", homes.OnSmallDisk, _only(homes.OnSmallDisk.fill_up),
        _then_resume(homes.OnSmallDisk.make_room),
    ),
    Trouble(
        "out of quota", homes.Faulty, _only(homes.Faulty.exceed_quota),
        _then_resume(homes.Faulty.be_well),
    ),
    Trouble(
        "permission lost", homes.OnDisk, _only(homes.OnDisk.take_permission),
        _then_resume(homes.OnDisk.give_permission),
    ),
    Trouble("changed", homes.Faulty, _change_in_between, _say("resync --keep-uncached")),
    Trouble("an older snapshot", homes.Home, _restore_older, _say("resync --keep-uncached")),
]  # fmt: skip
