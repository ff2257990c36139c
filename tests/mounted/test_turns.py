"""The main loop's short cuts: nothing that waits holds up another, no task is starved."""

from __future__ import annotations

import concurrent.futures
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mount.turns import LONGEST_RUN, Readiness, ReadLock
from tests.harness.mounting import wait_until
from tests.mounted.conftest import Adapter


@pytest.fixture
async def lock() -> ReadLock:
    one = ReadLock()
    trio.lowlevel.add_instrument(one)
    return one


async def test_one_holder_at_a_time_in_the_order_of_coming(lock: ReadLock) -> None:
    holders: list[int] = []

    async def hold(number: int) -> None:
        async with lock:
            holders.append(number)
            await trio.testing.wait_all_tasks_blocked()
            assert holders[-1] == number

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(hold, number)
            await trio.lowlevel.checkpoint()
    assert holders == sorted(holders)


async def test_who_lets_go_may_take_it_again_until_it_waits(lock: ReadLock) -> None:
    """A handler that waits lets the next task read."""
    order: list[str] = []

    async def other() -> None:
        async with lock:
            order.append("other")

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
        async with lock:
            order.append("again")
        await trio.testing.wait_all_tasks_blocked()
        order.append("after waiting")
    assert order == ["again", "other", "after waiting"]


async def test_a_cancelled_waiter_leaves_and_a_cancelled_holder_lets_go(lock: ReadLock) -> None:
    async def hold() -> None:
        async with lock:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            async with lock:
                raise AssertionError("two holders")
        nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        async with lock:
            pass


@pytest.fixture
def readable() -> Iterator[int]:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    yield reader
    os.close(reader)
    os.close(writer)


async def test_others_get_their_turn_under_load(readable: int) -> None:
    readiness, turns, rounds = Readiness(), 0, LONGEST_RUN * 10

    async def another() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        for _ in range(rounds):
            await readiness.wait(readable)
        nursery.cancel_scope.cancel()
    assert turns >= 5


async def test_it_waits_for_what_is_not_readable() -> None:
    reader, writer = os.pipe()
    try:
        with trio.move_on_after(0.05) as scope:
            await Readiness().wait(reader)
        assert scope.cancelled_caught
        assert not select.select([reader], [], [], 0)[0]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.mounted
def test_requests_that_wait_do_not_hold_up_others(adapter: Adapter) -> None:
    adapter.start()
    stuck = adapter.point / "never-ends"
    stuck.write_bytes(b"x" * 100_000)
    readers = [
        subprocess.Popen(
            ["dd", f"if={stuck}", "iflag=direct", "bs=4096", f"skip={number}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(20)
    ]

    def work(number: int) -> int:
        place = adapter.point / str(number)
        place.mkdir()
        for name in range(100):
            (place / str(name)).touch()
            os.rename(place / str(name), place / f"{name}-new")
        return len(os.listdir(place))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [100] * 8
    # The connection is cut: nobody waits for these requests, so they don't hold the end.
    subprocess.run(["umount", "-f", adapter.point], check=False, capture_output=True)
    for reader in readers:
        reader.wait(10)
    wait_until(lambda: "unmounted" in adapter.log, 5, "ended")


def test_the_short_cut_is_still_possible() -> None:
    """pyfuse3 looks its trio up where its asyncio mode replaces it."""
    import pyfuse3
    import pyfuse3.asyncio

    assert pyfuse3.trio is trio  # type: ignore[attr-defined]
    assert "pyfuse3.trio = " in Path(pyfuse3.asyncio.__file__).read_text()
