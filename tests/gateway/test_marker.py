from __future__ import annotations

import json
import os
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from afmfs.gateway.home import marker
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Claim, Forbidden, Marker
from afmfs.gateway.home.trouble import HomeAway

ELSEWHERE = {"host": "there", "cache": "/other"}


def path(root: Path) -> Path:
    return root / ".afm" / "home.json"


def test_a_first_mount_makes_it(home: Home, root: Path, ours: Marker) -> None:
    assert marker.claim(home, Claim(ours, first=True)) == ours
    assert marker.read(home) == ours
    assert stat.S_IMODE((root / ".afm").stat().st_mode) == 0o700
    assert stat.S_IMODE(path(root).stat().st_mode) == 0o600
    assert os.listdir(root / ".afm") == ["home.json"]
    written = json.loads(path(root).read_bytes())
    assert (written["schema"], written["fileset"]) == (marker.SCHEMA, "work")


def test_not_in_what_is_the_caches_own_by_whatever_links(root: Path, ours: Marker) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    with closing(Home(os.fsencode(link))) as home:
        for place in (root, root / "sub/cache", root.parent):
            with pytest.raises(Forbidden, match="in, or has in it"):
                marker.claim(home, Claim(ours, first=True, ours_alone=(str(place),)))
        assert os.listdir(root) == []
        beside = Claim(ours, first=True, ours_alone=(f"{root}-cache",))
        assert marker.claim(home, beside) == ours


@pytest.mark.parametrize("takeover", [False, True])
def test_without_it_home_is_not_mounted(
    home: Home, root: Path, ours: Marker, takeover: bool
) -> None:
    (root / "data").touch()
    with pytest.raises(HomeAway, match="same path: `failover --new-target /") as caught:
        marker.claim(home, Claim(ours, takeover=takeover))
    assert caught.value.state == "Unmounted"
    assert os.listdir(root) == ["data"]


def test_the_next_mount_raises_it(home: Home, ours: Marker) -> None:
    marker.claim(home, Claim(ours, first=True))
    later = replace(ours, counter=2, token="token-2")
    assert marker.claim(home, Claim(later, tokens={"token-1", "token-2"})) == later
    assert marker.read(home) == later


def test_a_connection_made_again_writes_nothing(home: Home, root: Path, ours: Marker) -> None:
    marker.claim(home, Claim(ours, first=True))
    before = path(root).stat()
    assert marker.claim(home, Claim(ours)) == ours
    # a gateway that was started again within the same mount
    again = replace(ours, token="token-1b")
    assert marker.claim(home, Claim(again, tokens={"token-1", "token-1b"})) == ours
    assert path(root).stat() == before or path(root).stat().st_ino == before.st_ino


def test_another_caches_home(home: Home, ours: Marker) -> None:
    theirs = Marker("identity-2", "play", 9, "token-9", ELSEWHERE)
    marker.claim(home, Claim(theirs, first=True))
    for first in (False, True):
        with pytest.raises(Forbidden) as caught:
            marker.claim(home, Claim(ours, first=first))
        assert "play" in caught.value.reason
        assert "/other on there" in caught.value.reason
        assert "takeover" in caught.value.hint
    assert marker.read(home) == theirs
    assert marker.claim(home, Claim(ours, takeover=True)) == ours
    assert marker.read(home) == ours


def test_an_old_copy_by_its_counter(home: Home, ours: Marker) -> None:
    marker.claim(home, Claim(replace(ours, counter=5), first=True))
    with pytest.raises(Forbidden, match="old copy"):
        marker.claim(home, Claim(replace(ours, counter=4, token="x")))
    taken = replace(ours, counter=4, token="x")
    assert marker.claim(home, Claim(taken, takeover=True)) == taken


def test_an_old_copy_that_was_mounted_as_often(home: Home, ours: Marker) -> None:
    marker.claim(home, Claim(replace(ours, counter=5, owner=ELSEWHERE), first=True))
    with pytest.raises(Forbidden, match="old copy"):
        marker.claim(home, Claim(replace(ours, counter=5, token="x")))


def test_a_copy_is_known_by_its_token_however_often_it_was_mounted(
    home: Home, ours: Marker
) -> None:
    """Refused mounts raise the counter too; that must not let the copy in."""
    marker.claim(home, Claim(replace(ours, counter=5, token="newer"), first=True))
    copy = replace(ours, counter=50, token="mine")
    with pytest.raises(Forbidden, match="old copy"):
        marker.claim(home, Claim(copy, tokens={"token-4", "mine"}))


def test_killed_before_or_after_the_write(home: Home, ours: Marker) -> None:
    """Both tokens are durable by then: either may be at home."""
    marker.claim(home, Claim(ours, first=True))
    second = replace(ours, counter=2, token="token-2")
    third = replace(ours, counter=3, token="token-3")
    assert marker.claim(home, Claim(third, tokens={"token-1", "token-2", "token-3"})) == third
    assert marker.claim(home, Claim(third, tokens={"token-2", "token-3"})) == third
    with pytest.raises(Forbidden):
        marker.claim(home, Claim(second, tokens={"token-1", "token-2"}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 1, "identity": 7, "fileset": "f", "counter": 1, "token": "t", "owner": {}}',
        b'{"schema": 1, "identity": "i", "fileset": "f", "counter": "x", "token": "", "owner": {}}',
        b'{"schema": 1, "identity": "i", "fileset": "f", "counter": 1, "token": "t", "owner": 3}',
        b"[" * 100_000,
    ],
)
def test_garbage(home: Home, root: Path, ours: Marker, raw: bytes) -> None:
    (root / ".afm").mkdir()
    path(root).write_bytes(raw)
    with pytest.raises(Forbidden, match="damaged"):
        marker.claim(home, Claim(ours, first=True))
    assert path(root).read_bytes() == raw
    assert marker.claim(home, Claim(ours, takeover=True)) == ours


def test_of_a_later_version(home: Home, root: Path, ours: Marker) -> None:
    (root / ".afm").mkdir()
    path(root).write_bytes(b'{"schema": 99, "who": "knows"}')
    with pytest.raises(Forbidden, match="later version"):
        marker.claim(home, Claim(ours))


def test_symlinks_are_refused(home: Home, root: Path, tmp_path: Path, ours: Marker) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "home.json").write_bytes(ours.encode())
    (root / ".afm").symlink_to(outside)
    for wish in (Claim(ours), Claim(ours, first=True), Claim(ours, takeover=True)):
        with pytest.raises(Forbidden, match="not a directory"):
            marker.claim(home, wish)
    (root / ".afm").unlink()
    (root / ".afm").mkdir()
    path(root).symlink_to(outside / "home.json")
    with pytest.raises(Forbidden, match="no regular file"):
        marker.claim(home, Claim(ours))
    assert os.listdir(outside) == ["home.json"]
    assert (outside / "home.json").read_bytes() == ours.encode()


def test_a_fifo_never_blocks(home: Home, root: Path, ours: Marker) -> None:
    (root / ".afm").mkdir()
    os.mkfifo(path(root))
    with pytest.raises(Forbidden, match="no regular file"):
        marker.claim(home, Claim(ours))


def test_after_a_kill_in_the_middle(home: Home, root: Path, ours: Marker) -> None:
    (root / ".afm").mkdir()
    (root / ".afm" / "home.json.new").write_text("half")
    assert marker.claim(home, Claim(ours, first=True)) == ours
    assert os.listdir(root / ".afm") == ["home.json"]


def test_two_first_mounts_at_once(
    home: Home, ours: Marker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds a marker that was not there when it looked."""
    theirs = replace(ours, identity="identity-2")
    marker.claim(home, Claim(theirs, first=True))
    monkeypatch.setattr(marker, "read", lambda home: None)
    with pytest.raises(FileExistsError):
        marker.claim(home, Claim(ours, first=True))
    monkeypatch.undo()
    assert marker.read(home) == theirs
