"""Fewer turns of the scheduler for each request.

pyfuse3 reads the kernel's requests in several tasks that pass one lock around, and waits for the
next request through trio. Each passing and each waiting is a turn of trio's scheduler, with system
calls of its own, also where the next request is there already and the next handler will not wait
for anything. Here the task that has answered a request goes on to the next, and another one takes
over as soon as a handler does wait. Measured on 2 cores before a fileset in memory: a null
operation 16 us in place of 39, create + write + close 81 in place of 222, at less than half the
CPU time.

The replacements go in where pyfuse3's own asyncio mode puts its.
"""

from __future__ import annotations

import os
import select
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pyfuse3
import trio

LONGEST_RUN = 32
"""Requests answered one after the other before every other task gets its turn: a few ms."""

LOOKS = 16 if len(os.sched_getaffinity(0)) > 1 else 0
"""Looks for a next request after an answer, about 1 us each, before the task goes to sleep. A
program that does one operation after the other comes back within them; waking up costs more."""


QUIET = 0.05  # s without a request after which the kernel has said what it had to say


class ReadLock(trio.abc.Instrument):
    """Held by the task that reads. Free while its request is being handled.

    INVARIANT: when the scheduler runs, the lock is held if any task wants it. Letting go of it
    wakes nobody; `after_task_step` does, when the handler has to wait for something.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        task = trio.lowlevel.current_task()
        self._waiting[task] = None

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def __aexit__(self, *_error: object) -> None:
        self._held = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._waiting and not self._held:
            self._held = True
            heir, _ = self._waiting.popitem(last=False)
            trio.lowlevel.reschedule(heir)


class Readiness:
    """Wait for the kernel's descriptor to become readable, without a turn where it is soon."""

    def __init__(self) -> None:
        self._fd = -1
        self._known = trio.Event()
        self._poll = select.poll()
        self._run = 0
        self._waits = 0

    async def wait(self, fd: int) -> None:
        if fd != self._fd:
            self._fd, self._poll = fd, select.poll()
            self._poll.register(fd, select.POLLIN)
            self._known.set()
        self._run += 1
        self._waits += 1
        if self._run < LONGEST_RUN:
            poll = self._poll.poll
            for _ in range(LOOKS):
                if poll(0):
                    return
        self._run = 0
        await trio.lowlevel.wait_readable(fd)

    async def quiet(self) -> None:
        """Return when no request has come for a while."""
        before = -1
        while before != self._waits:
            before = self._waits
            await trio.sleep(QUIET)

    async def ended(self) -> None:
        """Return when the kernel has closed the connection, whoever is reading or not."""
        await self._known.wait()
        with select.epoll() as errors:
            errors.register(self._fd, 0)  # requests are none, errors are always reported
            await trio.lowlevel.wait_readable(errors.fileno())


@contextmanager
def saved() -> Iterator[Readiness]:
    """Inside, pyfuse3's main loop runs so."""
    lock, readiness = ReadLock(), Readiness()
    original = pyfuse3.trio  # type: ignore[attr-defined]  # not in its stubs
    trio.lowlevel.add_instrument(lock)
    pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
        Lock=lambda: lock,
        ClosedResourceError=trio.ClosedResourceError,
        open_nursery=trio.open_nursery,
        lowlevel=SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=readiness.wait,
        ),
    )
    try:
        yield readiness
    finally:
        pyfuse3.trio = original  # type: ignore[attr-defined]
        trio.lowlevel.remove_instrument(lock)
