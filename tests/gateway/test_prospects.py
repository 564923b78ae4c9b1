"""What a server's replicas promise, and which of them is taken."""

from typing import Any

import pytest

from llamad.config.model import ServerConfig
from llamad.errors import LlamadError, ServerDownError
from llamad.gateway.prospects import Outlook, down_refusal, failure_refusal, outlook, pick, places, timeout_refusal
from llamad.host.address import TcpAddress
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.explain import explain
from llamad.servers.state import State

NOW = 1000.0
S = State


def replica(state: State, index: int = 0, **figures: Any) -> Replica:
    address = TcpAddress("127.0.0.1", 9000 + index)
    return Replica(ReplicaKey("a", index), state, address=address, **figures)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], Outlook.ABSENT),
        ([S.STOPPED], Outlook.ABSENT),
        ([S.DRAINING], Outlook.ABSENT),
        ([S.STOPPING, S.STOPPED], Outlook.ABSENT),
        ([S.READY], Outlook.SERVING),
        ([S.READY, S.FAILED], Outlook.SERVING),
        ([S.DRAINING, S.LOADING], Outlook.COMING),
        ([S.STARTING], Outlook.COMING),
        ([S.BACKOFF, S.FAILED], Outlook.COMING),
        ([S.UNRESPONSIVE], Outlook.COMING),
        ([S.FAILED], Outlook.FAILED),
        ([S.FAILED, S.STOPPED], Outlook.FAILED),
        ([S.FAILED, S.DRAINING], Outlook.ABSENT),
    ],
)
def test_outlook(states: list[State], expected: Outlook) -> None:
    assert outlook([replica(state, index) for index, state in enumerate(states)], NOW) is expected


@pytest.mark.parametrize(("retry_in", "expected"), [(4.9, Outlook.COMING), (5.1, Outlook.FAILED)])
def test_a_failed_replica_is_waited_for_when_its_next_try_is_near(retry_in: float, expected: Outlook) -> None:
    assert outlook([replica(S.FAILED, retry_at=NOW + retry_in)], NOW) is expected


def test_the_least_loaded_place_for_its_slots_wins_and_the_first_of_equals() -> None:
    there = places(ServerConfig(name="a"), [replica(S.READY, 0, slots=2), replica(S.READY, 1, slots=8)])
    counts = {0: 1, 1: 3}
    assert _picked(there, counts) == 1
    assert _picked(there, {0: 0, 1: 0}) == 0
    assert _picked(there, {0: 2, 1: 8}) is None


def _picked(there: list, counts: dict[int, int]) -> int | None:  # type: ignore[type-arg]
    place = pick(there, lambda key: counts[key.index])
    return None if place is None else place.replica.key.index


def test_a_replica_without_an_address_takes_nothing() -> None:
    assert places(ServerConfig(name="a"), [Replica(ReplicaKey("a", 0), S.READY)]) == []


def test_max_concurrent_is_the_limit_but_slots_are_the_weight() -> None:
    (place,) = places(ServerConfig(name="a", max_concurrent=3), [replica(S.READY, slots=2)])
    assert (place.limit, place.weight) == (3, 2)
    (place,) = places(ServerConfig(name="a"), [replica(S.READY)])
    assert (place.limit, place.weight) == (None, 1)


def test_a_refusal_says_what_the_server_says_of_itself() -> None:
    config = ServerConfig(name="a")
    failed = replica(S.FAILED, retry_at=NOW - 1)
    refusal = failure_refusal(explain(config, [failed], running=True), NOW)
    assert (refusal.status, refusal.kind, refusal.retry_after) == (503, "failed", 1)
    assert refusal.message == "a is failed; next try at once"
    broken = replica(S.FAILED, last_error=Failure("exit", "it ended with 1", "look there"))
    refusal = failure_refusal(explain(config, [broken], running=True), NOW)
    assert (refusal.kind, refusal.retry_after) == ("exit", None)
    assert refusal.message == "a is failed: it ended with 1 (look there)"


def test_a_time_out_says_what_the_server_is_doing() -> None:
    config = ServerConfig(name="a")
    loading = replica(S.LOADING, load_progress=0.42)
    refusal = timeout_refusal(explain(config, [loading], running=True), 2, NOW)
    assert refusal.message == "no replica of a was free within 2s: a is loading 42 %"
    refusal = timeout_refusal(explain(config, [replica(S.READY)], running=True), 2, NOW)
    assert refusal.message == "no replica of a was free within 2s"


def test_other_errors_of_the_fleet_are_told_too() -> None:
    refusal = down_refusal("a", LlamadError("no such thing", hint="look there"))
    assert (refusal.status, refusal.kind) == (503, "unavailable")
    assert refusal.message == "a is not available: no such thing (look there)"
    assert down_refusal("a", ServerDownError("x", cause="c", retry_after=0.0)).retry_after == 1
