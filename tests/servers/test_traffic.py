"""Requests in flight and waiting."""

import asyncio

from llamad.servers.board import ReplicaKey
from llamad.servers.traffic import Traffic

A, B = ReplicaKey("a", 0), ReplicaKey("a", 1)


def test_requests_are_counted_by_replica_and_the_last_use_is_known() -> None:
    now = [10.0]
    traffic = Traffic(lambda: now[0])
    assert (traffic.last_used, traffic.idle) == (10.0, True)
    now[0] = 11.0
    traffic.begin(A)
    traffic.begin(A)
    traffic.begin(B)
    assert (traffic.in_flight(A), traffic.in_flight(B), traffic.total) == (2, 1, 3)
    assert traffic.last_used == 11.0
    now[0] = 12.0
    for key in (A, A, B):
        assert (traffic.total > 0, traffic.idle) == (True, False)
        traffic.end(key)
    assert (traffic.last_used, traffic.idle) == (12.0, True)
    traffic.queued = 1
    assert not traffic.idle


async def test_a_replica_is_drained_when_its_own_requests_are_over() -> None:
    traffic = Traffic(lambda: 0.0)
    await traffic.drained(A)
    traffic.begin(A)
    traffic.begin(B)
    waiting = asyncio.ensure_future(traffic.drained(A))
    await asyncio.sleep(0)
    traffic.end(B)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    traffic.end(A)
    await asyncio.wait_for(waiting, 1)
