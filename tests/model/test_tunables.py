"""The option table: what is accepted, dropped, refused, and what a cache remembers of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.model.tunables import TABLE, BadOption, MountOptions, Tunables, describe, parse, split


def test_own_options() -> None:
    found = parse(["cache=/c,fileset=f,device=d", "block_size=64K,takeover,allow_other,ro"])
    assert found == MountOptions(
        Path("/c"), "f", "d", 64 << 10, takeover=True, allow_other=True, ro=True
    )


@pytest.mark.parametrize(
    "text, name, value",
    [
        ("async_delay=3", "async_delay", 3.0),
        ("afmAsyncDelay=15", "async_delay", 15.0),
        ("afmasyncdelay=0", "async_delay", 0.0),
        ("async-delay=1.5s", "async_delay", 1.5),
        ("afmNumFlushThreads=4", "flush_threads", 4),
        ("afmPrefetchThreshold=100", "prefetch_threshold", 100),
        ("home_sync=none", "home_sync", "none"),
        ("xattrs", "xattrs", True),
        ("noxattrs", "xattrs", False),
        ("writeback=no", "writeback", False),
        ("auto_resync=off", "auto_resync", False),
        ("noauto_resync", "auto_resync", False),
        ("home_timeout=0.5", "home_timeout", 0.5),
    ],
)
def test_tunables_and_their_synonyms(text: str, name: str, value: object) -> None:
    assert dict(parse([text]).tunables) == {name: value}


@pytest.mark.parametrize(
    "text, size",
    [("4096", 4096), ("4k", 4096), ("1M", 1 << 20), ("16MiB", 16 << 20), ("1024K", 1 << 20)],
)
def test_block_sizes(text: str, size: int) -> None:
    assert parse([f"block_size={text}"]).block_size == size


@pytest.mark.parametrize("text", ["0", "4095", "3M", "32M", "-4096", "1G", "", "K", "4096x"])
def test_no_block_sizes(text: str) -> None:
    with pytest.raises(BadOption, match="power of two|needs a value"):
        parse([f"block_size={text}"])


def test_generic_options_are_passed_on_or_dropped() -> None:
    found = parse(
        [
            "rw,nosuid,nodev,noexec,cache=/c,user,_netdev,nofail,noauto,auto,users,owner,group",
            "defaults,comment=x,x-systemd.automount,x-systemd.requires-mounts-for=/a,relatime",
            "user=somebody,noatime,suid",
        ]
    )
    assert found == MountOptions(Path("/c"), kernel=("nodev", "noexec", "noatime", "suid"))
    assert parse(["ro,rw"]).ro is False


@pytest.mark.parametrize(
    "text, hint",
    [
        ("cahce=/c", "did you mean cache"),
        ("afmAsyncDelays=3", "did you mean afmAsyncDelay"),
        ("nosiud", "did you mean nosuid"),
        ("frobnicate", "the options are cache, "),
        ("remount", "unmount, then mount"),
        ("auto_unmount", "dead"),
        ("cache", "needs a value: cache=DIR"),
        ("async_delay=soon", "seconds from 0"),
        ("async_delay=-1", "seconds from 0"),
        ("flush_threads=0", "from 1 to 1024"),
        ("afmPrefetchThreshold=101", "from 0 to 100"),
        ("home_sync=maybe", "batch, file, none"),
        ("xattrs=perhaps", "yes or no"),
        ("xattrs=", "has no value"),
        ("nocache", "did you mean"),
        ("device=a b", "letters, digits"),
        ("fileset=a/b", "letters, digits"),
        ("fileset=..", "letters, digits"),
        ("=x", "unknown option"),
    ],
)
def test_errors_say_what_would_be_right(text: str, hint: str) -> None:
    with pytest.raises(BadOption, match=hint):
        parse([text])


def test_the_last_word_holds_and_is_warned_of() -> None:
    found = parse(["async_delay=1", "afmAsyncDelay=2"])
    assert found.tunables == {"async_delay": 2.0}
    assert any("more than once" in warning for warning in found.warnings)


def test_a_threshold_that_does_not_work_yet_is_stored_with_a_warning() -> None:
    found = parse(["afmPrefetchThreshold=0"])
    assert found.tunables == {"prefetch_threshold": 0}
    assert any("only 100" in warning for warning in found.warnings)
    assert not parse(["afmPrefetchThreshold=100"]).warnings


def test_commas_in_values() -> None:
    assert split(r'cache=/a\,b,x,,cache="/c,d"') == ["cache=/a,b", "x", "cache=/c,d"]
    assert parse([r"cache=/back\slash"]).cache == Path(r"/back\slash")


def test_every_tunable_is_in_the_table_and_described() -> None:
    in_table = {one.name for one in TABLE if one.remembered}
    assert in_table == {one.name for one in fields(Tunables)}
    assert all(one.name in describe() for one in TABLE)


def test_what_a_cache_remembers() -> None:
    given_once = Tunables().updated(parse(["async_delay=3,xattrs"]).tunables)
    stored = json.loads(json.dumps(given_once.to_dict()))
    assert Tunables.from_dict(stored) == given_once
    assert Tunables.from_dict({"async_delay": 3.0, "of_tomorrow": 1}) == Tunables(async_delay=3.0)
    assert Tunables.from_dict(stored).updated(parse(["noxattrs"]).tunables).xattrs is False


@given(st.lists(st.text(), max_size=4))
def test_no_text_but_gives_options_or_says_what_is_wrong(lists: list[str]) -> None:
    try:
        parse(lists)
    except BadOption as error:
        assert str(error)
