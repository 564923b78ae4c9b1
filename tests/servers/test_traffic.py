"""Requests in flight and waiting, and what engines do beside them."""

import asyncio
from collections.abc import Callable

from llamad.servers.board import ReplicaKey
from llamad.servers.traffic import Traffic

A, B = ReplicaKey("a", 0), ReplicaKey("a", 1)


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def nobody() -> None:
    """A watcher that does nothing."""


def test_requests_are_counted_by_replica_and_the_last_use_is_known() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    assert (traffic.last_used, traffic.idle) == (10.0, True)
    clock.now = 11.0
    flights = [traffic.begin(key) for key in (A, A, B)]
    assert (traffic.in_flight(A), traffic.in_flight(B), traffic.total) == (2, 1, 3)
    assert traffic.last_used == 11.0
    clock.now = 12.0
    for flight in flights:
        assert (traffic.total > 0, traffic.idle) == (True, False)
        traffic.end(flight)
    assert (traffic.last_used, traffic.idle) == (12.0, True)
    traffic.queued = 1
    assert not traffic.idle


async def test_a_replica_is_drained_when_its_own_requests_are_over() -> None:
    traffic = Traffic(lambda: 0.0)
    await traffic.drained(A)
    of_a, of_b = traffic.begin(A), traffic.begin(B)
    waiting = asyncio.ensure_future(traffic.drained(A))
    await asyncio.sleep(0)
    traffic.end(of_b)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    traffic.end(of_a)
    await asyncio.wait_for(waiting, 1)


def test_slots_that_work_for_nobody_here_are_load_and_use() -> None:
    clock, freed = Clock(), []
    traffic = Traffic(clock)
    traffic.freed = lambda: freed.append(clock.now)
    with traffic.watch(A, nobody):
        clock.now = 20.0
        traffic.note(A, 2, active=True, mark=traffic.mark(A))
        assert (traffic.load(A), traffic.others(A), traffic.in_flight(A), traffic.total) == (2, 2, 0, 2)
        assert (traffic.idle, traffic.last_used) == (False, 20.0)
        clock.now = 30.0
        traffic.note(A, 0, active=True, mark=traffic.mark(A))  # worked in between, and is done
        assert (traffic.load(A), traffic.last_used, freed) == (0, 30.0, [30.0])
        clock.now = 40.0
        traffic.note(A, 0, active=False, mark=traffic.mark(A))
        assert (traffic.idle, traffic.last_used, freed) == (True, 30.0, [30.0])
        traffic.note(A, 1, active=True, mark=traffic.mark(A))
    assert (traffic.load(A), traffic.total, traffic.others(A)) == (0, 0, 0)


def test_the_larger_of_what_is_relayed_and_what_works_counts() -> None:
    traffic = Traffic(lambda: 0.0)
    with traffic.watch(A, nobody):
        for _ in range(2):
            traffic.begin(A)
        traffic.note(A, 1, active=True, mark=traffic.mark(A))
        assert traffic.load(A) == 2
        traffic.note(A, 3, active=True, mark=traffic.mark(A))
        assert traffic.load(A) == 3


def test_requests_that_come_and_go_during_a_look_are_not_taken_for_somebody_elses() -> None:
    traffic = Traffic(lambda: 0.0)
    with traffic.watch(A, nobody):
        early = traffic.begin(A)
        mark = traffic.mark(A)
        late = traffic.begin(A)
        traffic.end(early)
        traffic.end(late)
        traffic.note(A, 2, active=True, mark=mark)
        assert traffic.load(A) == 0


def test_a_request_whose_client_has_left_counts_until_a_look_was_made() -> None:
    looks: list[str] = []
    traffic = Traffic(lambda: 0.0)
    with traffic.watch(A, lambda: looks.append("look")):
        flight = traffic.begin(A)
        mark = traffic.mark(A)
        traffic.leave(flight)
        assert (looks, traffic.load(A), traffic.left_behind(A)) == (["look", "look"], 1, True)
        for busy in (0, 1):  # a look that began earlier: it may have counted before the engine began with it, or after
            traffic.note(A, busy, active=True, mark=mark)
            assert (traffic.in_flight(A), traffic.load(A), traffic.left_behind(A)) == (1, 1, True)
        traffic.note(A, 1, active=True, mark=traffic.mark(A))
        assert (traffic.in_flight(A), traffic.load(A), traffic.left_behind(A)) == (0, 1, False)
        traffic.note(A, 0, active=True, mark=traffic.mark(A))
        assert traffic.idle


def test_what_nobody_looks_at_is_over_when_its_client_leaves() -> None:
    traffic = Traffic(lambda: 0.0)
    traffic.leave(traffic.begin(A))
    assert traffic.idle
    with traffic.watch(A, nobody):
        traffic.leave(traffic.begin(A))
    assert (traffic.idle, traffic.left_behind(A)) == (True, False)


def test_a_watched_replica_is_looked_at_when_its_work_begins() -> None:
    looks: list[str] = []
    traffic = Traffic(lambda: 0.0)
    watch: Callable[[], None] = lambda: looks.append("look")  # noqa: E731 - one line says it
    with traffic.watch(A, watch):
        first = traffic.begin(A)
        traffic.begin(A)
        assert len(looks) == 1
        traffic.end(first)
    traffic.begin(B)
    assert len(looks) == 1


def test_the_oldest_request_without_a_byte_is_known() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    with traffic.watch(A, nobody):
        assert traffic.waiting(A) == 0
        first = traffic.begin(A)
        clock.now = 15.0
        traffic.begin(A)
        clock.now = 17.0
        assert traffic.waiting(A) == 7
        first.received = 100
        assert traffic.waiting(A) == 2
        assert traffic.received(A) == 100
        traffic.end(first)
        assert traffic.received(A) == 100


def test_errors_are_counted_until_they_are_forgiven() -> None:
    traffic = Traffic(lambda: 0.0)
    with traffic.watch(A, nobody):
        for _ in range(3):
            traffic.failed(A)
        assert traffic.errors(A) == 3
        traffic.forgive(A)
        assert traffic.errors(A) == 0


def test_the_requests_of_a_process_that_llamad_ends_are_told_why() -> None:
    traffic = Traffic(lambda: 0.0)
    traffic.doom(A, "nobody is there")
    before = traffic.begin(A)
    traffic.doom(A, "hung")
    assert (before.fate, traffic.begin(A).fate) == ("hung", None)


def test_what_was_only_asked_for_is_not_kept() -> None:
    """A replica on its way out is asked for by whoever drains it, after its watcher has gone: for ever, at each end."""
    traffic = Traffic(lambda: 0.0)
    traffic.mark(A), traffic.received(A), traffic.waiting(A), traffic.errors(A), traffic.load(A)
    assert (traffic.others(A), traffic.left_behind(A), traffic.in_flight(A)) == (0, False, 0)
    traffic.doom(A, "why")
    assert traffic._lanes == {}
