"""Faults that somebody could make, each with the tests that turn red by it.

Every one takes a rule out of the code: its crash, or its other trouble, is then met by a test. A
test that stays green by such a fault protects nothing.
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
        "mark before writing",
        "afmfs/cache/content.py",
        "            self._write_parts(inode, offset, data, new)\n"
        "            return self._commit_write(inode, offset, end, parts)\n",
        "            number = self._commit_write(inode, offset, end, parts)\n"
        "            self._write_parts(inode, offset, data, new)\n"
        "            return number\n",
        (RULES + "test_new_blob_first", RULES + "test_new_blob_first_appended"),
    ),
    Fault(
        "overwrite before the entry",
        "afmfs/cache/content.py",
        "        self._write_new(inode, offset, end, data, parts)\n"
        "        if parts[1]:  # entry first: kill -9 here pushes the old bytes once more\n"
        "            self._write_parts(inode, offset, data, parts[1])\n",
        "        if parts[1]:\n"
        "            self._write_parts(inode, offset, data, parts[1])\n"
        "        self._write_new(inode, offset, end, data, parts)\n",
        (RULES + "test_overwrite_entry_first_also_at_once",),
    ),
    Fault(
        "overwrite by an entry that may be lost",
        "afmfs/cache/content.py",
        "            await self._sync_wal()\n            self._in_place",
        "            self._in_place",
        (RULES + "test_overwrite_durable",),
    ),
    Fault(
        "keep an in-place entry that was retired",
        "afmfs/cache/content.py",
        "        if self._in_place.get(ino, entry + 1) <= entry:",
        "        if self._in_place.get(ino, entry + 1) < 0:",
        (RULES + "test_in_place_mark",),
    ),
    Fault(
        "a durable point that syncs nothing",
        "afmfs/cache/durable.py",
        "                await trio.to_thread.run_sync(self._sync_all)\n",
        "                pass\n",
        ("tests/cache/test_crash_rules.py", "tests/cache/test_evict.py"),
    ),
    Fault(
        "a durable point in the middle of a write",
        "afmfs/cache/durable.py",
        "            await self._drain()\n",
        "",
        (RULES + "test_point_drains",),
    ),
    Fault(
        "a durable point that takes its number at the end",
        "afmfs/cache/durable.py",
        'store.put("durable_entry", last)',
        'store.put("durable_entry", self._store.entries.last)',
        (RULES + "test_number_at_start",),
    ),
    Fault(
        "fsync that leaves the bytes in memory",
        "afmfs/cache/durable.py",
        "            await self._sync_blob(inode.gen, fd)\n",
        "            pass\n",
        (RULES + "test_fsync_means_it",),
    ),
    Fault(
        "truncation that keeps the blob",
        "afmfs/cache/content.py",
        "        self._store.save(inode, gen=0, whole=True)\n",
        "        self._store.save(inode, whole=True)\n",
        (RULES + "test_truncate_new_generation",),
    ),
    Fault(
        "forget what is in reclaim",
        "afmfs/cache/content.py",
        "            await self._sync_wal()\n            self.reclaim_tail(inode)",
        "            self.reclaim_tail(inode)",
        (RULES + "test_reclaim_sync",),
    ),
    Fault(
        "fetched bytes over written ones",
        "afmfs/cache/content.py",
        "stop, brought = end, self.validity.missing(inode, start, end)",
        "stop, brought = end, [(start, end)]",
        (RULES + "test_fetch_not_valid",),
    ),
    Fault(
        "forget a crash's doubt",
        "afmfs/cache/recovery.py",
        "            self._drop(ino, start, end)  # drop-clean\n",
        "            pass\n",
        (RULES + "test_drop_clean", RULES + "test_lost_writes_of_what_was_fetched"),
    ),
    Fault(
        "believe what is fresh and dirty",
        "afmfs/cache/recovery.py",
        "        for ino, start, end, number in rows:  # drop-fresh-dirty\n",
        "        for ino, start, end, number in rows[:0]:\n",
        (RULES + "test_drop_fresh_dirty", RULES + "test_recovery_zeros"),
    ),
    Fault(
        "evict what is pending",
        "afmfs/cache/evict.py",
        "            if inode.ino in pending:\n",
        "            if inode.ino in ():\n",
        (EVICT + "test_evict_clean_only",),
    ),
    Fault(
        "evict what home has lost",
        "afmfs/cache/evict.py",
        "            if inode.ino in lost:\n",
        "            if inode.ino in ():\n",
        (EVICT + "test_what_home_has_lost",),
    ),
    Fault(
        "skip the stamp check",
        "afmfs/gateway/versions.py",
        "    return not stamps or any(same(",
        "    return True or any(same(",
        ("tests/gateway/test_inconsistent.py",),
    ),
    Fault(
        "go on after an inconsistency",
        "afmfs/gateway/replay.py",
        "        self._needs_resync = True\n        path = trouble",
        "        path = trouble",
        ("tests/gateway/test_inconsistent.py",),
    ),
    Fault(
        "record outcomes of a batch that home may lose",
        "afmfs/gateway/replay.py",
        "            self._sync_home(home)  # before any outcome is recorded: home-sync\n",
        "",
        ("tests/gateway/test_replay.py",),
    ),
    Fault(
        "retire too early",
        "afmfs/gateway/replay.py",
        '        self._landing, self._breaks, self._said = landing, 0, ""\n',
        '        self._landing, self._breaks, self._said = landing, 0, ""\n'
        "        self._record()\n",
        ("tests/gateway/test_replay.py", "tests/gateway/test_doubt.py"),
    ),
    Fault(
        "execute before it is noted as in flight",
        "afmfs/gateway/replay.py",
        "            self._journal.take_off(ids)  # before the point: in-flight-durable\n",
        "",
        ("tests/gateway/test_doubt.py",),
    ),
    Fault(
        "believe a connection that broke",
        "afmfs/gateway/replay.py",
        "            connection.check(home)  # else all is in doubt: connection\n",
        "",
        ("tests/gateway/test_remote_home.py", "tests/remote/test_sshfs_home.py"),
    ),
    Fault(
        "write to a home that is not mounted",
        "afmfs/gateway/connection.py",
        "                if home.mount_id() != self.mount:\n",
        "                if home.mount_id() != self.mount and False:\n",
        ("tests/gateway/test_connection.py",),
    ),
    Fault(
        "take another cache's home",
        "afmfs/gateway/connection.py",
        "        if (found.identity, found.token) != (self.marker.identity, self.marker.token):\n",
        "        if found.identity == (self.marker.token,):\n",
        ("tests/gateway/test_connection.py",),
    ),
    Fault(
        "follow a symlink out of home",
        "afmfs/gateway/walk.py",
        "_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW",
        "_WALK = os.O_PATH | os.O_DIRECTORY",
        ("tests/gateway/test_inconsistent.py", "tests/gateway/test_walk.py"),
    ),
    Fault(
        "keep nothing of what a resync replaces",
        "afmfs/gateway/reconcile.py",
        "                moved = move_aside(work.home, self._job.id, aside.number, dirfd, name, "
        "work.pulse)\n",
        "                work.home.unlink(dirfd, name)\n                moved = True\n",
        ("tests/gateway/test_job.py", SEED),
    ),
    Fault(
        "compare times in seconds",
        "afmfs/gateway/stamp.py",
        "        and expected.mtime // granularity == found.mtime // granularity\n",
        "        and expected.mtime // 10**9 == found.mtime // 10**9\n",
        ("tests/mounted/test_failover.py", SEED),
    ),
    Fault(
        "a job that is forgotten by a restart",
        "afmfs/cache/jobs.py",
        "        await self._sync_wal()\n        self._link",
        "        self._link",
        ("tests/cache/test_jobs.py",),
    ),
)
