"""The queue on its own: order, turns, room, and that it counts right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.gateway.fairqueue import FairQueue


def filled(*items: str) -> FairQueue[str]:
    """`a1` is of key `a`."""
    queue: FairQueue[str] = FairQueue()
    for item in items:
        queue.push(item[0], item)
    return queue


def drain(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_keys_take_turns() -> None:
    assert drain(filled("a1", "a2", "a3", "b1", "c1", "c2")) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_an_empty_queue_has_nothing_to_give() -> None:
    with pytest.raises(IndexError):
        filled().pop()


def test_the_front_goes_first_in_its_own_order() -> None:
    queue = filled("a1")
    queue.push_front("b", "b1")
    queue.push_front("c", "c1")
    assert list(queue) == ["b1", "c1", "a1"]
    assert drain(queue) == ["b1", "c1", "a1"]


def test_discarding_takes_out_one_wherever_it_waits() -> None:
    queue = filled("a1", "a2", "b1")
    queue.push_front("c", "c1")
    for key, item in (("a", "a1"), ("c", "c1"), ("b", "b1"), ("b", "b1"), ("x", "x1"), ("a", "a9")):
        queue.discard(key, item)
    assert len(queue) == 1
    assert drain(queue) == ["a2"]


def test_room_is_made_by_the_newest_of_the_longest_line() -> None:
    queue = filled("a1", "a2", "a3", "b1")
    assert queue.make_room("c") == "a3"
    assert queue.make_room("a") is None
    assert queue.make_room("b") is None
    assert len(queue) == 3


def test_the_front_makes_no_room() -> None:
    queue = filled()
    queue.push_front("a", "a1")
    assert queue.make_room("b") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40))
def test_nobody_is_lost_and_each_key_keeps_its_order(items: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for item in items:
        queue.push(item[0], item)
    out = [queue.pop() for _ in items]
    assert not len(queue)
    for key in "abc":
        assert [one for one in out if one[0] == key] == [one for one in items if one[0] == key]
