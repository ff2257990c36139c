"""The seed, sentence by sentence: each row says what one sentence demands, and shows that it holds.

`seed-resync-on-sw-filesets.txt` is IBM's text; the rows follow its order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.seed import command, conflict, outofband, pending, pushed, transfer

pytestmark = pytest.mark.mounted


class Row(NamedTuple):
    demands: str  # what the sentence asks for, in our words
    shows: Callable[..., None]  # takes fixtures by their names


SEED = (
    Row("a conflict may come of a stray write at home", conflict.stray_write_is_a_conflict),
    Row("a resync comes by itself", conflict.resync_comes_by_itself),
    Row("nobody but the cache is to write home", conflict.home_has_one_writer),
    Row("nor is anybody kept from it", conflict.nobody_is_kept_from_writing),
    Row("any write or corruption is a conflict", conflict.any_damage_is_a_conflict),
    Row("no file is sent by several threads", transfer.one_thread_a_file),
    Row("none is split, whatever is configured", transfer.never_split),
    Row("what flushing finds makes it NeedsResync", conflict.flushing_finds_it),
    Row("the next request resolves it", conflict.next_request_resolves_it),
    Row("else the command resolves it", conflict.else_the_command_resolves_it),
    Row("only in Active and NeedsResync", command.only_active_or_needs_resync),
    Row("never of IW filesets", command.not_on_iw),
    Row("resync, expire and unexpire, with -j", command.resync_expire_unexpire),
    Row("its help says more", command.help_says_more),
    Row("prints what it performs", command.prints_what_it_performs),
    Row("getstate shows it Dirty, with both figures", command.getstate_shows_it),
    Row("a target may be nfs://", command.nfs_targets_come_later),
    Row("all cached data and metadata are queued", pushed.everything_is_queued),
    Row("it runs in the background", pushed.it_runs_in_the_background),
    Row("its end is an event, for callbacks", pushed.its_end_is_an_event),
    Row("all flushed, the state is Active", pushed.flushed_it_is_active),
    Row("evicted files are not synchronized", pushed.evicted_files_stay_as_they_are),
    Row("of partial files only cached blocks", pushed.only_cached_blocks_are_pushed),
    Row("their uncached blocks become null", pushed.uncached_blocks_become_null),
    Row("also at a new home", outofband.blocks_of_partial_files_go_to_the_new_home),
    Row("not to be used without need", pushed.not_without_being_asked_for),
    Row("a copy made offline, with nanoseconds", outofband.any_copy_with_nanoseconds_will_do),
    Row("such as rsync's", outofband.rsync_is_such_a_tool),
    Row("failover compares size and mtime", outofband.size_and_mtime_are_compared),
    Row(
        "pending changes that were copied, too", outofband.pending_names_that_were_copied_are_equal
    ),
    Row("and takes along what is pending", outofband.what_is_pending_goes_along),
    Row("new files and directories at home stay", pushed.new_things_at_home_stay),
    Row("so do new names of known ones", pushed.new_names_at_home_stay),
    Row("removes and renames may be pending", pending.recovery_finds_them_pending),
    Row("in a resync, too", pending.a_resync_takes_away_what_they_would_have),
    Row("renames reach home, which has old data", pending.renames_reach_home),
    Row("some extra files may be left", pending.extra_files_may_be_left),
    Row("both have the latest of all files", pending.both_have_the_latest),
)


@pytest.mark.parametrize("row", SEED, ids=[f"{n:02} {r.demands}" for n, r in enumerate(SEED, 1)])
def test_the_seed(row: Row, request: pytest.FixtureRequest) -> None:
    names = inspect.signature(row.shows).parameters
    row.shows(**{name: request.getfixturevalue(name) for name in names})
