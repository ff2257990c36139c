"""The words of `evict`, and how afmctl hands over long lists."""

from __future__ import annotations

import errno
import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.admin.evict import _batches
from afmfs.cache.command.commands import TABLE, execute
from afmfs.cache.command.evict import MOST_PATHS
from afmfs.cache.evict.evict import Evicted, Run
from afmfs.errors import AfmError
from afmfs.model.selection import Order, Selection
from tests.admin.fake import FakeFileset


class FakeEvictions:
    """Frees 10 bytes of each file; of inode 18 there are pending changes."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def evict(self, inos: list[int]) -> list[Evicted]:
        self.calls.append(inos)
        return [
            Evicted(ino, 0, "pending changes") if ino == 18 else Evicted(ino, 10) for ino in inos
        ]

    async def settle(self) -> None:
        pass

    def start(self, limit: int, selection: Selection) -> Run:
        self.calls.append((limit, selection))
        return Run(1, limit)

    def shown(self) -> dict[str, Any]:
        return {"number": 1}


async def reply(line: str) -> tuple[str, list[Any]]:
    fileset = FakeFileset()
    fileset.evictions = evictions = FakeEvictions()  # type: ignore[assignment]
    _, _, text = (await execute(fileset, line)).partition("\n")
    return text, evictions.calls


async def test_files() -> None:
    text, calls = await reply("evict --file 'dir/a file'")
    assert (text, calls) == ("evict: 1 file, 10 bytes freed\n", [[17]])
    text, calls = await reply("evict --file dir --file=missing 'dir/a file' dir 'dir/\udcff\n'")
    assert calls == [[16, 17, 18]]
    assert text.splitlines() == [
        "missing: No such file or directory",
        "dir/\udcff",
        ": pending changes",
        "evict: 2 files, 20 bytes freed, 2 stay as they are",
    ]


async def test_files_as_json() -> None:
    text, _ = await reply("evict --json --file dir missing")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"path": "dir", "freed": 10, "kept": ""},
        {"path": "missing", "freed": 0, "kept": "No such file or directory"},
    ]


async def test_down_to_a_limit() -> None:
    text, calls = await reply("evict --safe-limit 1K --order SIZE --filter FILENAME=a --json")
    assert json.loads(text) == {"number": 1}
    assert calls == [(1024, Selection(Order.SIZE, b"a"))]
    text, _ = await reply("evict --safe-limit=0")
    assert "in the background" in text


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("evict", errno.EINVAL),
        ("evict dir", errno.EINVAL),
        ("evict --file dir --safe-limit 1", errno.EINVAL),
        ("evict --list-file /etc/passwd", errno.EINVAL),
        ("evict --safe-limit 1 dir", errno.EINVAL),
        ("evict --safe-limit 1 --safe-limit 2", errno.EINVAL),
        ("evict --safe-limit much", errno.EINVAL),
        ("evict --safe-limit 1 --order MRU", errno.EINVAL),
        ("evict --safe-limit 1 --filter a", errno.EINVAL),
        ("evict --file dir --order LRU", errno.EINVAL),
        (f"evict --file {'dir ' * (MOST_PATHS + 1)}", errno.EINVAL),
        ("evict --file missing", errno.ENOENT),
        ("evict --file 'dir/\udcff\n'", errno.EBUSY),
    ],
)
async def test_refused(line: str, code: int) -> None:
    with pytest.raises(AfmError) as caught:
        await reply(line)
    assert caught.value.errno == code


def test_syntax() -> None:
    assert TABLE["evict"].syntax == (
        "evict [--json] [--file PATH]... [--list-file FILE] [--safe-limit BYTES]"
        " [--order LRU|SIZE] [--filter ATTR=VALUE]... [PATH...]"
    )


@given(st.lists(st.text(st.sampled_from("a'\udcff\n"), min_size=1, max_size=5000), max_size=120))
def test_batches_fit_the_control_file(paths: list[str]) -> None:
    batches = list(_batches(paths))
    assert [path for batch in batches for path in batch] == paths
    for batch in batches:
        line = shlex.join(["evict", "--json", f"--file={batch[0]}", "--", *batch[1:]])
        assert len(batch) <= MOST_PATHS
        assert len(batch) == 1 or len(line.encode("utf-8", "surrogateescape")) < 32 << 10
