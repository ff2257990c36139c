"""The planner's laws, on random lives of a small tree. Rules by name: test_coalesce_rules.py."""

from __future__ import annotations

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_cache import Cache
from simulation import world

from afmfs.model.coalesce import plan
from afmfs.model.entry import DATA_OPS, LAST, Entry, Op

Step = tuple[str, int, int, int]
Steps = list[Step]

CHANGES = ["make", "write", "truncate", "chmod", "setxattr", "remove", "remove_open"]
CHANGES += ["rename", "link", "exchange"]


def lives(*gateway: str) -> st.SearchStrategy[Steps]:
    """What applications do, and now and then the gateway. Each life is of few kinds of operations:
    so that they get in each other's way more than an even mix ever would."""
    number = st.integers(0, 99)
    some = st.lists(st.sampled_from(CHANGES), min_size=1, max_size=6).map(lambda s: ["make", *s])
    mixed = some.map(lambda s: s * 2 + list(gateway))
    return mixed.flatmap(
        lambda s: st.lists(
            st.tuples(st.sampled_from(s), number, number, number), min_size=15, max_size=45
        )
    )


def live(cache: Cache, step: Step) -> None:
    getattr(cache, step[0])(*step[1:])


def play(steps: Steps, window: int) -> None:
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


@settings(max_examples=200, deadline=None)
@given(lives(), st.integers(1, 60))
def test_batch_after_batch_is_entry_after_entry(steps: Steps, window: int) -> None:
    cache, gateway = world()
    for step in steps:
        live(cache, step)
    gateway.check_rest()
    while gateway.unexecuted():
        gateway.run(Random(window), window)
        gateway.check_places()
        gateway.check_rest()
    gateway.check_same()


@settings(max_examples=200, deadline=None)
@given(lives("batch", "interrupted", "interrupted"))
def test_a_batch_in_doubt_is_executed_again_without_harm(
    steps: Steps,
) -> None:
    play(steps, window=40)


@settings(max_examples=200, deadline=None)
@given(lives("batch", "failing", "failing", "interrupted", "release"))
def test_what_failed_waits_and_what_depends_on_it_too(
    steps: Steps,
) -> None:
    play(steps, window=40)


def _goes(queue: list[Entry], data: Entry) -> bool:
    """Whether its inode loses its last name later: that settles it, in whichever batch it is."""
    last = [e for e in queue if e.flags & LAST]
    gone = {e.ino if e.op == Op.REMOVE else e.ino2 for e in last}
    return data.op in DATA_OPS and data.ino in gone


RENAMED_OVER_AFTER_A_CUT: Steps = [
    ("truncate", 1, 0, 0),
    *[("make", 0, 0, 0)] * 12,
    ("rename", 3, 0, 0),
    ("rename", 0, 0, 0),
]


@settings(max_examples=200, deadline=None)
@example(RENAMED_OVER_AFTER_A_CUT)
@given(lives())
def test_every_entry_is_in_one_place(steps: Steps) -> None:
    cache, _ = world()
    for step in steps:
        live(cache, step)
    batch = plan(cache.queue)
    assert batch.ids or not cache.queue
    if cache.queue and cache.queue[0].id not in batch.ids:  # else it waits for no other
        assert _goes(cache.queue, cache.queue[0])
    assert len(set(batch.ids)) == len(batch.ids)
    assert plan([e for e in cache.queue if e.id in batch.ids]) == batch
    names = [e for e in cache.queue if e.id in batch.ids and e.parent is not None]
    assert batch.touched == {d for e in names for d in (e.parent, e.parent2) if d is not None}
    for a in (*batch.names, *batch.pushes):
        assert a.ids == tuple(sorted(a.ids))
