"""Who gets a replica, who waits, in which order, and what those are told who get none."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llamad.config.model import QueueConfig
from llamad.errors import ServerDownError
from llamad.gateway.admission import Queues
from llamad.gateway.line import Grant
from llamad.gateway.types import Lease, Refusal, Ticket
from llamad.gateway.waiting import Waiter
from llamad.servers.board import Failure, ReplicaKey
from llamad.servers.state import State
from tests.gateway.fleets import Client, SmallFleet, servers, until

OUT_OF_MEMORY = Failure("out-of-gpu-memory", "the GPU has not enough memory", "use fewer layers")
Told = list[tuple[str, Lease | Refusal]]


class Desk:
    """Admission over a small fleet, and everybody who asked."""

    def __init__(self, fleet: SmallFleet, queues: Queues, rejected: list[tuple[str, str]]) -> None:
        self.fleet = fleet
        self.queues = queues
        self.rejected = rejected
        self.told: Told = []

    def ask(
        self, name: str = "one", *, server: str = "a", key: str | None = None, avoid: Lease | None = None
    ) -> Lease | Refusal | Ticket:
        client = Client(name, self.told)
        replica = avoid.replica if avoid is not None else None
        return self.queues.ask(server, key, client.decided, retry=avoid is not None, avoid=replica)

    def lease(self, *, server: str = "a") -> Grant:
        outcome = self.ask(server=server)
        assert isinstance(outcome, Grant), outcome
        return outcome

    def refusal(self, *, server: str = "a", key: str | None = None) -> Refusal:
        outcome = self.ask(server=server, key=key)
        assert isinstance(outcome, Refusal), outcome
        return outcome

    def waiter(self, name: str = "one", *, server: str = "a", key: str | None = None) -> Waiter:
        outcome = self.ask(name, server=server, key=key)
        assert isinstance(outcome, Waiter), outcome
        return outcome

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.told]

    def told_lease(self, position: int = -1) -> Lease:
        outcome = self.told[position][1]
        assert isinstance(outcome, Grant)
        return outcome

    def told_refusal(self, position: int = -1) -> Refusal:
        outcome = self.told[position][1]
        assert isinstance(outcome, Refusal)
        return outcome


@asynccontextmanager
async def desk(*names: str, size: int = 512, timeout: float = 60.0, **fields: object) -> AsyncIterator[Desk]:
    fleet = SmallFleet(servers(*(names or ("a",)), **fields))
    rejected: list[tuple[str, str]] = []
    settings = QueueConfig(size=size, timeout=timeout)
    async with Queues(fleet, settings, rejected=lambda *told: rejected.append(told)) as queues:
        yield Desk(fleet, queues, rejected)


# --- which replica ---


async def test_a_ready_replica_is_given_at_once_and_counted() -> None:
    async with desk() as here:
        key = here.fleet.up("a")
        lease = here.lease()
        assert lease.replica == here.fleet.board.replicas[key]
        assert here.fleet.traffic("a").in_flight(key) == 1
        lease.release()
        assert here.fleet.traffic("a").idle


async def test_a_lease_cannot_be_released_twice() -> None:
    async with desk() as here:
        here.fleet.up("a")
        lease = here.lease()
        lease.release()
        with pytest.raises(AssertionError, match="twice"):
            lease.release()
        assert here.fleet.traffic("a").total == 0


async def test_the_replica_with_the_least_load_for_its_slots_is_taken() -> None:
    async with desk() as here:
        here.fleet.up("a", 0, slots=1)
        here.fleet.up("a", 1, slots=4)
        taken = [here.lease().replica.key.index for _ in range(5)]
        assert sorted(taken) == [0, 1, 1, 1, 1]
        assert taken[:2] == [0, 1]
        here.waiter()


async def test_max_concurrent_goes_before_the_slots() -> None:
    async with desk(max_concurrent=2) as here:
        here.fleet.up("a", slots=1)
        here.lease()
        here.lease()
        here.waiter()


async def test_without_known_slots_the_server_queues_itself() -> None:
    async with desk() as here:
        here.fleet.up("a", slots=None)
        for _ in range(100):
            here.lease()


async def test_slots_that_are_learned_later_count() -> None:
    async with desk() as here:
        key = here.fleet.up("a", slots=1)
        here.lease()
        here.waiter("second")
        here.fleet.board.update(key, slots=2)
        assert here.order == ["second"]


async def test_figures_alone_do_not_touch_the_line() -> None:
    async with desk() as here:
        key = here.fleet.up("a", slots=1)
        moves = here.queues._lines["a"].moves
        here.fleet.board.update(key, busy_slots=1, tokens_per_s=3.0)
        assert here.queues._lines["a"].moves == moves


@pytest.mark.parametrize("state", [State.UNRESPONSIVE, State.DRAINING, State.BACKOFF, State.LOADING])
async def test_only_a_ready_replica_gets_new_requests(state: State) -> None:
    async with desk() as here:
        here.fleet.up("a", 0, slots=8)
        key = here.fleet.up("a", 1, slots=8)
        here.fleet.move(key, state)
        assert {here.lease().replica.key.index for _ in range(8)} == {0}
        here.waiter()


# --- waiting ---


async def test_a_request_waits_for_a_place_and_gets_it_on_release() -> None:
    async with desk() as here:
        here.fleet.up("a")
        lease = here.lease()
        here.waiter("second")
        assert here.fleet.traffic("a").queued == 1
        lease.release()
        assert here.order == ["second"]
        assert here.fleet.traffic("a").queued == 0
        assert here.fleet.traffic("a").total == 1


async def test_nobody_overtakes_who_waits() -> None:
    async with desk() as here:
        key = here.fleet.up("a", slots=1)
        lease = here.lease()
        here.waiter("second")
        here.fleet.move(key, State.UNRESPONSIVE)
        lease.release()
        here.waiter("third")
        here.fleet.move(key, State.READY)
        here.told_lease().release()
        assert here.order == ["second", "third"]


@pytest.mark.parametrize("state", [State.STARTING, State.LOADING, State.BACKOFF])
async def test_requests_wait_while_a_server_comes_up_without_asking_the_fleet(state: State) -> None:
    async with desk() as here:
        key = here.fleet.add("a")
        here.fleet.move(key, state)
        here.waiter("first")
        await asyncio.sleep(0)
        assert here.fleet.asked == []
        here.fleet.up("a", 1)
        assert here.order == ["first"]


async def test_keys_take_turns_and_each_keeps_its_order() -> None:
    async with desk() as here:
        here.fleet.up("a")
        lease: Lease = here.lease()
        for name in ("a1", "a2", "a3", "a4"):
            here.waiter(name, key="a")
        for name in ("b1", "b2"):
            here.waiter(name, key="b")
        here.waiter("c1", key="c")
        for _ in range(7):
            lease.release()
            lease = here.told_lease()
        assert here.order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_the_queue_is_bounded() -> None:
    async with desk(size=2) as here:
        here.fleet.up("a")
        here.lease()
        here.waiter()
        here.waiter()
        refusal = here.refusal()
        assert (refusal.status, refusal.kind) == (503, "queue_full")
        assert refusal.retry_after
        assert "gateway.queue.size" in refusal.message
        assert here.rejected == [("a", "queue_full")]
        assert here.fleet.traffic("a").queued == 2


async def test_a_key_that_fills_the_queue_makes_room_for_another() -> None:
    async with desk(size=3) as here:
        here.fleet.up("a")
        lease = here.lease()
        for name in ("a1", "a2", "a3"):
            here.waiter(name, key="a")
        here.waiter("b1", key="b")
        assert here.order == ["a3"]
        assert here.told_refusal().status == 429
        assert here.told_refusal().retry_after
        assert here.fleet.traffic("a").queued == 3
        assert here.refusal(key="b").kind == "queue_full"  # b has one and a two: that is its share
        lease.release()
        here.told_lease().release()
        assert here.order == ["a3", "a1", "b1"]


async def test_a_queue_of_none_still_starts_what_is_asked_for() -> None:
    async with desk(size=0, start="on-demand") as here:
        assert here.refusal().kind == "queue_full"
        here.fleet.may_start.set()
        await until(lambda: here.fleet.board.replicas)
        here.lease()


async def test_who_waits_too_long_is_refused_and_the_others_stay() -> None:
    async with desk(timeout=0.02) as here:
        here.fleet.up("a")
        lease = here.lease()
        here.waiter("first")
        here.queues.apply(QueueConfig(timeout=60))
        here.waiter("second")
        await until(lambda: here.told)
        assert here.order == ["first"]
        refusal = here.told_refusal()
        assert (refusal.status, refusal.kind) == (503, "queue_timeout")
        assert refusal.retry_after
        assert "no replica of a was free within" in refusal.message
        assert here.rejected == [("a", "queue_timeout")]
        assert here.fleet.traffic("a").queued == 1
        lease.release()
        assert here.order == ["first", "second"]


async def test_a_shorter_timeout_of_a_reload_counts_for_who_comes_after() -> None:
    async with desk(timeout=60) as here:
        here.fleet.up("a")
        here.lease()
        here.waiter("patient")
        here.queues.apply(QueueConfig(timeout=0.01))
        here.waiter("hasty")
        await until(lambda: here.told)
        assert here.order == ["hasty"]


async def test_a_timeout_names_the_failure_behind_it() -> None:
    async with desk(timeout=0.01) as here:
        key = here.fleet.add("a")
        here.fleet.move(key, State.BACKOFF, last_error=OUT_OF_MEMORY)
        here.waiter()
        await until(lambda: here.told)
        assert "the GPU has not enough memory (use fewer layers)" in here.told_refusal().message


async def test_who_leaves_the_queue_is_not_called() -> None:
    async with desk() as here:
        here.fleet.up("a")
        lease = here.lease()
        first, _ = here.waiter("first"), here.waiter("second")
        first.cancel()
        first.cancel()
        assert here.fleet.traffic("a").queued == 1
        lease.release()
        assert here.order == ["second"]
        here.told_lease().release()
        assert here.order == ["second"]
        assert here.fleet.traffic("a").idle


async def test_a_thousand_who_give_back_at_once_do_not_nest() -> None:
    async with desk(size=2000) as here:
        here.fleet.up("a")
        lease = here.lease()
        count = 0

        def decided(outcome: Lease | Refusal) -> None:
            nonlocal count
            assert isinstance(outcome, Grant)
            count += 1
            outcome.release()

        for _ in range(1500):
            here.queues.ask("a", None, decided)
        lease.release()
        assert count == 1500
        assert here.fleet.traffic("a").idle


async def test_who_is_refused_may_make_others_leave() -> None:
    async with desk() as here:
        key = here.fleet.add("a")
        here.fleet.move(key, State.LOADING)
        tickets: list[Ticket] = []
        refused: list[str] = []

        def decided(outcome: Lease | Refusal) -> None:
            assert isinstance(outcome, Refusal)
            refused.append(outcome.kind)
            for ticket in tickets:
                ticket.cancel()

        for _ in range(3):
            ticket = here.queues.ask("a", None, decided)
            assert isinstance(ticket, Waiter)
            tickets.append(ticket)
        here.fleet.fail(key, OUT_OF_MEMORY)
        assert refused == ["out-of-gpu-memory"]
        assert here.fleet.traffic("a").queued == 0


# --- retries ---


async def test_a_retry_goes_to_another_replica_at_once() -> None:
    async with desk() as here:
        here.fleet.up("a", 0, slots=4)
        here.fleet.up("a", 1, slots=4)
        lease = here.lease()
        lease.release()
        again = here.ask(avoid=lease)
        assert isinstance(again, Grant)
        assert again.replica.key.index != lease.replica.key.index


async def test_a_retry_goes_before_all_who_wait() -> None:
    async with desk() as here:
        key = here.fleet.up("a")
        lease = here.lease()
        here.waiter("patient")
        here.fleet.move(key, State.BACKOFF)
        lease.release()
        assert isinstance(here.ask("again", avoid=lease), Waiter)
        here.fleet.ready(key)
        assert here.order == ["again"]
        here.told_lease().release()
        assert here.order == ["again", "patient"]


async def test_a_retry_waits_for_the_restart_of_what_still_looks_ready_and_others_pass() -> None:
    async with desk() as here:
        key = here.fleet.up("a")
        lease = here.lease()
        here.waiter("patient")
        lease.release()
        here.told_lease().release()
        assert isinstance(here.ask("again", avoid=lease), Waiter)
        here.waiter("fresh")
        assert here.order == ["patient"]
        here.fleet.move(key, State.BACKOFF)
        await asyncio.sleep(0.001)  # the clock has to move on: ready_since tells the two lives apart
        here.fleet.ready(key)
        assert here.order == ["patient", "again"]


async def test_a_retry_that_finds_no_other_replica_goes_back_after_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llamad.gateway.waiting.AVOID_FOR", 0.01)
    async with desk() as here:
        here.fleet.up("a")
        lease = here.lease()
        lease.release()
        assert isinstance(here.ask("again", avoid=lease), Waiter)
        assert here.fleet.traffic("a").queued == 1
        await until(lambda: here.told)
        assert here.told_lease().replica == lease.replica


async def test_a_retry_without_a_replica_to_avoid_takes_any_and_else_waits_in_front() -> None:
    async with desk() as here:
        here.fleet.up("a")
        client = Client("again", here.told)
        lease = here.queues.ask("a", None, client.decided, retry=True)
        assert isinstance(lease, Grant)
        here.waiter("patient")
        assert isinstance(here.queues.ask("a", None, client.decided, retry=True), Waiter)
        lease.release()
        assert here.order == ["again"]


async def test_a_retry_is_not_held_to_the_queues_size() -> None:
    async with desk(size=0) as here:
        key = here.fleet.up("a")
        lease = here.lease()
        here.fleet.move(key, State.BACKOFF)
        lease.release()
        waiter = here.ask("again", avoid=lease)
        assert isinstance(waiter, Waiter)
        waiter.cancel()
        assert here.fleet.traffic("a").queued == 0


# --- servers that are not up ---


async def test_many_requests_start_an_on_demand_server_once() -> None:
    async with desk(start="on-demand") as here:
        for position in range(20):
            here.waiter(str(position))
        await until(lambda: here.fleet.asked)
        here.fleet.may_start.set()
        await until(lambda: here.told)
        assert here.order == ["0"]
        for position in range(19):
            here.told_lease(position).release()
        assert here.order == [str(position) for position in range(20)]
        assert here.fleet.asked == ["a"]


async def test_a_start_that_fails_answers_all_who_wait_with_the_cause() -> None:
    async with desk(start="on-demand") as here:
        here.fleet.broken["a"] = ServerDownError(
            "a: no memory", cause="out-of-gpu-memory", hint="use fewer layers", retry_after=12.3
        )
        for position in range(5):
            here.waiter(str(position))
        here.fleet.may_start.set()
        await until(lambda: len(here.told) == 5)
        assert here.order == ["0", "1", "2", "3", "4"]
        refusal = here.told_refusal()
        assert (refusal.status, refusal.kind, refusal.retry_after) == (503, "out-of-gpu-memory", 13)
        assert "use fewer layers" in refusal.message
        assert here.fleet.asked == ["a"]
        assert here.fleet.traffic("a").queued == 0


async def test_a_stopped_server_is_refused_naming_the_command() -> None:
    async with desk() as here:
        here.fleet.may_start.set()
        here.fleet.broken["a"] = ServerDownError("a was stopped", cause="stopped", hint="start it: llamad start a")
        here.waiter()
        await until(lambda: here.told)
        refusal = here.told_refusal()
        assert (refusal.status, refusal.kind, refusal.retry_after) == (503, "stopped", None)
        assert "llamad start a" in refusal.message


async def test_the_next_request_asks_the_fleet_again() -> None:
    async with desk(start="on-demand") as here:
        here.fleet.may_start.set()
        here.fleet.broken["a"] = ServerDownError("a: no", cause="no")
        here.waiter()
        await until(lambda: here.told)
        del here.fleet.broken["a"]
        here.waiter("second")
        await until(lambda: here.order == ["one", "second"])
        assert isinstance(here.told[-1][1], Grant)


async def test_a_server_that_came_and_went_is_asked_for_again() -> None:
    async with desk(start="on-demand") as here:
        here.waiter("first")
        here.waiter("second")
        await until(lambda: here.fleet.asked)
        key = here.fleet.up("a")
        lease = here.told_lease()
        here.fleet.move(key, State.STOPPING)
        here.fleet.move(key, State.STOPPED)
        here.fleet.board.remove(key)
        lease.release()
        here.fleet.may_start.set()
        await until(lambda: here.order == ["first", "second"])


async def test_a_fleet_that_says_ready_and_does_nothing_is_not_asked_in_a_loop() -> None:
    async with desk(start="on-demand") as here:

        async def lie(server: str) -> None:
            here.fleet.asked.append(server)

        here.fleet.ensure_ready = lie  # type: ignore[method-assign]
        here.waiter()
        for _ in range(10):
            await asyncio.sleep(0)
        assert here.fleet.asked == ["a"]
        assert here.told == []


async def test_an_always_on_server_that_stumbles_while_it_comes_keeps_its_queue() -> None:
    async with desk() as here:
        here.waiter("first")
        await until(lambda: here.fleet.asked)
        key = here.fleet.add("a")
        here.fleet.move(key, State.BACKOFF, last_error=OUT_OF_MEMORY)
        here.fleet.broken["a"] = ServerDownError("a: no memory", cause="out-of-gpu-memory")
        here.fleet.may_start.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert here.told == []
        here.fleet.ready(key)
        assert here.order == ["first"]


async def test_a_failed_server_answers_at_once_with_cause_hint_and_when_it_is_tried_again() -> None:
    async with desk() as here:
        key = here.fleet.add("a")
        here.fleet.fail(key, OUT_OF_MEMORY, retry_in=300)
        refusal = here.refusal()
        assert (refusal.status, refusal.kind) == (503, "out-of-gpu-memory")
        assert "use fewer layers" in refusal.message
        assert refusal.retry_after in (299, 300)
        assert here.rejected == [("a", "out-of-gpu-memory")]
        assert here.fleet.asked == []


async def test_a_failure_reaches_all_who_wait() -> None:
    async with desk() as here:
        key = here.fleet.add("a")
        here.fleet.move(key, State.STARTING)
        for position in range(3):
            here.waiter(str(position))
        here.fleet.fail(key, OUT_OF_MEMORY)
        assert here.order == ["0", "1", "2"]
        assert {outcome.kind for _, outcome in here.told if isinstance(outcome, Refusal)} == {"out-of-gpu-memory"}
        assert here.told_refusal().retry_after is None


async def test_one_failed_replica_of_two_does_not_matter() -> None:
    async with desk() as here:
        here.fleet.up("a", 0)
        here.fleet.fail(here.fleet.add("a", 1), OUT_OF_MEMORY)
        here.lease()
        here.waiter()


async def test_a_failed_server_whose_next_try_is_near_is_waited_for() -> None:
    async with desk() as here:
        key = here.fleet.add("a")
        here.fleet.fail(key, OUT_OF_MEMORY, retry_in=2)
        here.waiter("first")
        here.fleet.ready(key)
        assert here.order == ["first"]


async def test_requests_wait_through_a_stop_first_replace() -> None:
    async with desk() as here:
        old = here.fleet.up("a")
        lease = here.lease()
        here.fleet.move(old, State.DRAINING)
        here.waiter("first")
        lease.release()
        here.fleet.move(old, State.STOPPING)
        here.fleet.move(old, State.STOPPED)
        here.fleet.board.remove(old)
        here.fleet.up("a", generation=1)
        assert here.order == ["first"]
        assert here.told_lease().replica.key.generation == 1


async def test_a_start_first_replace_moves_requests_over_at_once() -> None:
    async with desk() as here:
        old = here.fleet.up("a", slots=1)
        lease = here.lease()
        here.waiter("first")
        here.fleet.up("a", generation=1)
        assert here.order == ["first"]
        here.fleet.move(old, State.DRAINING)
        lease.release()
        here.waiter("second")
        here.told_lease().release()
        assert here.told_lease().replica.key == ReplicaKey("a", 0, 1)


# --- configuration ---


async def test_an_unknown_server_is_refused() -> None:
    async with desk() as here:
        assert here.refusal(server="b").status == 404


async def test_who_waits_for_a_server_that_is_taken_away_is_told() -> None:
    async with desk("a", "b") as here:
        here.fleet.up("a")
        here.fleet.up("b")
        lease = here.lease()
        here.waiter("first")
        here.fleet.configs = servers("b")
        here.lease(server="b")
        assert here.order == ["first"]
        assert (here.told_refusal().status, here.told_refusal().kind) == (404, "model_not_found")
        assert here.refusal().status == 404
        lease.release()
        assert here.fleet.traffic("a").idle


async def test_a_change_on_the_board_is_enough_to_notice_a_removal() -> None:
    async with desk("a", "b") as here:
        key = here.fleet.up("a")
        here.lease()
        here.waiter("first")
        here.fleet.configs = servers("b")
        here.fleet.move(key, State.DRAINING)
        assert here.order == ["first"]


async def test_a_new_limit_counts_at_once() -> None:
    async with desk() as here:
        here.fleet.up("a", slots=1)
        here.lease()
        here.waiter("second")
        here.fleet.configs = servers("a", max_concurrent=2)
        here.queues.apply(QueueConfig())
        assert here.order == ["second"]


async def test_a_server_that_left_and_came_back_counts_in_its_new_record() -> None:
    async with desk() as here:
        here.fleet.up("a")
        lease = here.lease()
        here.waiter("first")
        old = here.fleet.traffic("a")
        here.fleet.move(lease.replica.key, State.UNRESPONSIVE)
        here.fleet._traffic.clear()
        here.queues.apply(QueueConfig())
        assert (old.queued, here.fleet.traffic("a").queued) == (0, 1)
        lease.release()
        assert old.idle
        here.fleet.move(lease.replica.key, State.READY)
        assert here.order == ["first"]
        assert here.fleet.traffic("a").total == 1


async def test_leaving_refuses_all_who_wait_and_ends_what_was_asked_of_the_fleet() -> None:
    async with desk("a", "b", start="on-demand") as here:
        here.waiter("first")
        here.fleet.up("b")
        lease = here.lease(server="b")
        here.waiter("second", server="b")
        await until(lambda: here.fleet.asked)
    assert here.order == ["first", "second"]
    assert {outcome.kind for _, outcome in here.told if isinstance(outcome, Refusal)} == {"stopping"}
    lease.release()
    assert here.refusal().status == 404


class Story:
    """Random asks, releases, cancels, deaths and returns, with its own count of everybody."""

    def __init__(self, here: Desk, chance: random.Random) -> None:
        self.here = here
        self.chance = chance
        self.replicas = [here.fleet.up("a", index, slots=2) for index in range(2)]
        self.held: list[Lease] = []
        self.waiting: dict[int, Ticket] = {}
        self.asked = self.over = 0

    def step(self) -> None:
        step = self.chance.random()
        if step < 0.5:
            self.ask()
        elif step < 0.8 and self.held:
            self.over += 1
            self.held.pop(self.chance.randrange(len(self.held))).release()
        elif step < 0.9 and self.waiting:
            self.over += 1
            self.waiting.pop(self.chance.choice(list(self.waiting))).cancel()
        else:
            self.turn(self.chance.choice(self.replicas))

    def ask(self) -> None:
        self.asked += 1
        number = self.asked
        avoid = self.chance.choice(self.held).replica if self.held and self.chance.random() < 0.1 else None
        outcome = self.here.queues.ask(
            "a", self.chance.choice("xyz"), lambda told: self.take(number, told), retry=avoid is not None, avoid=avoid
        )
        if isinstance(outcome, Waiter):
            self.waiting[number] = outcome
        else:
            assert isinstance(outcome, Grant | Refusal)
            self.keep(outcome)

    def take(self, number: int, outcome: Lease | Refusal) -> None:
        del self.waiting[number]
        self.keep(outcome)

    def keep(self, outcome: Lease | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self.over += 1
        else:
            self.held.append(outcome)

    def turn(self, key: ReplicaKey) -> None:
        if self.here.fleet.board.replicas[key].state is State.READY:
            self.here.fleet.move(key, State.BACKOFF)
        else:
            self.here.fleet.ready(key, slots=2)


@pytest.mark.parametrize("seed", range(20))
async def test_any_story_keeps_the_counts(seed: int) -> None:
    async with desk(size=8) as here:
        story = Story(here, random.Random(seed))
        traffic = here.fleet.traffic("a")
        for _ in range(300):
            story.step()
            assert traffic.total == len(story.held)
            assert traffic.queued == len(story.waiting)
            assert story.asked == len(story.held) + len(story.waiting) + story.over
