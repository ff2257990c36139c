"""Faults that somebody could make, each with the tests that turn red by it.

Every one takes something out of the code: its crash, or its other trouble, is then met by a test.
A test that stays green by such a fault protects nothing. Those of the crash rules are listed in
`tests/crash/rules.py`, those of power loss in `tests/power/faults.py`.
"""

from __future__ import annotations

from typing import NamedTuple

RULES = "tests/cache/test_crash_rules.py::"
EVICT = "tests/cache/test_evict.py::"
SEED = "tests/seed/test_seed.py"


class Fault(NamedTuple):
    """`old` becomes `new` in one place of `file`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # names of tests, or of files of them; one of them at least turns red


PLANTED = (
    Fault(
        "a durable point that syncs nothing",
        "afmfs/cache/content/durable.py",
        "                await trio.to_thread.run_sync(self._sync_all)\n",
        "                pass\n",
        ("tests/cache/test_crash_rules.py", "tests/cache/test_evict.py"),
    ),
    Fault(
        "fsync that leaves the bytes in memory",
        "afmfs/cache/content/durable.py",
        "            await self._sync_blob(inode.gen, fd)\n",
        "            pass\n",
        (RULES + "test_fsync_means_it",),
    ),
    Fault(
        "evict what home has lost",
        "afmfs/cache/evict/evict.py",
        "            if inode.ino in lost:\n",
        "            if inode.ino in ():\n",
        (EVICT + "test_what_home_has_lost",),
    ),
    Fault(
        "skip the stamp check",
        "afmfs/gateway/state/versions.py",
        "    return not stamps or any(same(",
        "    return True or any(same(",
        ("tests/gateway/test_inconsistent.py",),
    ),
    Fault(
        "go on after an inconsistency",
        "afmfs/gateway/replay/replay.py",
        "        self._needs_resync = True\n        path = trouble",
        "        path = trouble",
        ("tests/gateway/test_inconsistent.py",),
    ),
    Fault(
        "retire too early",
        "afmfs/gateway/replay/replay.py",
        '        self._landing, self._breaks, self._said = landing, 0, ""\n',
        '        self._landing, self._breaks, self._said = landing, 0, ""\n'
        "        self._record()\n",
        ("tests/gateway/test_crash_rules.py",),
    ),
    Fault(
        "write to a home that is not mounted",
        "afmfs/gateway/home/connection.py",
        "                if home.mount_id() != self.mount:\n",
        "                if home.mount_id() != self.mount and False:\n",
        ("tests/gateway/test_connection.py",),
    ),
    Fault(
        "take another cache's home",
        "afmfs/gateway/home/connection.py",
        "        if (found.identity, found.token) != (self.marker.identity, self.marker.token):\n",
        "        if found.identity == (self.marker.token,):\n",
        ("tests/gateway/test_connection.py",),
    ),
    Fault(
        "follow a symlink out of home",
        "afmfs/gateway/home/walk.py",
        "_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW",
        "_WALK = os.O_PATH | os.O_DIRECTORY",
        ("tests/gateway/test_inconsistent.py", "tests/gateway/test_walk.py"),
    ),
    Fault(
        "keep nothing of what a resync replaces",
        "afmfs/gateway/job/reconcile.py",
        "                moved = move_aside(work.home, self._job.id, aside.number, dirfd, name, "
        "work.pulse)\n",
        "                work.home.unlink(dirfd, name)\n                moved = True\n",
        ("tests/gateway/test_job.py", SEED),
    ),
    Fault(
        "compare times in seconds",
        "afmfs/gateway/home/stamp.py",
        "        and expected.mtime // granularity == found.mtime // granularity\n",
        "        and expected.mtime // 10**9 == found.mtime // 10**9\n",
        ("tests/mounted/test_failover.py", SEED),
    ),
    Fault(
        "a job that is forgotten by a restart",
        "afmfs/cache/job/jobs.py",
        "        await self._sync_wal()\n        self._link",
        "        self._link",
        ("tests/cache/test_jobs.py",),
    ),
)
