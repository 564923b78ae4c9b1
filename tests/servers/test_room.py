"""Who makes way for whom, on a clock that jumps."""

import asyncio

import pytest

from llamad.servers.board import Change
from llamad.servers.fleet import PATIENCE
from llamad.servers.room import MEMORY_WAIT
from llamad.servers.state import State
from tests.servers.fleets import NEW, down, failure, now, on_demand, pids, states
from tests.stories import Behaviour, a_fleet, a_world, an_intent, by_name, tell


def test_the_idle_one_of_a_group_makes_way() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a", group="g"), on_demand("b", group="g")) as fleet:
                await fleet.ensure_ready("a")
                await fleet.ensure_ready("b")
                assert not states(fleet, "a")
                await fleet.ensure_ready("a")
                assert not states(fleet, "b")

    tell(story)


def test_servers_of_one_group_never_run_together() -> None:
    async def story() -> None:
        names = ("a", "b", "c")
        with a_world(usual=Behaviour(dies_in=0.7)) as world:
            most = 0

            def note(_: Change) -> None:
                nonlocal most
                most = max(most, len(world.machine.alive))

            async with a_fleet(world, *(on_demand(name, group="g") for name in names)) as fleet:
                with fleet.board.observe(note):
                    await asyncio.gather(*(fleet.ensure_ready(name) for name in names))
            assert most == 1

    tell(story)


def test_the_busy_one_of_a_group_is_waited_for() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a", group="g"), on_demand("b", group="g")) as fleet:
                await fleet.ensure_ready("a")
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                asyncio.get_running_loop().call_later(20, fleet.traffic("a").end, flight)
                await fleet.ensure_ready("b")
                assert now() == pytest.approx(22, abs=0.5)

    tell(story)


def test_an_always_on_one_of_a_group_does_not_make_way() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", group="g"), on_demand("b", group="g")) as fleet:
                await fleet.settled(["a"])
                error = await down(fleet, "b")
                assert error.cause == "no-room"
                assert "a is of the same group" in error.message
                assert failure(fleet, "b") is not None
                assert states(fleet, "a") == [State.READY]
                fleet.stop("a")
                await fleet.ensure_ready("b")
                assert failure(fleet, "b") is None

    tell(story)


def test_the_least_recently_used_makes_way_for_memory() -> None:
    async def story() -> None:
        with a_world() as world:
            servers = [on_demand(name, memory=4) for name in "abc"]
            async with a_fleet(world, *servers, budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                await asyncio.sleep(1)
                await fleet.ensure_ready("b")
                await asyncio.sleep(1)
                await fleet.ensure_ready("a")  # used again
                await asyncio.sleep(1)
                await fleet.ensure_ready("c")
                assert [bool(states(fleet, name)) for name in "abc"] == [True, False, True]

    tell(story)


def test_an_evictable_always_on_one_makes_way_and_comes_back_for_a_request() -> None:
    async def story() -> None:
        with a_world() as world:
            a, b = an_intent("a", memory=4, evictable=True), on_demand("b", memory=6)
            async with a_fleet(world, a, b, budget={"host": 8}) as fleet:
                await fleet.settled(["a"])
                await fleet.ensure_ready("b")
                assert fleet.wanted("a") == "stopped"
                await fleet.ensure_ready("a")
                assert not states(fleet, "b")

    tell(story)


def test_a_start_waits_until_the_memory_is_really_free() -> None:
    async def story() -> None:
        with a_world() as world:
            world.free["host"] = 2
            async with a_fleet(world, on_demand("a", memory=4), on_demand("b", memory=6), budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")  # nothing made way: nothing to wait for
                assert now() < 2
                began = now()
                asyncio.get_running_loop().call_later(3, world.free.__setitem__, "host", 8)
                await fleet.ensure_ready("b")
                assert now() - began == pytest.approx(4, abs=0.3)

    tell(story)


def test_memory_that_never_becomes_free_is_not_waited_for_for_ever() -> None:
    async def story() -> None:
        with a_world() as world:
            world.free["host"] = 2
            async with a_fleet(world, on_demand("a", memory=4), on_demand("b", memory=6), budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                began = now()
                await fleet.ensure_ready("b")
                assert now() - began == pytest.approx(MEMORY_WAIT + 1, abs=0.3)

    tell(story)


def test_one_that_can_never_fit_is_told_so_and_holds_nobody_up() -> None:
    async def story() -> None:
        with a_world() as world:
            servers = (on_demand("a", memory=9), on_demand("b", memory=4))
            async with a_fleet(world, *servers, budget={"host": 8}) as fleet:
                assert (await down(fleet, "a")).cause == "no-room"
                await fleet.ensure_ready("b")
                assert fleet.is_settled("a")
                fleet.apply(by_name(on_demand("a", memory=3), servers[1]), {"host": 8})
                await fleet.ensure_ready("a")
                assert states(fleet, "b") == [State.READY]

    tell(story)


def test_a_larger_budget_lets_a_blocked_one_start() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", memory=9), budget={"host": 8}) as fleet:
                await fleet.settled(["a"])
                assert not states(fleet, "a")
                fleet.apply(by_name(an_intent("a", memory=9)), {"host": 10})
                await fleet.board.wait_for(lambda: states(fleet, "a") == [State.READY])

    tell(story)


def test_one_that_is_up_stays_up_for_requests_while_another_replica_has_no_room() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a", memory=5), budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                fleet.apply(by_name(on_demand("a", memory=5, replicas=2)), {"host": 8})
                await asyncio.sleep(1)
                await fleet.ensure_ready("a")
                assert failure(fleet, "a") is not None

    tell(story)


def test_who_waits_for_a_busy_one_does_not_hold_up_a_third_that_fits() -> None:
    async def story() -> None:
        with a_world() as world:
            servers = [on_demand(name, memory={gpu: 6}) for name, gpu in (("a", 0), ("b", 0), ("c", 1))]
            async with a_fleet(world, *servers, budget={0: 8, 1: 8}) as fleet:
                await fleet.ensure_ready("a")
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                waiting = asyncio.ensure_future(fleet.ensure_ready("b"))
                await asyncio.sleep(5)
                began = now()
                await fleet.ensure_ready("c")
                assert now() - began < 2
                assert not waiting.done()
                fleet.traffic("a").end(flight)
                await waiting

    tell(story)


def test_who_came_first_gets_the_room_that_becomes_free() -> None:
    async def story() -> None:
        with a_world() as world:
            servers = [on_demand("a", memory=6), on_demand("big", memory=8), on_demand("small", memory=2)]
            async with a_fleet(world, *servers, budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                first = asyncio.ensure_future(fleet.ensure_ready("big"))
                await asyncio.sleep(5)
                second = asyncio.ensure_future(fleet.ensure_ready("small"))
                await asyncio.sleep(5)
                assert not states(fleet, "small")  # it would fit beside `a`, and keep `big` from ever starting
                fleet.traffic("a").end(flight)
                await first
                assert not states(fleet, "small")
                await second

    tell(story)


def test_one_that_nobody_waits_for_any_more_gives_up_its_wait_for_room() -> None:
    async def story() -> None:
        with a_world() as world:
            servers = [on_demand("a", memory=6), on_demand("b", memory=6)]
            async with a_fleet(world, *servers, budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                fleet.traffic("b").queued = 1
                waiting = asyncio.ensure_future(down(fleet, "b"))
                await asyncio.sleep(2 * PATIENCE)
                assert not waiting.done()
                fleet.traffic("b").queued = 0
                assert (await waiting).cause == "on-demand"
                fleet.traffic("a").end(flight)
                await asyncio.sleep(100)
                assert states(fleet, "a") == [State.READY]

    tell(story)


@pytest.mark.parametrize("size", [6, 9], ids=["waits", "never fits"])
def test_a_fleet_ends_while_one_waits_for_room(size: int) -> None:
    async def story() -> None:
        with a_world() as world:
            servers = [on_demand("a", memory=6), on_demand("b", memory=size)]
            async with a_fleet(world, *servers, budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                fleet.traffic("a").queued = 1
                waiting = asyncio.ensure_future(down(fleet, "b"))
                await asyncio.sleep(5)
            await waiting
            assert now() < 10
            assert "b" not in {key.server for key, _ in world.states}

    tell(story)


def test_one_that_drains_after_its_removal_still_holds_its_memory() -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(dies_in=4)) as world:
            async with a_fleet(world, on_demand("a", memory=6), budget={"host": 8}) as fleet:
                await fleet.ensure_ready("a")
                fleet.apply(by_name(an_intent("b", memory=6)), {"host": 8})
                await fleet.settled(["b"])
                assert world.machine.children[1].started >= world.machine.children[0].started + 5

    tell(story)


def test_one_that_changes_while_it_waits_is_started_once_as_it_is_wanted_then() -> None:
    async def story() -> None:
        with a_world() as world:
            a, b = on_demand("a", group="g"), on_demand("b", group="g")
            async with a_fleet(world, a, b) as fleet:
                await fleet.ensure_ready("a")
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                waiting = asyncio.ensure_future(fleet.ensure_ready("b"))
                await asyncio.sleep(5)
                fleet.apply(by_name(a, on_demand("b", group="g", launch=NEW)))
                fleet.traffic("a").end(flight)
                await waiting
                await fleet.settled(["b"])
                assert pids(fleet, "b") == [1001]

    tell(story)


def test_one_that_works_for_somebody_elses_request_is_waited_for() -> None:
    """A client of its own port, or a conversation that goes on without its client: only its slots tell."""

    async def story() -> None:
        with a_world(Behaviour(busy_until=40)) as world:
            async with a_fleet(world, on_demand("a", group="g"), on_demand("b", group="g")) as fleet:
                await fleet.ensure_ready("a")
                await asyncio.sleep(10)
                assert fleet.traffic("a").total == 1
                await fleet.ensure_ready("b")
                assert 40 < now() < 50
            assert world.machine.children[0].got_term

    tell(story)
