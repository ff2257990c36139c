"""A gateway that only looks whether a home can be had."""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.gateway import Gateway
from afmfs.gateway.protocol import Message, ProtocolError

Look = Callable[..., Message]


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Look]:
    """What a scout says first of `target`."""
    cache = tmp_path / "cache"
    cache.mkdir()

    def look(target: Path, **changes: Any) -> Message:
        said: queue.Queue[Message] = queue.Queue()
        gateway = Gateway(cache, 0, lambda message, fds: said.put(message))
        gateway.start()
        hello = {
            "type": "hello", "identity": "i", "target": str(target), "counter": 3, "token": "t",
            "tokens": ["s", "t"], "first": True, "owner": {}, "block_size": 4096, "cache": "",
            "tunables": {}, "survey": True,
        } | changes  # fmt: skip
        gateway.receive(hello)
        with pytest.raises(ProtocolError, match="only looks"):
            gateway.receive({"type": "wake"})
        try:
            while (found := said.get(timeout=20))["type"] == "alive":
                pass  # a sign of life of a slow home
            return found
        finally:
            assert gateway.stop(20)

    yield look
    assert not list(cache.iterdir()), "it keeps nothing in the cache"


def test_nobodys_becomes_ours(look: Look, root: Path) -> None:
    (root / "f").touch()
    os.utime(root, ns=(5, 7))
    found = look(root)
    assert root.stat().st_mtime_ns == 7
    assert found["type"] == "connected"
    assert found["statvfs"]["blocks"]
    marker = json.loads((root / ".afm/home.json").read_bytes())
    assert (marker["identity"], marker["token"]) == ("i", "t")
    assert look(root, first=False)["type"] == "connected"


def test_ours_from_before_is_ours(look: Look, root: Path) -> None:
    look(root, token="s", counter=1)
    assert look(root, tokens=["t"])["type"] == "refused"  # somebody has used it since
    assert look(root)["type"] == "connected"


def test_nobodys_is_refused_and_left_alone_where_it_has_to_be_ours(look: Look, root: Path) -> None:
    found = look(root, first=False)
    assert (found["type"], found["state"]) == ("away", "Unmounted")
    assert not list(root.iterdir())


def test_anothers_is_refused(look: Look, root: Path) -> None:
    look(root, identity="another")
    before = (root / ".afm/home.json").read_bytes()
    found = look(root)
    assert found["type"] == "refused"
    assert "belongs to" in found["reason"]
    assert (root / ".afm/home.json").read_bytes() == before


def test_what_is_not_there_is_not_made(look: Look, root: Path) -> None:
    assert look(root / "none")["state"] == "Unmounted"
    assert not list(root.iterdir())
