"""Who may run beside whom."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llamad.servers.residency import Resident, Verdict, room_for
from tests.stories import a_server


def resident(name: str, *, idle: bool = True, used: float = 0.0, leaving: bool = False, **config: Any) -> Resident:
    """An on-demand server that has processes."""
    return Resident(a_server(name, **{"start": "on-demand", **config}), idle, used, leaving)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"memory": 5}, {"host": 5}),
        ({"memory": {0: 5, 1: 6}}, {0: 5, 1: 6}),
        ({"memory": 5, "gpus": ((0, 1),)}, {0: 5, 1: 5}),
        ({"memory": 5, "gpus": ((0,), (0,)), "replicas": 2}, {0: 10}),
        ({"memory": 5, "gpus": ((0,), (1,)), "replicas": 2}, {0: 5, 1: 5}),
        ({"memory": 5, "gpus": "all"}, {"host": 5}),
        ({"memory": 5, "gpus": (("GPU-aa",),)}, {"host": 5}),
        ({"memory": 5, "replicas": 3}, {"host": 15}),
    ],
)
def test_what_a_server_needs(config: dict[str, Any], expected: dict[object, int]) -> None:
    assert a_server(**config).memory_needs == expected


def test_without_group_and_memory_it_may_start() -> None:
    assert room_for(a_server(), [resident("b", memory=5)], {"host": 5}) == Verdict()


def test_without_a_budget_for_the_device_it_may_start() -> None:
    assert room_for(a_server(memory=50), [resident("b", memory=5)], {0: 5}) == Verdict()


def test_itself_is_not_in_its_own_way() -> None:
    assert room_for(a_server(memory=5, group="g"), [resident("a", memory=5, group="g")], {"host": 5}) == Verdict()


def test_of_a_group_the_idle_go_and_the_busy_and_the_leaving_are_waited_for() -> None:
    there = [
        resident("idle", group="g"),
        resident("busy", group="g", idle=False),
        resident("leaving", group="g", leaving=True),
        resident("other", group="h"),
        resident("none"),
    ]
    assert room_for(a_server(group="g"), there, {}) == Verdict(evict=("idle",), wait=("busy", "leaving"))


def test_one_of_the_group_that_may_not_make_way_is_named() -> None:
    verdict = room_for(a_server(group="g"), [resident("b", group="g", start="always")], {})
    assert verdict == Verdict(never="b is of the same group, runs, and is not evictable")
    leaving = [resident("b", group="g", start="always", leaving=True)]
    assert room_for(a_server(group="g"), leaving, {}) == Verdict(wait=("b",))
    evictable = [resident("b", group="g", start="always", evictable=True)]
    assert room_for(a_server(group="g"), evictable, {}) == Verdict(evict=("b",))


def test_what_fits_disturbs_nobody() -> None:
    assert room_for(a_server(memory=3), [resident("b", memory=5)], {"host": 8}) == Verdict()


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    there = [resident(name, memory=2, used=used) for name, used in (("new", 30), ("old", 10), ("middle", 20))]
    assert room_for(a_server(memory=4), there, {"host": 6}) == Verdict(evict=("old", "middle"))


def test_idle_ones_go_before_busy_ones_are_waited_for() -> None:
    there = [resident("busy", memory=4, idle=False, used=1), resident("idle", memory=4, used=9)]
    assert room_for(a_server(memory=4), there, {"host": 8}) == Verdict(evict=("idle",))
    assert room_for(a_server(memory=8), there, {"host": 8}) == Verdict(evict=("idle",), wait=("busy",))


def test_who_leaves_anyway_is_enough() -> None:
    there = [resident("leaving", memory=4, leaving=True), resident("idle", memory=4)]
    assert room_for(a_server(memory=4), there, {"host": 8}) == Verdict(wait=("leaving",))


def test_only_those_on_the_crowded_device_are_disturbed() -> None:
    there = [resident("other", memory={1: 8}), resident("here", memory={0: 8}, used=5)]
    assert room_for(a_server(memory={0: 4}), there, {0: 8, 1: 8}) == Verdict(evict=("here",))


def test_more_than_the_budget_never_fits() -> None:
    verdict = room_for(a_server(memory={0: 9}), [], {0: 8})
    assert verdict == Verdict(never="it needs 9 of GPU 0, and gateway.memory_budget has 8 for it")


def test_those_who_may_not_make_way_are_named() -> None:
    there = [resident("b", memory=5, start="always"), resident("c", memory=1), resident("d", memory={0: 5})]
    verdict = room_for(a_server(memory=5), there, {"host": 8})
    assert verdict == Verdict(never="its memory does not fit beside b, which may not make way")


def test_group_and_memory_are_asked_together() -> None:
    there = [resident("rival", group="g", memory=4), resident("full", memory=4, used=1)]
    assert room_for(a_server(group="g", memory=8), there, {"host": 8}) == Verdict(evict=("rival", "full"))
    there[1] = resident("full", memory=4, start="always")
    assert room_for(a_server(group="g", memory=8), there, {"host": 8}).never is not None


@settings(max_examples=60)
@given(
    size=some.integers(0, 10),
    drawn=some.lists(some.tuples(some.integers(0, 10), some.booleans(), some.booleans(), some.booleans()), max_size=5),
    budget=some.integers(0, 20),
)
def test_what_is_asked_for_makes_it_fit(size: int, drawn: list[tuple[int, bool, bool, bool]], budget: int) -> None:
    there = [
        resident(f"s{i}", memory=memory, idle=idle, leaving=leaving, used=i, evictable=evictable)
        for i, (memory, idle, leaving, evictable) in enumerate(drawn)
    ]
    verdict = room_for(a_server(memory=size), there, {"host": budget})
    by_name = {one.config.name: one for one in there}
    assert not {*verdict.evict} & {*verdict.wait}
    assert all(by_name[name].idle and not by_name[name].leaving for name in verdict.evict)
    assert all(by_name[name].leaving or by_name[name].config.evictable for name in (*verdict.evict, *verdict.wait))
    stay = sum(drawn[i][0] for i, one in enumerate(there) if one.config.name not in (*verdict.evict, *verdict.wait))
    assert verdict.never is not None or size + stay <= budget or size == stay == 0


@pytest.mark.parametrize(("memory", "name"), [({0: 6 << 30}, "GPU 0"), (6 << 30, "the host")])
def test_sizes_are_for_people(memory: Any, name: str) -> None:
    words = f"it needs 6G of {name}, and gateway.memory_budget has 4.5G for it"
    assert room_for(a_server("a", memory=memory), (), {0: 9 << 29, "host": 9 << 29}) == Verdict(never=words)
