from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.cache.command import commands
from afmfs.cache.command.command_line import parse, relative, seconds
from afmfs.cache.command.commands import TABLE, execute, refusal
from afmfs.errors import AfmError, Refused, UnknownCommand
from tests.admin.fake import FakeFileset


async def _reply(line: str, **status: Any) -> tuple[str, FakeFileset]:
    fileset = FakeFileset(**status)
    head, _, text = (await execute(fileset, line)).partition("\n")
    assert head == line.strip()
    return text, fileset


@pytest.mark.parametrize(
    ("line", "text", "calls"),
    [
        ("flushPending\n", "flushPending: through 42\n", ["touch", "flush"]),
        ("flushPending --wait --timeout 3\n", "flushPending: through 42\n", ["touch", "flush"]),
        ("resumeRequeued", "resumeRequeued: 1 entry is tried again\n", ["touch", "resume"]),
        ("drop 7", "drop: entry 7 is gone and will never reach home\n", ["touch", ("drop", 7)]),
        ("queue", '{"id": 0}\n', ["touch"]),
        ("events", "T afmStarted\n", ["touch"]),
    ],
)
async def test_commands(line: str, text: str, calls: list[Any]) -> None:
    found, fileset = await _reply(line)
    assert (found, fileset.calls) == (text, calls)


@pytest.mark.parametrize("name", ["start", "stop"])
@pytest.mark.parametrize("state", ["Stopped", "QueueOnly", "Unmounted", "Dirty", "Inactive"])
async def test_stop_and_start_in_any_state(name: str, state: str) -> None:
    _, fileset = await _reply(name, state=state)
    assert fileset.calls == ["touch", name]


async def test_getstate_activates_nothing() -> None:
    table, fileset = await _reply("getstate", state="Inactive")
    assert table.splitlines()[2].split() == ["sw1", "/home", "Inactive", "gw", "0", "0"]
    text, _ = await _reply("getstate --json")
    assert json.loads(text)["fileset"] == "sw1"
    assert fileset.calls == []
    assert [c.name for c in TABLE.values() if not c.activates] == ["getstate"]


@pytest.mark.parametrize(
    ("path", "ino"),
    [
        ("'dir/a file'", 17),
        ("/mnt/sw1/dir/a\\ file", 17),
        ("./dir/../dir//'a file'", 17),
        ("'dir/\udcff\n'", 18),
        ("/mnt/sw1", 1),
        (".", 1),
        ("-- dir", 16),
    ],
)
async def test_cached(path: str, ino: int) -> None:
    reply = await execute(FakeFileset(), f"cached --json {path}\n")
    head, text = reply.splitlines()
    assert head.startswith("cached --json ")
    assert json.loads(text)["size"] == ino


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("cached nowhere", errno.ENOENT),
        ("cached ''", errno.ENOENT),
        ("cached ../etc", errno.EINVAL),
        ("cached /mnt/sw10/dir", errno.EINVAL),
        ("cached /mnt/sw1/../x", errno.EINVAL),
        ("cached", errno.EINVAL),
        ("cached a b", errno.EINVAL),
        ("cached 'a", errno.EINVAL),
        ("", errno.EINVAL),
        ("getState", errno.EINVAL),
        ("stop now", errno.EINVAL),
        ("stop --force", errno.EINVAL),
        ("drop x", errno.EINVAL),
        ("drop 0", errno.EINVAL),
        ("drop 8", errno.EBUSY),
        ("flushPending --timeout", errno.EINVAL),
        ("flushPending --timeout soon", errno.EINVAL),
        ("help nothing", errno.EINVAL),
    ],
)
async def test_refused(line: str, code: int) -> None:
    with pytest.raises(AfmError) as caught:
        await execute(FakeFileset(), line)
    assert caught.value.errno == code
    assert refusal(line, caught.value) == f"{line}\n{caught.value}\n"


@pytest.mark.parametrize(
    ("line", "state", "code"),
    [
        ("flushPending", "Stopped", errno.EBUSY),
        ("resumeRequeued", "Stopped", errno.EBUSY),
        ("flushPending", "Disconnected", errno.EHOSTDOWN),
        ("resumeRequeued", "Unmounted", errno.EHOSTDOWN),
    ],
)
async def test_refused_by_state(line: str, state: str, code: int) -> None:
    fileset = FakeFileset(state=state, reason="because")
    with pytest.raises(Refused, match="because") as caught:
        await execute(fileset, line)
    assert caught.value.errno == code
    assert fileset.calls == []


@pytest.mark.parametrize("line", ["flushPending", "resumeRequeued"])
async def test_needs_resync_refuses_what_can_not_start_the_resync(line: str) -> None:
    fileset = FakeFileset(state="NeedsResync", reason="because", auto_resync=False)
    with pytest.raises(Refused, match="NeedsResync: because: `resync` first") as caught:
        await execute(fileset, line)
    assert (caught.value.errno, fileset.calls) == (errno.EBUSY, [])
    _, fileset = await _reply(line, state="NeedsResync")
    assert len(fileset.calls) == 2


@pytest.mark.parametrize("word", ["expire", "unexpire", "failback", "prefetch"])
async def test_later_words_of_afm_are_not_supported_yet(word: str) -> None:
    with pytest.raises(AfmError, match=f"^{word} is not supported yet$") as caught:
        await execute(FakeFileset(), f"{word} -j sw1")
    assert caught.value.errno == errno.EOPNOTSUPP


async def test_refused_by_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    only_iw = replace(TABLE["stop"], modes=frozenset({"iw"}))
    monkeypatch.setattr(commands, "TABLE", {"stop": only_iw})
    with pytest.raises(Refused) as caught:
        await execute(FakeFileset(), "stop")
    assert caught.value.errno == errno.EPERM


async def test_an_error_of_the_cache_keeps_its_errno(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FakeFileset) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(FakeFileset, "stop", full)
    with pytest.raises(AfmError, match="No space left") as caught:
        await execute(FakeFileset(), "stop")
    assert caught.value.errno == errno.ENOSPC


def test_an_unknown_command_names_close_ones() -> None:
    with pytest.raises(UnknownCommand, match="did you mean flushPending"):
        parse(TABLE, "flushpending")
    with pytest.raises(UnknownCommand, match="`help` lists"):
        parse(TABLE, "xyzzy")


async def test_a_long_queue_is_cut_and_says_so() -> None:
    fileset = FakeFileset()
    fileset.pending = commands.QUEUE_LINES + 1
    lines = (await execute(fileset, "queue")).splitlines()[1:]
    assert len(lines) == commands.QUEUE_LINES + 1
    assert "more" in json.loads(lines[-1])


async def test_help_names_every_command() -> None:
    text, _ = await _reply("help")
    assert all(f"  {command.syntax}  " in text for command in TABLE.values())
    for name in TABLE:
        assert (await _reply(f"help {name}"))[0].startswith(TABLE[name].syntax)


@given(st.text(st.sampled_from("ab./\udcff"), max_size=12), st.sampled_from(["", "/m", "/"]))
def test_relative_never_leaves_the_root(path: str, mount_point: str) -> None:
    try:
        names = relative(path, mount_point)
    except UnknownCommand:
        return
    assert not {"", ".", ".."} & set(names)
    assert not any("/" in name for name in names)


def test_seconds() -> None:
    assert seconds("1.5") == 1.5
    for bad in ("-1", "nan", "inf", "x", ""):
        with pytest.raises(UnknownCommand):
            seconds(bad)
