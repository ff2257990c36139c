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
        ("tests/gateway/test_stamp.py",),
    ),
    Fault(
        "a job that is forgotten by a restart",
        "afmfs/cache/job/jobs.py",
        "        await self._sync_wal()\n        self._link",
        "        self._link",
        ("tests/cache/test_jobs.py",),
    ),
    Fault(
        "a job that takes what waits for a refused name for done",
        "afmfs/gateway/job/job.py",
        "            held.requeued = {e.id for e in todo if e.op not in DATA_OPS}\n",
        "",
        ("tests/gateway/test_job_beside_refusals.py",),
    ),
    Fault(
        "a job that settles what a refused name holds up",
        "afmfs/gateway/job/settling.py",
        "        held.requeued, self._held = refused, held\n",
        "        held.requeued, self._held = set(), held\n",
        ("tests/gateway/test_job_beside_refusals.py",),
    ),
    Fault(
        "a job that takes its own work for somebody else's",
        "afmfs/gateway/job/reconcile.py",
        "            landed.unnamed.append((due, decision))\n"
        "            self._note(due, decision, done, landed)\n",
        "",
        ("tests/gateway/test_job_beside_refusals.py",),
    ),
    Fault(
        "a job that counts bytes as sent with a name",
        "afmfs/gateway/job/job.py",
        " if e.ino in self._draining.brought]\n",
        "]\n",
        ("tests/gateway/test_job_beside_refusals.py",),
    ),
    Fault(
        "a job that goes by names that are in doubt",
        "afmfs/gateway/replay/steps.py",
        "        return [e.id for e in self.view.entries(ids) if e.op in MOVES] if ids else []\n",
        "        return []\n",
        ("tests/gateway/test_job_and_doubts.py",),
    ),
    Fault(
        "push by names that are in doubt",
        "afmfs/gateway/replay/window.py",
        "        return sorted(found, key=",
        "        return sorted(found, key=lambda _: 0) or sorted(found, key=",
        ("tests/gateway/test_refused_in_doubt.py",),
    ),
    Fault(
        "say of an earlier look that nothing goes",
        "afmfs/gateway/replay/replay.py",
        "        if may_run and asked == self._asked:\n",
        "        if may_run:\n",
        ("tests/gateway/test_requeue.py",),
    ),
    Fault(
        "take the only name that a home without hard links has",
        "afmfs/gateway/replay/naming.py",
        "                    elif not hand_over(work, place, action.ino):\n",
        "                    else:\n",
        ("tests/gateway/test_no_hard_links.py",),
    ),
    Fault(
        "a repair that counts on a home which a failover has not filled",
        "afmfs/cache/check/aftermath.py",
        "        store, unsure = self._store, home_is_unsure(self._store.get)\n",
        "        store, unsure = self._store, False\n",
        ("tests/check/test_unsure_home.py",),
    ),
    Fault(
        "write by a size that home's version does not have",
        "afmfs/cache/content/sizes.py",
        "        if start < last and end > first:\n",
        "        if start < last < end and end < first:\n",
        ("tests/cache/test_sizes.py",),
    ),
    Fault(
        "swap two files for ever before what was written to them",
        "afmfs/model/cut.py",
        "            return actions[:n] if n or late else actions[:1]\n",
        "            return actions[: max(n, 1)]\n",
        ("tests/model/test_coalesce_rules.py",),
    ),
)
