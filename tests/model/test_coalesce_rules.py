"""Each rule of the planner by name. That they hold together: test_coalesce.py."""

from __future__ import annotations

import stat
import time

import pytest

from afmfs.model.action import Batch, Content, Exchange, Link, Make, Place, Push, Remove, Rename
from afmfs.model.coalesce import plan
from afmfs.model.entry import LAST, Entry, Op

FILE, DIR = stat.S_IFREG, stat.S_IFDIR
X, Y, OLD, D = 100, 200, 300, 400  # new files, an old file, a directory
T: Place = (1, b"t")
F: Place = (1, b"f")
G: Place = (1, b"g")
EMPTY = Content(smallest=0, size=0)


def make(ino: int, at: Place, kind: int = FILE) -> Entry:
    return Entry(0, Op.MAKE, ino, kind, *at)


def link(ino: int, at: Place) -> Entry:
    return Entry(0, Op.LINK, ino, FILE, *at)


def remove(ino: int, at: Place, flags: int = LAST, kind: int = FILE) -> Entry:
    return Entry(0, Op.REMOVE, ino, kind, *at, flags=flags)


def rename(
    ino: int, at: Place, to: Place, over: int | None = None, flags: int = LAST, kind: int = FILE
) -> Entry:
    flags = 0 if over is None else flags
    return Entry(0, Op.RENAME, ino, kind, *at, *to, ino2=over, flags=flags)


def exchange(ino: int, at: Place, other: int, to: Place) -> Entry:
    return Entry(0, Op.EXCHANGE, ino, FILE, *at, *to, ino2=other)


def write(ino: int, start: int, end: int) -> Entry:
    return Entry(0, Op.WRITE, ino, start=start, end=end)


def size(ino: int, end: int) -> Entry:
    return Entry(0, Op.SIZE, ino, end=end)


def attr(ino: int, kind: int = FILE) -> Entry:
    return Entry(0, Op.ATTR, ino, kind)


def planned(*entries: Entry) -> Batch:
    """The batch of `entries` as numbered from 1."""
    return plan([e._replace(id=n) for n, e in enumerate(entries, 1)])


def test_a_new_file_is_made_with_its_content() -> None:
    batch = planned(make(X, F), write(X, 0, 4), attr(X), write(X, 4, 9), size(X, 7), size(X, 20))
    content = Content(smallest=0, size=20, ranges=((0, 7),), attr=True)
    assert batch.names == (
        Make(ids=(1, 2, 3, 4, 5, 6), ino=X, kind=FILE, place=F, content=content),
    )
    assert not batch.pushes


def test_data_of_an_old_file_is_one_push() -> None:
    batch = planned(write(OLD, 50, 60), size(OLD, 8), write(OLD, 6, 10), size(OLD, 40))
    content = Content(smallest=8, size=40, ranges=((6, 10),))
    assert batch.pushes == (Push(ids=(1, 2, 3, 4), ino=OLD, kind=FILE, content=content),)


def test_the_size_stays_unknown_without_a_truncation() -> None:
    (push,) = planned(write(OLD, 0, 5), write(OLD, 9, 12)).pushes
    assert push.content == Content(ranges=((0, 5), (9, 12)))


def test_made_and_removed_is_nothing() -> None:
    batch = planned(make(X, F), write(X, 0, 4), remove(X, F))
    assert batch == Batch((), (), (1, 2, 3), frozenset({1}))


def test_create_write_rename_over_is_one_make_that_replaces() -> None:
    batch = planned(make(X, T), write(X, 0, 4), rename(X, T, F, over=OLD))
    content = Content(smallest=0, size=4, ranges=((0, 4),))
    new = Make(ids=(1, 2, 3), ino=X, kind=FILE, place=F, passed=(T,), content=content, replaces=OLD)
    assert batch.names == (new,)


def test_a_second_save_in_one_window_takes_the_place_of_the_first() -> None:
    saves = [make(X, T), rename(X, T, F, over=OLD), make(Y, T), rename(Y, T, F, over=X)]
    (new,) = planned(*saves).names
    assert isinstance(new, Make)
    assert (new.ids, new.ino, new.place, new.replaces) == ((1, 2, 3, 4), Y, F, OLD)


def test_a_folded_action_knows_every_name_that_it_passed() -> None:
    saves = [make(X, T), rename(X, T, F, over=OLD), make(Y, G), rename(Y, G, F, over=X)]
    (new,) = planned(*saves).names
    assert new.passed == (T, G)


def test_what_has_moved_once_is_not_folded_again() -> None:
    assert planned(make(X, T), rename(X, T, F), rename(X, F, G)).ids == (1, 2)
    assert planned(make(X, T), rename(X, T, F), link(X, G), remove(X, F, flags=0)).ids == (1, 2, 3)
    replacement = [remove(OLD, T), make(X, T)]
    assert planned(*replacement, link(X, F), remove(X, T, flags=0)).ids == (1, 2)


def test_removing_a_replacement_removes_what_it_replaced() -> None:
    batch = planned(make(X, T), rename(X, T, F, over=OLD), write(X, 0, 4), remove(X, F))
    assert batch.names == (Remove(ids=(1, 2, 3, 4), ino=OLD, kind=FILE, place=F, passed=(T,)),)


def test_remove_and_create_is_a_replacement() -> None:
    batch = planned(remove(OLD, F), make(X, F))
    new = Make(ids=(1, 2), ino=X, kind=FILE, place=F, content=EMPTY, replaces=OLD)
    assert batch.names == (new,)


def test_remove_and_rename_there_is_a_replacement() -> None:
    batch = planned(remove(OLD, F), rename(Y, G, F))
    moved = Rename(ids=(1, 2), ino=Y, kind=FILE, place=G, target=F, replaces=OLD)
    assert batch.names == (moved,)


def test_a_name_of_the_same_file_is_not_replaced_by_it() -> None:
    # rename(2) of one name of a file to another of its names does nothing at all
    batch = planned(remove(OLD, F, flags=0), rename(OLD, G, F))
    assert batch.names == (Remove(ids=(1,), ino=OLD, kind=FILE, place=F),)


def test_gits_new_object_is_made_where_it_ends() -> None:
    batch = planned(make(X, T), write(X, 0, 4), link(X, F), remove(X, T, flags=0))
    content = Content(smallest=0, size=4, ranges=((0, 4),))
    new = Make(ids=(1, 2, 3, 4), ino=X, kind=FILE, place=F, passed=(T,), content=content)
    assert batch.names == (new,)


def test_a_lock_that_is_a_link_is_nothing() -> None:
    assert planned(link(OLD, T), remove(OLD, T, flags=0)) == Batch((), (), (1, 2), frozenset({1}))


def test_a_link_stays_where_another_name_has_gone_since() -> None:
    # Home would have no known name left, and the write nowhere to go.
    batch = planned(
        link(OLD, T), remove(OLD, F, flags=0), write(OLD, 0, 4), remove(OLD, T, flags=0)
    )
    assert batch.names == (Link(ids=(1,), ino=OLD, kind=FILE, place=T),)


def test_a_directory_is_cancelled_with_all_that_was_in_it() -> None:
    inside: Place = (D, b"a")
    entries = [make(D, T, DIR), make(X, inside), remove(X, inside), remove(D, T, kind=DIR)]
    assert planned(*entries) == Batch((), (), (1, 2, 3, 4), frozenset({1, D}))


def test_a_directory_is_not_cancelled_under_a_file_that_left_it() -> None:
    # If the file can't be made now, its entries are retried, and begin in that directory.
    entries = [make(D, T, DIR), make(X, (D, b"a")), rename(X, (D, b"a"), F)]
    batch = planned(*entries, remove(D, T, kind=DIR))
    assert [(type(a), a.ids) for a in batch.names] == [(Make, (1,)), (Make, (2, 3))]


def test_data_of_what_dies_is_dropped() -> None:
    batch = planned(write(OLD, 0, 4), attr(OLD), remove(OLD, F))
    assert batch.names == (Remove(ids=(1, 2, 3), ino=OLD, kind=FILE, place=F),)
    assert not batch.pushes
    batch = planned(write(OLD, 0, 4), rename(Y, G, F, over=OLD))
    assert batch.names[0].ids == (1, 2) and not batch.pushes


def test_data_of_what_dies_behind_the_cut_is_not_pushed() -> None:
    batch = planned(rename(Y, F, G), write(OLD, 0, 4), make(X, F), remove(OLD, T))
    assert batch.ids == (1,)


def test_a_file_that_loses_one_of_several_names_is_pushed_first() -> None:
    entries = [write(OLD, 0, 4), remove(OLD, F, flags=0)]
    assert planned(*entries).ids == (1,)
    entries = [write(OLD, 0, 4), make(X, T), rename(X, T, F, over=OLD, flags=0)]
    assert planned(*entries).ids == (1, 2)


def test_a_busy_writer_does_not_keep_a_name_from_going() -> None:
    assert planned(remove(OLD, F, flags=0), write(OLD, 0, 4)).ids == (1, 2)


def test_an_exchange_is_alone_and_its_files_are_at_rest() -> None:
    batch = planned(exchange(OLD, F, Y, G), make(X, T), write(Y, 0, 4), write(500, 0, 4))
    alone = Exchange(ids=(1,), ino=OLD, kind=FILE, place=F, target=G, other=Y)
    assert batch.names == (alone,)
    assert [p.ino for p in batch.pushes] == [500]
    assert planned(make(X, T), exchange(OLD, F, Y, G)).ids == (1,)


def test_data_does_not_wait_as_long_as_its_file_is_swapped() -> None:
    swaps = [exchange(OLD, F, Y, G), exchange(OLD, G, Y, F)] * 2
    batch = planned(write(OLD, 0, 4), *swaps, write(OLD, 0, 4))
    assert batch.ids == (1, 6)
    assert planned(*swaps, write(OLD, 0, 4)).ids == (1,)


CUTS = {
    "a name is made that was freed by a rename": [rename(OLD, F, G), make(X, F)],
    "a name is made that was freed by rmdir": [remove(D, F, kind=DIR), make(X, F)],
    "a made directory moves": [make(D, T, DIR), rename(D, T, F, kind=DIR)],
    "a directory moves after anything": [make(X, T), rename(D, F, G, kind=DIR)],
    "a moved file moves on": [rename(OLD, F, G), rename(OLD, G, T)],
    "a moved file is replaced": [rename(OLD, F, G), rename(Y, T, G, over=OLD)],
    "a linked file is replaced": [link(OLD, F), rename(Y, T, F, over=OLD, flags=0)],
    "a linked file moves": [link(OLD, F), rename(OLD, G, T)],
    "a linked file loses a name": [link(OLD, F), remove(OLD, G, flags=0)],
    "a moved file is linked": [rename(OLD, F, G), link(OLD, T)],
}


@pytest.mark.parametrize("entries", CUTS.values(), ids=CUTS.keys())
def test_a_batch_ends_where(entries: list[Entry]) -> None:
    assert planned(*entries).ids == (1,)


def test_a_batch_ends_before_a_link_to_a_replacement() -> None:
    # In doubt the replacement is made anew, and the link would be to the first one.
    assert planned(remove(OLD, F), make(X, F), link(X, G)).ids == (1, 2)


WHOLE = {
    "links of a new file": [make(X, T), link(X, F), link(X, G)],
    "all names of a file go": [remove(OLD, T, flags=0), remove(OLD, F, flags=0), remove(OLD, G)],
    "an open file is removed and closed": [rename(OLD, F, (2, b"64")), remove(OLD, (2, b"64"))],
    "a directory moves first": [rename(D, F, G, kind=DIR), make(X, (D, b"a"))],
    "a tree is removed": [remove(OLD, (D, b"a")), remove(D, T, kind=DIR)],
}


@pytest.mark.parametrize("entries", WHOLE.values(), ids=WHOLE.keys())
def test_one_batch_where(entries: list[Entry]) -> None:
    assert planned(*entries).ids == tuple(range(1, len(entries) + 1))


def test_what_is_fused_waits_behind_the_cut() -> None:
    batch = planned(rename(OLD, F, G), make(X, F), write(X, 0, 4))
    assert batch.ids == (1,)


@pytest.mark.parametrize("shape", ["one file", "one directory", "one name", "many links"])
def test_a_full_window_takes_no_quadratic_time(shape: str) -> None:
    n = range(1, 8193)
    entries = {
        "one file": [write(OLD, 10 * (i * 7919 % 8192), 10 * i) for i in n],
        "one directory": [make(i, (1, b"%d" % i)) for i in n],
        "one name": [make(i, F) if i % 2 else remove(i - 1, F) for i in n],
        "many links": [link(OLD, (1, b"%d" % i)) for i in n],
    }[shape]
    numbered = [e._replace(id=i) for i, e in zip(n, entries, strict=True)]
    before = time.process_time()
    plan(numbered)
    assert time.process_time() - before < 1  # 0.1 s on a slow machine; quadratic: many seconds
