"""The planner's laws, on random lives of a small tree. Rules by name: test_coalesce_rules.py."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Cache, world

from afmfs.model.coalesce import plan

NUMBER = st.integers(0, 99)
OPERATIONS = ["make", "make", "write", "write", "truncate", "chmod", "setxattr", "remove", "remove"]
OPERATIONS += ["remove_open", "rename", "rename", "rename", "link", "link", "exchange"]
LIFE = st.tuples(st.sampled_from(OPERATIONS), NUMBER, NUMBER, NUMBER)


def gateway_steps(*names: str) -> st.SearchStrategy[tuple[str, int, int, int]]:
    return st.tuples(st.sampled_from(names), NUMBER, NUMBER, NUMBER)


def live(cache: Cache, step: tuple[str, int, int, int]) -> None:
    getattr(cache, step[0])(*step[1:])


def play(steps: list[tuple[str, int, int, int]], window: int) -> None:
    cache, gateway = world()
    for step in steps:
        rnd = Random(step[1])
        if step[0] == "batch":
            gateway.run(rnd, 1 + step[2] % window)
        elif step[0] == "interrupted":
            gateway.interrupted(rnd, 1 + step[2] % window)
        elif step[0] == "failing":
            gateway.run(rnd, 1 + step[2] % window, lambda r=rnd: r.random() < 0.3)
        elif step[0] == "release":
            gateway.requeued = {i for i in gateway.requeued if rnd.random() < 0.5}
        else:
            live(cache, step)
            continue
        if not gateway.flight:
            gateway.check_places()
            gateway.check_rest()
    gateway.requeued.clear()
    while gateway.unexecuted():
        gateway.run(Random(0), window)
        gateway.check_places()
        gateway.check_rest()
    gateway.check_same()


@settings(max_examples=500, deadline=None)
@given(st.lists(LIFE, max_size=50), st.integers(1, 60))
def test_batch_after_batch_is_entry_after_entry(
    steps: list[tuple[str, int, int, int]], window: int
) -> None:
    cache, gateway = world()
    for step in steps:
        live(cache, step)
    gateway.check_rest()
    while gateway.unexecuted():
        gateway.run(Random(window), window)
        gateway.check_places()
        gateway.check_rest()
    gateway.check_same()


@settings(max_examples=700, deadline=None)
@given(st.lists(LIFE | gateway_steps("batch", "interrupted"), max_size=50))
def test_a_batch_in_doubt_is_executed_again_without_harm(
    steps: list[tuple[str, int, int, int]],
) -> None:
    play(steps, window=40)


@settings(max_examples=500, deadline=None)
@given(st.lists(LIFE | gateway_steps("batch", "failing", "interrupted", "release"), max_size=50))
def test_what_failed_waits_and_what_depends_on_it_too(
    steps: list[tuple[str, int, int, int]],
) -> None:
    play(steps, window=40)


@settings(max_examples=300, deadline=None)
@given(st.lists(LIFE, max_size=50))
def test_every_entry_is_in_one_place(steps: list[tuple[str, int, int, int]]) -> None:
    cache, _ = world()
    for step in steps:
        live(cache, step)
    batch = plan(cache.queue)
    assert batch.ids or not cache.queue
    assert len(set(batch.ids)) == len(batch.ids)
    assert plan([e for e in cache.queue if e.id in batch.ids]) == batch
    for a in (*batch.names, *batch.pushes):
        assert a.ids == tuple(sorted(a.ids))
