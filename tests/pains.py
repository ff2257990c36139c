"""How caches like this one have failed their users, and what shows that this one does not.

Each pain is one that users of other projects have told of. Its parts are what a design has to do
about it: each names the tests that fail where that is not done, or says why it is done otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

COALESCE = "tests/model/test_coalesce.py::"
RULES = "tests/model/test_coalesce_rules.py::"
ORDER = "tests/model/test_order.py::"
CRASH = "tests/cache/test_crash_rules.py::"
RARER = "tests/cache/test_rarer_crash_rules.py::"
GATEWAY = "tests/gateway/test_crash_rules.py::"
EVICT = "tests/cache/test_evict.py::"
BOUNDS = "tests/cache/test_bounds.py::"
START = "tests/cache/test_start.py::"
BLOBS = "tests/check/test_blobs.py::"
HARM = "tests/check/test_harm.py::"
REQUEUE = "tests/gateway/test_requeue.py::"
REPLAY = "tests/gateway/test_replay.py::"
TRANSFER = "tests/gateway/test_transfer.py::"
CONTACT = "tests/gateway/test_contact.py::"
CONNECTION = "tests/gateway/test_connection.py::"
TROUBLE = "tests/gateway/test_trouble.py::"
MARKER = "tests/gateway/test_marker.py::"
FETCH = "tests/gateway/test_fetch.py::"
TROUBLES = "tests/troubles/test_troubles.py::"
REMOTE = "tests/remote/test_sshfs_home.py::"
AFMCTL = "tests/admin/test_afmctl_mounted.py::"
WAIT = "tests/admin/test_wait.py::"
QUEUE = "tests/admin/test_queue_report.py::"
DISK = "tests/disk/test_full.py::"
SIZE = "tests/disk/test_cache_size.py::"
DAEMON = "tests/mounted/test_daemon.py::"
REFUSALS = "tests/mounted/test_refusals.py::"
OPEN = "tests/mounted/test_open_files.py::"
EVICTED = "tests/mounted/test_evict.py::"
FILES = "tests/programs/test_files.py::"
NAMES = "tests/programs/test_names_and_links.py::"


class Part(NamedTuple):
    """Of a rule. Either tests show it, or `otherwise` says why there are none."""

    what: str
    shown_by: tuple[str, ...] = ()  # tests as FILE::FUNCTION, or a script with its words
    otherwise: str = ""


class Pain(NamedTuple):
    number: int
    name: str
    parts: tuple[Part, ...]


def part(what: str, *shown_by: str) -> Part:
    return Part(what, shown_by)


def otherwise(what: str, why: str) -> Part:
    return Part(what, otherwise=why)


def pain(number: int, name: str, *parts: Part) -> Pain:
    return Pain(number, name, parts)


LOSS = (
    pain(
        1,
        "What was written is gone, and nobody was told",
        part(
            "The queue alone says what is dirty, over kills and mounts.",
            "tests/crash/test_kill_loop.py::test_whatever_is_killed_nothing_acknowledged_is_lost",
            AFMCTL + "test_stop_lasts_over_mounts",
            EVICT + "test_a_write_that_was_overtaken_is_dirty",
        ),
        part(
            "Eviction asks it in the transaction that unmarks.",
            EVICT + "test_evict_clean_only",
            EVICT + "test_a_write_that_waits_is_dirty",
        ),
        part(
            "No want of room evicts what is dirty.",
            SIZE + "test_what_is_dirty_stays",
            DISK + "test_full_while_home_is_away",
            "tests/disk/test_victims.py::test_too_many_to_count",
        ),
        part(
            "What home refuses stays, over restarts too, and goes once home takes it.",
            REQUEUE + "test_a_full_home",
            REQUEUE + "test_a_push_into_a_full_home",
            AFMCTL + "test_a_full_home_ends_the_wait_and_room_lets_it_go_on",
        ),
        part(
            "Only an administrator's word drops an entry, and an event tells of it.",
            REQUEUE + "test_drop",
            AFMCTL + "test_drop",
            "tests/mounted/test_callbacks.py::test_a_program_uses_the_mount_and_may_lie_in_it",
        ),
    ),
    pain(
        2,
        "A crash takes the record of what is pending, or leaves half of it",
        part(
            "A write is in the blob and in the queue when it returns, in the order that a kill"
            " may cut anywhere.",
            CRASH + "test_new_blob_first",
            CRASH + "test_overwrite_entry_first",
            "tests/crash/test_kill_loop.py::test_whatever_is_killed_nothing_acknowledged_is_lost",
        ),
        part(
            "fsync returns when bytes, name and queue are on stable storage.",
            CRASH + "test_fsync_means_it",
            CRASH + "test_point_recorded",
            "tests/power/test_power_loss.py::test_under_the_cache",
        ),
        part(
            "What nobody syncs is durable after a known time.",
            CRASH + "test_all_is_durable_after_the_interval",
        ),
        otherwise(
            "close() syncs, as an option.",
            "A close is no promise of durability on any local file system; who wants it at each"
            " write has O_SYNC, and the interval can be set.",
        ),
        part(
            "What is made at home is whole under its name, or is in doubt and made again.",
            RULES + "test_create_write_rename_over_is_one_make_that_replaces",
            "tests/gateway/test_doubt.py::test_every_interruption",
            MARKER + "test_after_a_kill_in_the_middle",
        ),
        part(
            "It is on stable storage there before the queue forgets it.",
            GATEWAY + "test_home_sync",
            RARER + "test_forget_after_durable",
            "tests/power/test_power_loss.py::test_under_home",
        ),
        otherwise(
            "Each entry carries the length and a checksum of its bytes.",
            "An entry speaks of a range whose bytes may be newer when it is sent, and one SQLite"
            " transaction has it whole or not at all. Lengths of blobs, checksums of block maps"
            " and the count of entries take that place: see the next two parts.",
        ),
        part(
            "Entries that are lost or make no sense are noticed and made up for.",
            "tests/cache/test_lost_queue.py::test_from_the_loss_to_its_end",
            "tests/check/test_databases.py::test_a_damaged_queue",
            "tests/check/test_queue.py::test_entries_that_make_no_sense",
        ),
        part(
            "Bytes that an entry promises and that are not there stop the replay, with the reason"
            " in the status; home keeps what it has.",
            HARM + "test_a_blob_that_is_missing_as_it_is_sent",
            TRANSFER + "test_a_damaged_blob_goes_over_nothing",
            "tests/check/test_maps.py::test_a_map_that_the_gateway_meets",
        ),
    ),
    pain(
        3,
        "The map says cached, the file says zeros",
        part(
            "A block is marked after its bytes were written; of a fetch, where nothing is valid.",
            CRASH + "test_new_blob_first",
            CRASH + "test_fetch_not_valid",
            "tests/disk/test_jobs.py::test_fetches",
        ),
        part(
            "What may not have reached the disk is not trusted after power loss, nor sent before"
            " a durable point.",
            CRASH + "test_drop_clean",
            CRASH + "test_recovery_sends_again_what_may_have_been_overwritten",
            GATEWAY + "test_durable_before_batch",
            EVICT + "test_evict_waits",
        ),
        part(
            "A blob that is gone or short is found as it is opened; what home has as well is"
            " fetched again, what was only here is said to be lost.",
            CRASH + "test_a_damaged_blob_is_not_taken_for_zeros",
            HARM + "test_a_missing_blob",
            BLOBS + "test_clean_bytes_are_fetched_again",
            BLOBS + "test_lost_bytes_are_told_of_and_never_read_as_zeros",
        ),
        otherwise(
            "Allocated blocks are compared with the map, by SEEK_HOLE too.",
            "A hole that was written or fetched is a hole in the blob and valid: allocation says"
            " nothing. A blob is as long as its file, and lengths are compared.",
        ),
        part(
            "Dirty and cached are two things: the queue's and the map's.",
            EVICT + "test_evict_clean_only",
            CRASH + "test_drop_fresh_dirty",
        ),
        part(
            "A write into an uncached block keeps exactly its bytes, and home's around them.",
            "tests/programs/test_blocks.py::test_a_write_keeps_its_bytes_and_home_s",
            TRANSFER + "test_only_what_is_valid",
        ),
        part(
            "What a resync will make null is counted by its dry run, and asked about.",
            "tests/mounted/test_resync_command.py::test_the_dry_run_says_what_the_run_does",
            "tests/admin/test_resync.py::test_without_a_terminal_harm_needs_yes",
        ),
        part(
            "There is a resync that leaves a known version's uncached bytes as they are.",
            "tests/admin/test_resync.py::test_keep_uncached",
            "tests/model/test_resync.py::test_only_a_manual_resync_makes_null_what_home_alone_has",
        ),
    ),
    pain(
        4,
        "Home can't be reached, and is taken for empty",
        part(
            "Errors are told apart: away, may end, never to be held, contradicting.",
            TROUBLE + "test_away_whatever_was_tried",
            TROUBLE + "test_may_end_where_home_can_do_it",
            TROUBLE + "test_inconsistent",
            TROUBLE + "test_the_root_gone_stale_is_away",
        ),
        part(
            "Nothing is missing at home unless home's own marker is there.",
            MARKER + "test_without_it_home_is_not_mounted",
            CONNECTION + "test_not_mounted_is_never_written_to",
            CONNECTION + "test_the_marker_goes_away",
            "tests/programs/test_blocks.py::test_uncached_reads_fail_at_once_while_home_is_away",
        ),
        part(
            "No trouble of home's ends the mount; when it is over all goes on by itself.",
            TROUBLES + "test_work_goes_on_and_the_way_out_brings_it_home",
            REMOTE + "test_cached_work_goes_on_and_everything_arrives",
            "tests/gateway/test_process.py::test_killed_and_started_again",
        ),
        part(
            "Home is looked for for ever, after pauses that grow to a limit.",
            CONTACT + "test_a_home_that_stays_away_is_looked_for_for_ever_and_ever_more_rarely",
        ),
        otherwise(
            "The pauses are jittered.",
            "One gateway asks for one fileset, by a few system calls: there is no herd.",
        ),
        part(
            "A home that hangs is noticed by who does not touch it, and takes neither the mount"
            " process nor its end along.",
            CONTACT + "test_a_call_that_does_not_return_is_a_home_that_is_away",
            REMOTE + "test_umount_is_quick_while_home_hangs",
            TROUBLES + "test_umount_ends_in_time_and_the_next_mount_goes_on",
        ),
        part(
            "One call that is stuck leaves threads for the others.",
            TROUBLES + "test_work_goes_on_and_the_way_out_brings_it_home",
            "tests/mounted/test_turns.py::test_requests_that_wait_do_not_hold_up_others",
        ),
    ),
)

QUEUE_AND_REPLAY = (
    pain(
        5,
        "Nobody can see what is pending",
        part(
            "State, entries, bytes, age, what was executed, home's latency are shown, and right.",
            "tests/mounted/test_shown.py::test_what_is_pending",
            "tests/admin/test_status.py::test_dirty_bytes_count_each_byte_once",
        ),
        part(
            "So are speed and the time left.",
            "tests/cache/test_pace.py::test_rates_are_of_the_last_seconds",
            "tests/admin/test_write_stats.py::test_the_time_left",
        ),
        part(
            "What home refused is counted, with its last error and what to do.",
            AFMCTL + "test_a_full_home_ends_the_wait_and_room_lets_it_go_on",
            "tests/model/test_states.py::test_reason_says_what_home_refuses_and_what_to_do",
        ),
        part(
            "The queue is listed page by page: path, operation, size, tries, next try, error.",
            QUEUE + "test_a_line",
            QUEUE + "test_states",
            QUEUE + "test_pages_leave_out_what_goes_in_between",
        ),
        part(
            "It can be hurried, tried again, stopped, and entries dropped.",
            AFMCTL + "test_from_inactive_to_active",
            AFMCTL + "test_a_full_home_ends_the_wait_and_room_lets_it_go_on",
            AFMCTL + "test_stop_lasts_over_mounts",
            AFMCTL + "test_drop",
        ),
        otherwise(
            "A single entry can be hurried.",
            "It would overtake what it depends on: a flush hurries all up to a number.",
        ),
        part(
            "Every view is made of the same figures.",
            "tests/mounted/test_shown.py::test_what_is_pending",
            "tests/admin/test_write_stats.py::test_metrics_carry_the_same_figures",
        ),
        part(
            "The columns that AFM has for it are there.",
            "tests/admin/test_write_stats.py::test_the_figures_of_afms_documentation",
        ),
    ),
    pain(
        6,
        "Some entries wait for ever, and who waits for them hears nothing",
        part(
            "What depends on nothing goes side by side; what depends, in its order.",
            ORDER + "test_what_is_independent_shares_a_level",
            ORDER + "test_one_inode_is_worked_on_in_order",
            ORDER + "test_a_directory_comes_before_what_is_in_it",
            COALESCE + "test_batch_after_batch_is_entry_after_entry",
        ),
        part(
            "The oldest entry that may go is in the next batch.",
            REPLAY + "test_each_batch_begins_with_the_oldest_that_may_go",
            COALESCE + "test_every_entry_is_in_one_place",
            RULES + "test_a_busy_writer_does_not_keep_a_name_from_going",
        ),
        part(
            "What is refused is tried again after pauses that double, up to a limit.",
            "tests/gateway/test_backoff.py::test_pauses_double_up_to_the_longest",
            REQUEUE + "test_back_off_ends_by_itself",
        ),
        part(
            "Only what depends on a refused entry waits with it.",
            REQUEUE + "test_one_bad_file",
            COALESCE + "test_what_failed_waits_and_what_depends_on_it_too",
            ORDER + "test_what_touches_a_held_name_or_inode_waits",
        ),
        part(
            "What home can never hold is recorded and reported, and pending no more.",
            REQUEUE + "test_what_home_can_never_hold",
            TROUBLE + "test_what_waiting_does_not_change",
        ),
        otherwise(
            "After some tries an entry is parked.",
            "Whatever may end is tried every five minutes, which costs a look; an administrator"
            " who has made room need not know which entries to release.",
        ),
        part(
            "Who waits gets a reason in the end: refused, away, stopped, or time is up.",
            WAIT + "test_over_and_not_well",
            WAIT + "test_a_wait_times_out_on_time",
            WAIT + "test_home_that_stays_away_ends_the_wait",
            "tests/admin/test_access.py::test_what_hangs_is_left_behind",
        ),
    ),
    pain(
        7,
        "Names come back, arrive by half, or in the wrong order",
        part(
            "Entries speak of inodes; a path is worked out when it is needed.",
            "tests/model/test_names.py::test_one_entry_is_undone",
            FETCH + "test_under_a_name_that_home_has_not_seen_yet",
            QUEUE + "test_names_are_those_of_the_entry_in_directories_of_now",
        ),
        part(
            "An inode's number is never another's, and truncation takes a new generation.",
            CRASH + "test_numbers_unique",
            CRASH + "test_truncate_new_generation",
        ),
        part(
            "Later data and attributes take the place of earlier ones.",
            RULES + "test_data_of_an_old_file_is_one_push",
            "tests/model/test_merge.py::test_merged_is_one_by_one",
        ),
        part(
            "What is removed takes its pending data along; made and removed is nothing.",
            RULES + "test_data_of_what_dies_is_dropped",
            RULES + "test_made_and_removed_is_nothing",
            RULES + "test_a_directory_is_cancelled_with_all_that_was_in_it",
        ),
        part(
            "What is in flight is settled by itself, and merged with nothing.",
            GATEWAY + "test_doubt_cut",
            COALESCE + "test_a_batch_in_doubt_is_executed_again_without_harm",
        ),
        otherwise(
            "A flush is a barrier to coalescing.",
            "It promises that home has all up to a number, not the tree of that moment: what"
            " was changed since may go along, as a push may carry newer bytes.",
        ),
        part(
            "The whole is tested as a law: home comes out as by one entry after the other.",
            COALESCE + "test_batch_after_batch_is_entry_after_entry",
            "tests/model/test_engine_machine.py::test_the_engine_answers_like_a_plain_directory",
        ),
    ),
    pain(
        8,
        "Cost and memory grow faster than the queue",
        part(
            "The queue lies in the database; a window of it is in memory.",
            REPLAY + "test_each_batch_begins_with_the_oldest_that_may_go",
            QUEUE + "test_pages_leave_out_what_goes_in_between",
        ),
        part(
            "A full window is planned in linear time, whatever it is made of.",
            RULES + "test_a_full_window_takes_no_quadratic_time",
        ),
        part(
            "A home that refuses everything costs a few looks at each entry.",
            REQUEUE + "test_a_home_that_refuses_everything_costs_a_few_looks_at_each",
            REQUEUE + "test_a_home_that_refuses_too_much_is_not_asked_more",
        ),
        part(
            "What waits for a refused entry is read once, and little of it is remembered.",
            REQUEUE + "test_what_is_held_is_not_read_again_for_what_comes_after_it",
            REQUEUE + "test_what_is_remembered_of_what_waits_is_bounded",
            ORDER + "test_below_a_directory_that_is_not_made_little_has_to_be_remembered",
        ),
        part(
            "No request grows with the queue, nor with what the cache holds.",
            "tests/cache/test_scale.py::test_no_request_grows_with_the_queue",
        ),
        part(
            "Ten million entries and inodes fit into the budget.",
            "scripts/bench scale",
        ),
    ),
)

LIFE = (
    pain(
        9,
        "A mount that takes minutes to begin, or does not",
        part(
            "It serves without home, and before home has answered.",
            TROUBLES + "test_umount_ends_in_time_and_the_next_mount_goes_on",
            "tests/disk/test_opening.py::test_killed_while_full",
            "tests/cache/test_events_of_home.py"
            "::test_a_home_that_an_earlier_gateway_holds_is_waited_for",
        ),
        part(
            "No file is looked at to begin, and the queue is counted, no more; after a kill too.",
            START + "test_cost",
        ),
        part(
            "What was under way is settled behind the mount, and shown as Recovery.",
            "tests/mounted/test_callbacks.py::test_recovery_is_told_of_once_the_mount_serves",
            "tests/cache/test_events_of_home.py::test_a_recovery_ends_once",
        ),
        otherwise(
            "The cache's integrity is scanned by itself, later.",
            "A cache is checked when an administrator asks, beside the mount if need be; damage"
            " that a mount meets is told at once.",
        ),
        part(
            "What was cached is cached at the next mount.",
            "tests/programs/test_blocks.py::test_one_byte_of_a_large_file_fetches_one_block",
        ),
        part(
            "The mount command returns when it serves.",
            DAEMON + "test_background_serves_when_the_command_returns",
        ),
        otherwise(
            "systemd is notified.",
            "A mount is a mount unit, which waits for the helper to return: there is no service"
            " to notify for.",
        ),
    ),
    pain(
        10,
        "An unmount that loses what is pending, or never ends",
        part(
            "What is pending stays in the cache and goes on at the next mount.",
            TROUBLES + "test_umount_ends_in_time_and_the_next_mount_goes_on",
            "tests/mounted/test_stop.py::test_sigterm_takes_over_the_kernels_dirty_pages",
        ),
        part(
            "Who wants home caught up before can wait for it, for a time.",
            AFMCTL + "test_from_inactive_to_active",
            WAIT + "test_a_wait_times_out_on_time",
        ),
        part(
            "It ends in time also while home hangs or a request never ends.",
            REMOTE + "test_umount_is_quick_while_home_hangs",
            DAEMON + "test_a_request_that_never_ends_does_not_hold_the_end",
            DAEMON + "test_an_end_that_hangs_has_a_limit",
        ),
        part(
            "SIGTERM unmounts and ends with 0; the second one ends it at once.",
            DAEMON + "test_a_signal_unmounts_also_with_open_files",
            DAEMON + "test_a_second_signal_ends_it_at_once",
        ),
        part(
            "The next mount waits for the end of the last one, and clears a dead mount point.",
            "tests/mounted/test_lock.py::test_one_that_ends_is_waited_for",
            "tests/mounted/test_stop.py::test_unmounted_and_mounted_again_at_once",
            DAEMON + "test_a_crash_leaves_the_mount_point_dead_and_the_next_mount_clears_it",
        ),
    ),
    pain(
        11,
        "The daemon dies, and programs write below the mount point",
        part(
            "A crash leaves the mount point dead.",
            DAEMON + "test_a_crash_leaves_the_mount_point_dead_and_the_next_mount_clears_it",
        ),
        otherwise(
            "The mount point is made immutable.",
            "It is the administrator's directory. A mount is refused where it is not empty, so"
            " what was written below one is not hidden.",
        ),
        part(
            "What was written below it is met by the next mount.",
            "tests/mounted/test_cli.py::test_a_mount_point_must_be_an_empty_directory",
        ),
        part(
            "Whether a mount is well can be asked without hanging, and the status tells.",
            AFMCTL + "test_a_mount_that_hangs_hangs_nobody",
            AFMCTL + "test_a_dead_mount_and_its_cache",
            "tests/admin/test_afmctl.py::test_getstate_shows_what_answers_and_names_what_does_not",
        ),
        otherwise(
            "systemd's watchdog ends a mount that does not answer.",
            "There is no service to watch, and a mount that is killed serves nobody: `getstate`"
            " tells a monitor, which can decide.",
        ),
    ),
    pain(
        12,
        "The cache's disk is full",
        part(
            "Beyond a mark files are evicted, down to a lower one; beyond the last, writers"
            " hear ENOSPC.",
            SIZE + "test_the_least_recently_used_go",
            SIZE + "test_without_eviction",
        ),
        part(
            "Inodes count as bytes do.",
            DISK + "test_full_while_home_is_away",
            "tests/disk/test_opening.py::test_killed_while_full",
        ),
        part(
            "The databases keep room of their own: the queue can go down.",
            DISK + "test_names_alone",
            "tests/disk/test_opening.py::test_killed_while_full",
        ),
        part(
            "Dirty bytes have a limit: a writer waits for home, then hears ENOSPC, never EIO.",
            DISK + "test_more_than_the_disk_holds_while_home_is_up",
            SIZE + "test_a_file_larger_than_all",
            SIZE + "test_what_is_dirty_stays",
        ),
        part(
            "A write that failed has changed nothing and gives its place back at once.",
            "tests/disk/test_as_a_whole.py::test_of_what_is_there_and_more",
            "tests/disk/test_as_a_whole.py::test_what_was_begun_gives_its_place_back",
            CRASH + "test_a_write_that_fails_leaves_no_blob",
        ),
        otherwise(
            "The databases lie on a partition of their own.",
            "Blobs and databases are made durable together, and lost or copied together: a cache"
            " is one directory. A reserve takes that place.",
        ),
        part(
            "A full home is another trouble, with a message of its own.",
            REQUEUE + "test_a_full_home",
            TROUBLES + "test_work_goes_on_and_the_way_out_brings_it_home",
        ),
    ),
    pain(
        13,
        "The fuller the cache, the slower",
        part(
            "Choosing and evicting a file costs the same among any number of others.",
            "tests/disk/test_victims.py::test_cost",
        ),
        part(
            "Room is made beside the work, down to a lower mark, clean files first.",
            SIZE + "test_the_least_recently_used_go",
            SIZE + "test_what_is_dirty_stays",
        ),
        part(
            "When files were used is written down now and then, not at each use.",
            EVICT + "test_use_is_written_down",
            EVICTED + "test_least_recently_used",
        ),
    ),
)

FILES_AND_KERNEL = (
    pain(
        14,
        "Times that change by being sent",
        part(
            "A time has nanoseconds, is set by the change itself, and no flush alters it.",
            OPEN + "test_a_flush_changes_no_times",
            FILES + "test_times_to_the_nanosecond",
            FILES + "test_times_that_change_by_themselves",
        ),
        part(
            "Home gets the time after the data, and a directory's after its content.",
            OPEN + "test_a_flush_changes_no_times",
            REPLAY + "test_a_tree_arrives",
        ),
        part(
            "How finely home keeps times is tried out.",
            "tests/gateway/test_probe.py::test_whole_seconds_where_inodes_are_small",
        ),
        part(
            "Versions are compared that finely, in a failover too.",
            "tests/gateway/test_stamp.py::test_another_nanosecond_is_another_version",
            "tests/gateway/test_stamp.py::test_what_home_can_not_tell_is_no_difference",
            "tests/mounted/test_failover.py::test_after_a_copy_only_what_differs_is_queued",
            "tests/remote/test_verify.py::test_what_home_can_not_tell_is_no_difference",
        ),
    ),
    pain(
        15,
        "Files that are never closed, or are too large to send whole",
        part(
            "A file goes home while it is open.",
            OPEN + "test_a_file_that_stays_open_goes_home",
        ),
        part(
            "Only what was written is sent, as merged ranges.",
            REPLAY + "test_only_what_was_written_is_sent",
            RULES + "test_data_of_an_old_file_is_one_push",
            TRANSFER + "test_holes_stay_holes",
        ),
        part(
            "A file that never rests makes progress: a push may carry newer bytes.",
            OPEN + "test_a_file_that_is_never_at_rest_goes_home",
            GATEWAY + "test_newer_bytes_never_newer_sizes",
            TRANSFER + "test_a_blob_that_was_replaced_meanwhile",
        ),
    ),
    pain(
        16,
        "Two masters of one cache, or a cache within its mount",
        part(
            "A cache has one mount, and who comes second hears which.",
            REFUSALS + "test_a_cache_in_use",
            "tests/mounted/test_lock.py::test_one_that_does_not_end_is_named",
            "tests/gateway/test_process.py::test_a_second_one_is_refused",
        ),
        part(
            "A home has one cache, and no older copy of it, by a marker that counts mounts.",
            MARKER + "test_another_caches_home",
            MARKER + "test_an_old_copy_by_its_counter",
            MARKER + "test_two_first_mounts_at_once",
            REFUSALS + "test_an_old_copy_of_the_cache",
        ),
        part(
            "Cache, home and mount point may not lie in each other, by whatever names.",
            REFUSALS + "test_what_lies_in_each_other",
            MARKER + "test_not_in_what_is_the_caches_own_by_whatever_links",
        ),
    ),
    pain(
        17,
        "Telling the kernel to forget ends in a deadlock",
        part(
            "There is little to forget: what the kernel knows it answers for ever.",
            "tests/mounted/test_kernel_cache.py::test_no_request_for_what_is_known",
        ),
        part(
            "It is told from a thread, with no lock held, under open and mapped files too.",
            EVICTED + "test_mapped_and_not_yet_written_back",
            EVICTED + "test_racing_reads_and_writes",
            EVICT + "test_the_kernel_forgets_its_pages",
        ),
        part(
            "That it knew nothing of a file is no error.",
            EVICTED + "test_least_recently_used",
        ),
        otherwise(
            "Of open files only attributes are forgotten.",
            "Where a version is adopted or made null the old pages are wrong for those who have"
            " it open as well; what they have changed stays, as eviction and adoption leave"
            " changed files alone.",
        ),
    ),
    pain(
        18,
        "Pieces of POSIX that are missing",
        part(
            "Hard links, symbolic links, FIFOs, sockets, swaps and unlinked open files work.",
            NAMES + "test_hard_links",
            NAMES + "test_odd_names_of_every_type",
            NAMES + "test_exchange",
            NAMES + "test_removed_while_open",
            FILES + "test_fifos_and_sockets",
        ),
        part(
            "So do extended attributes, access lists, modes, owners and times.",
            "tests/programs/test_xattrs.py::test_attributes_and_lists_reach_home",
            FILES + "test_modes_and_owners",
            FILES + "test_times_to_the_nanosecond",
        ),
        part(
            "What pyfuse3 has no handler for is refused in a way that programs know.",
            FILES + "test_a_file_without_a_name",
            FILES + "test_fallocate",
        ),
        part(
            "Locks hold between processes of the machine.",
            FILES + "test_locks_hold_within_the_machine",
            "tests/programs/test_programs.py::test_sqlite_filled_by_two_processes",
        ),
        part(
            "Whatever a program does, the mount answers like a plain directory.",
            "tests/model/test_mount_machine.py::test_the_mount_answers_like_a_plain_directory",
            "tests/hostile/test_other_users.py"
            "::test_each_call_does_what_it_does_on_a_local_file_system",
        ),
        otherwise(
            "A POSIX suite runs with the tests, and its results are published.",
            "pjdfstest is not ours to bring along: it is run by hand, and the README has its"
            " results, how to run it, and a chapter of limits.",
        ),
    ),
    pain(
        19,
        "Memory and descriptors grow",
        part(
            "Inodes in memory have a limit, whatever the kernel remembers.",
            BOUNDS + "test_inodes_in_memory",
        ),
        part(
            "Open descriptors have one, in both processes, and the limit of them is raised.",
            BOUNDS + "test_open_blobs",
            "tests/gateway/test_walk.py::test_few_descriptors_for_many_directories",
            DAEMON + "test_many_files_may_be_open",
        ),
        part(
            "A directory is listed page by page.",
            BOUNDS + "test_a_page_of_a_directory",
            "tests/mounted/test_operations.py::test_a_large_directory_is_listed_whole",
            "tests/hostile/test_strange_trees.py::test_a_wide_directory",
        ),
        part(
            "Hours of work leave memory, descriptors and threads as they are.",
            "tests/soak/test_soak.py::test_what_grows_is_not_flat",
            "scripts/soak",
        ),
        part(
            "The metrics have the memory of the processes, and how many objects there are.",
            "tests/mounted/test_shown.py::test_what_is_pending",
        ),
    ),
)

PAINS = (*LOSS, *QUEUE_AND_REPLAY, *LIFE, *FILES_AND_KERNEL)
