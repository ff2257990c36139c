"""What waits for what, rule by rule. That it suffices: test_coalesce.py, where levels run in any
order and actions fail at random."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import world
from test_coalesce import Steps, live, lives
from test_coalesce_rules import (
    DIR,
    OLD,
    D,
    F,
    G,
    T,
    X,
    Y,
    attr,
    exchange,
    link,
    make,
    planned,
    remove,
    rename,
    size,
    write,
)

from afmfs.model.entry import Entry
from afmfs.model.order import Dependence, Held, Owed, _of_entry, dependents, levels, split_held

IN_D = (D, b"a")


def shape(*entries: Entry) -> list[list[int]]:
    return [[a.ids[0] for a in level] for level in levels(planned(*entries).names)]


def held(*entries: Entry, requeued: set[int]) -> list[int]:
    numbered = [e._replace(id=n) for n, e in enumerate(entries, 1)]
    ready, waiting = split_held(numbered, requeued)
    assert sorted(ready + waiting) == numbered
    return [e.id for e in waiting]


def test_what_is_independent_shares_a_level() -> None:
    assert shape(make(X, T), make(Y, F), remove(OLD, G)) == [[1, 2, 3]]


def test_a_directory_comes_before_what_is_in_it() -> None:
    assert shape(make(D, T, DIR), make(Y, F), make(X, IN_D)) == [[1, 2], [3]]


def test_a_directory_goes_after_what_was_in_it() -> None:
    entries = [remove(OLD, IN_D), rename(Y, (D, b"b"), F), make(X, T), remove(D, G, kind=DIR)]
    assert shape(*entries) == [[1, 2, 3], [4]]


def test_a_directory_goes_after_what_only_passed_it() -> None:
    entries = [make(X, IN_D), rename(X, IN_D, F), remove(D, G, kind=DIR)]
    assert shape(*entries) == [[1], [3]]


def test_one_inode_is_worked_on_in_order() -> None:
    assert shape(make(X, T), link(X, F), link(X, G)) == [[1], [2], [3]]


def test_a_moving_directory_moves_alone() -> None:
    assert shape(rename(D, F, G, kind=DIR), make(X, T), make(Y, IN_D)) == [[1], [2, 3]]


def test_nothing_runs_beside_the_move_of_a_directory() -> None:
    actions = [planned(e).names[0] for e in (make(X, T), rename(D, F, G, kind=DIR), make(Y, IN_D))]
    assert levels(actions) == [[a] for a in actions]


def test_a_passed_name_is_used_after() -> None:
    saved = [make(X, T), rename(X, T, F)]
    assert shape(*saved, make(Y, T)) == [[1], [3]]
    assert shape(*saved, make(Y, T), rename(Y, T, G)) == [[1, 3]]  # two saves by one name


def test_what_failed_stops_what_needs_it_and_nothing_else() -> None:
    names = planned(make(D, T, DIR), make(X, IN_D), link(X, F), make(Y, G)).names
    assert [a.ids for a in dependents(names, {1})] == [(2,), (3,)]
    assert [a.ids for a in dependents(names, {2})] == [(3,)]
    assert dependents(names, set()) == []


def test_a_directory_that_could_not_be_emptied_is_not_replaced() -> None:
    (emptied,) = planned(remove(OLD, IN_D)).names
    (moved,) = planned(rename(Y, T, F, over=D, kind=DIR)).names
    moved = replace(moved, ids=(2,))
    assert dependents([emptied, moved], {1}) == [moved]


def test_what_fails_one_after_the_other_stops_each_that_needs_any_of_it_once() -> None:
    names = planned(make(D, T, DIR), make(OLD, G, DIR), make(X, IN_D), make(Y, (OLD, b"a"))).names
    dependence = Dependence(names)
    assert [dependence.fail(names[n]) for n in (1, 3, 0, 2)] == [{4}, set(), {3}, set()]


def test_what_is_held_page_by_page_is_what_is_held_at_once() -> None:
    entries = [rename(OLD, F, G), make(X, F), make(Y, T), link(X, IN_D), remove(OLD, G)]
    numbered = [e._replace(id=n) for n, e in enumerate(entries, 1)]
    pages = Held({1})
    ready = [one.id for e in numbered for one in pages.split([e])[0]]
    assert ready == [e.id for e in split_held(numbered, {1})[0]] == [3]


def test_what_touches_a_held_name_or_inode_waits() -> None:
    assert held(rename(OLD, F, G), make(X, F), make(Y, T), requeued={1}) == [1, 2]
    assert held(rename(OLD, F, G), remove(OLD, G), requeued={1}) == [1, 2]
    assert held(rename(X, T, F, over=OLD), remove(Y, F), requeued={1}) == [1, 2]
    assert held(make(X, T), write(X, 0, 4), attr(OLD), requeued={1}) == [1, 2]


def test_data_reaches_a_file_that_is_not_renamed_yet() -> None:
    assert held(rename(OLD, F, G), write(OLD, 0, 4), requeued={1}) == [1]


def test_a_refused_attribute_keeps_no_name_back() -> None:
    assert held(attr(D, DIR), make(X, IN_D), rename(D, F, G, kind=DIR), requeued={1}) == [1]
    assert held(write(OLD, 0, 4), remove(OLD, F), requeued={1}) == [
        1
    ]  # makes room where there is none
    assert held(write(OLD, 0, 4), size(OLD, 2), requeued={1}) == [1, 2]


def test_data_goes_before_one_of_several_names() -> None:
    assert held(write(OLD, 0, 4), remove(OLD, F, flags=0), requeued={1}) == [1, 2]
    assert held(write(OLD, 0, 4), rename(X, T, F, over=OLD, flags=0), requeued={1}) == [1, 2]


def test_a_directory_waits_for_what_was_in_it() -> None:
    assert held(remove(OLD, IN_D), remove(D, F, kind=DIR), requeued={1}) == [1, 2]
    assert held(remove(OLD, IN_D), rename(Y, T, F, over=D, kind=DIR), requeued={1}) == [1, 2]


def test_files_are_made_in_a_directory_that_is_not_renamed_yet() -> None:
    assert held(rename(D, F, G, kind=DIR), make(X, IN_D), requeued={1}) == [1]


def test_directories_move_in_order() -> None:
    entries = [rename(D, (Y, b"d"), F, kind=DIR), rename(Y, T, IN_D, kind=DIR), make(X, G)]
    assert held(*entries, requeued={1}) == [1, 2]
    assert held(exchange(OLD, F, X, G), rename(Y, T, IN_D, kind=DIR), requeued={1}) == [1, 2]


def test_what_depends_on_held_entries_is_held() -> None:
    assert held(rename(OLD, F, G), make(D, F, DIR), make(X, IN_D), requeued={1}) == [1, 2, 3]


def test_what_is_looked_at_ahead_leaves_no_trace_behind() -> None:
    entries = [rename(OLD, F, G), make(X, T), make(Y, F), link(X, IN_D)]
    first, *rest = [e._replace(id=n) for n, e in enumerate(entries, 1)]
    here = Held({1, 4})
    here.split([first])
    ahead = here.ahead()
    assert [e.id for e in ahead.split(rest)[0]] == [2]
    again = here.ahead()
    assert [e.id for e in again.split(rest)[0]] == [2]
    here.follow(again)
    linked = attr(D, DIR)._replace(id=5), remove(X, IN_D)._replace(id=6)
    assert [e.id for e in here.split(linked)[0]] == [5]


def test_a_whole_inode_waits() -> None:
    waiting = Held(set(), Owed(frozenset({X})))
    entries = [make(X, T), write(X, 0, 4), make(Y, F), rename(Y, F, T, over=X)]
    numbered = [e._replace(id=n) for n, e in enumerate(entries, 1)]
    assert [e.id for e in waiting.split(numbered)[0]] == [3]


def test_names_in_a_directory_that_is_not_made_wait() -> None:
    waiting = Held(set(), Owed(frozenset({D}), frozenset({D})))
    entries = [rename(X, T, IN_D), rename(Y, IN_D, F), make(OLD, G), write(X, 0, 4)]
    numbered = [e._replace(id=n) for n, e in enumerate(entries, 1)]
    assert [e.id for e in waiting.split(numbered)[1]] == [1, 2]
    there = Held(set(), Owed(frozenset({D})))
    assert there.split(numbered)[1] == []


def test_below_a_directory_that_is_not_made_little_has_to_be_remembered() -> None:
    """A queue of millions may wait for one directory."""
    waiting = Held({1})
    waiting.split([make(D, T, DIR)._replace(id=1)])
    before = len(waiting)
    files = [make(ino, (D, b"%d" % ino))._replace(id=ino) for ino in range(100, 200)]
    assert waiting.split(files)[0] == []
    assert len(waiting) == before + 2 * len(files)


@settings(max_examples=200, deadline=None)
@given(lives(), st.sets(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 30))
def test_what_is_held_is_what_any_trace_of_it_holds(
    steps: Steps, requeued: set[int], page: int
) -> None:
    """Traces that are not remembered are no loss: judged by all of them, the same waits, looked at
    a page at a time, and twice."""
    cache, _ = world()
    for step in steps:
        live(cache, step)
    entries = cache.queue
    traces: set[object] = set()
    waits = []
    for e in entries:
        minds, leaves = _of_entry(e)
        if e.id in requeued or traces.intersection(minds):
            waits.append(e.id)
            traces.update(leaves)
    here, held = Held(requeued), list[int]()
    for n in range(0, len(entries), page):
        here.ahead().split(entries[n:])
        ahead = here.ahead()
        held += [e.id for e in ahead.split(entries[n : n + page])[1]]
        here.follow(ahead)
    assert held == waits
