"""One server is made to match what is wanted: replaced, rolled, swapped, taken over; on a clock that jumps."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from llamad.host.address import UnixAddress
from llamad.host.pidfd import Exit
from llamad.servers.board import Failure
from llamad.servers.fleet import Fleet
from llamad.servers.leftovers import Adopted
from llamad.servers.starting import Running
from llamad.servers.state import State
from tests.builders import a_launch
from tests.servers.fleets import CANNOT, NEW, failure, fewest_ready, now, on_demand, pids, states
from tests.stories import Behaviour, FakeChild, World, a_fleet, a_world, an_intent, by_name, tell


def test_a_rolling_replace_keeps_one_serving() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", replicas=3)) as fleet:
                await fleet.settled(["a"])
                fewest = await fewest_ready(fleet, lambda: fleet.apply(by_name(an_intent("a", launch=NEW, replicas=3))))
                assert fewest == 2
                assert pids(fleet, "a") == [1003, 1004, 1005]

    tell(story)


@pytest.mark.parametrize("apart", [0.0, 0.02, 0.5, 1.02, 1.5])
def test_a_newer_change_in_the_middle_of_a_rolling_replace_leaves_no_gap(apart: float) -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(dies_in=0.3)) as world:
            async with a_fleet(world, an_intent("a", replicas=2)) as fleet:
                await fleet.settled(["a"])
                newer = a_launch("a", arguments=("--newest",))
                fewest = await fewest_ready(
                    fleet,
                    lambda: fleet.apply(by_name(an_intent("a", launch=NEW, replicas=2))),
                    lambda: fleet.apply(by_name(an_intent("a", launch=newer, replicas=2))),
                    apart=apart,
                )
                assert fewest == 1
                assert states(fleet, "a") == [State.READY] * 2

    tell(story)


def test_a_replica_that_is_added_serves_before_the_old_one_goes() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                fewest = await fewest_ready(fleet, lambda: fleet.apply(by_name(an_intent("a", launch=NEW, replicas=2))))
                assert fewest == 1

    tell(story)


def test_replicas_that_are_down_are_not_replaced_one_by_one() -> None:
    async def story() -> None:
        with a_world() as world:
            world.inspections[:] = [CANNOT] * 3
            async with a_fleet(world, an_intent("a", replicas=3)) as fleet:
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.FAILED] * 3
                began = now()
                fleet.apply(by_name(an_intent("a", launch=NEW, replicas=3)))
                await fleet.settled(["a"])
                assert now() - began == pytest.approx(1, abs=0.1)

    tell(story)


def test_start_first_swaps_without_a_gap() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", replace="start-first")) as fleet:
                await fleet.settled(["a"])
                wanted = by_name(an_intent("a", launch=NEW, replace="start-first"))
                assert await fewest_ready(fleet, lambda: fleet.apply(wanted)) == 1
                assert pids(fleet, "a") == [1001]
                assert failure(fleet, "a") is None

    tell(story)


@pytest.mark.parametrize("how", ["start-first", "stop-first"])
def test_a_replacement_that_cannot_start_leaves_the_old_one(caplog: pytest.LogCaptureFixture, how: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", replace=how)) as fleet:
                await fleet.settled(["a"])
                world.inspections[:] = [CANNOT]
                fleet.apply(by_name(an_intent("a", launch=NEW, replace=how)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000]
                why = failure(fleet, "a")
                assert why is not None
                assert str(why) == f"not replaced: {CANNOT.message}; the old one goes on ({CANNOT.hint})"
                await asyncio.sleep(1000)
                assert pids(fleet, "a") == [1000]
                fleet.restart("a")  # now it may be there
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]
                assert failure(fleet, "a") is None

    tell(story)
    assert "the old one goes on" in caplog.text


def test_start_first_keeps_the_old_one_when_the_new_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with a_world(Behaviour(), Behaviour(ends=(0.5, Exit(code=1)))) as world:
            async with a_fleet(world, an_intent("a", replace="start-first")) as fleet:
                await fleet.settled(["a"])
                fleet.apply(by_name(an_intent("a", launch=NEW, replace="start-first")))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000]
                assert failure(fleet, "a") is not None

    tell(story)
    assert "the old one goes on" in caplog.text


def test_something_newer_ends_a_replacement_that_still_loads() -> None:
    async def story() -> None:
        with a_world(Behaviour(), Behaviour(loads_for=1000)) as world:
            async with a_fleet(world, an_intent("a", replace="start-first")) as fleet:
                await fleet.settled(["a"])
                fleet.apply(by_name(an_intent("a", launch=NEW, replace="start-first")))
                await asyncio.sleep(10)
                assert len(world.machine.alive) == 2
                fleet.apply(by_name(an_intent("a", replace="start-first")))
                await fleet.settled(["a"])
                assert now() < 15
                assert pids(fleet, "a") == [1000]

    tell(story)


def test_a_fleet_that_ends_in_the_middle_of_a_start_first_ends_both() -> None:
    async def story() -> None:
        with a_world(Behaviour(), Behaviour(loads_for=1000)) as world:
            async with a_fleet(world, an_intent("a", replace="start-first")) as fleet:
                await fleet.settled(["a"])
                fleet.apply(by_name(an_intent("a", launch=NEW, replace="start-first")))
                await asyncio.sleep(10)
            assert now() < 15

    tell(story)


def test_changes_that_come_while_it_works_are_coalesced_and_the_last_one_wins() -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(dies_in=2)) as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                for number in range(50):
                    fleet.apply(by_name(an_intent("a", launch=a_launch("a", arguments=(str(number),)))))
                    await asyncio.sleep(0.01)
                await fleet.settled(["a"])
                assert len(world.machine.children) <= 3
                assert states(fleet, "a") == [State.READY]
                assert fleet.apply(by_name(an_intent("a", launch=a_launch("a", arguments=("49",)))))[0].action == "keep"

    tell(story)


# --- taken over


def an_adopted(world: World, *, current: bool, pid: int = 77) -> Adopted:
    """A child that an earlier llamad left."""
    address = UnixAddress(Path(f"/nonexistent-llamad/{pid}.sock"))
    child = FakeChild(world.machine, pid, address, Behaviour(loads_for=0, answers_from=0))
    world.machine.children.append(child)
    launch = a_launch()
    return Adopted(Running(child, launch, address, -10.0, 0), launch.fingerprint if current else "other", generation=4)


def test_a_child_of_an_earlier_llamad_goes_on() -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt({"a": {0: an_adopted(world, current=True)}}, ())
                fleet.apply(by_name(an_intent("a", replicas=2)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [77, 1001]

    tell(story)


@pytest.mark.parametrize("replace", ["stop-first", "start-first"])
def test_one_that_runs_something_else_by_now_is_replaced(replace: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt({"a": {0: an_adopted(world, current=False)}}, ())
                fleet.apply(by_name(an_intent("a", replace=replace)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]
                assert world.machine.children[0].got_term

    tell(story)


GONE = Failure("binary-missing", "llama-server is not there", permanent=True)


@pytest.mark.parametrize("mended", ["while it runs", "after its end"])
def test_one_goes_on_while_nothing_could_be_started_in_its_place(mended: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                one = an_adopted(world, current=True)
                fleet.adopt({"a": {0: replace(one, running=replace(one.running, launch=GONE))}}, ())
                fleet.apply(by_name(an_intent("a", launch=GONE)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [77]
                assert fleet.notice("a") == "it goes on, but could not be started again: llama-server is not there"
                if mended == "after its end":
                    world.machine.children[0].crash(Exit(code=1))
                    await fleet.board.wait_for(lambda: states(fleet, "a") == [State.FAILED])
                    assert fleet.notice("a") is None
                    assert len(world.rereads) == 1
                fleet.apply(by_name(an_intent("a")))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == ([77] if mended == "while it runs" else [1001])
                assert fleet.notice("a") is None
                fleet.apply(by_name(an_intent("a", launch=NEW)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001 if mended == "while it runs" else 1002]

    tell(story)


def test_one_is_replaced_when_something_else_can_be_started_again() -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                one = an_adopted(world, current=True)
                fleet.adopt({"a": {0: replace(one, running=replace(one.running, launch=GONE))}}, ())
                fleet.apply(by_name(an_intent("a", launch=GONE)))
                await fleet.settled(["a"])
                fleet.apply(by_name(an_intent("a", launch=NEW)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]

    tell(story)


def test_an_on_demand_one_that_was_taken_over_goes_on_until_idle() -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt({"a": {0: an_adopted(world, current=True)}}, ())
                fleet.apply(by_name(on_demand("a", idle_timeout=60.0)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [77]
                await asyncio.sleep(70)
                assert not world.machine.alive

    tell(story)


def test_one_that_an_operator_had_stopped_is_ended_and_stays_stopped() -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt({"a": {0: an_adopted(world, current=True)}}, ["a"])
                fleet.apply(by_name(an_intent("a"), an_intent("b")))
                await fleet.settled(["a", "b"])
                assert not states(fleet, "a")
                assert world.machine.children[0].closed
                assert fleet.stopped_by_order == {"a"}

    tell(story)


def test_one_that_was_taken_over_is_ended_by_a_fleet_that_ends_at_once() -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt(
                    {"a": {0: an_adopted(world, current=True), 1: an_adopted(world, current=False, pid=78)}}, ()
                )
                fleet.apply(by_name(an_intent("a", replicas=2)))

    tell(story)


def test_a_server_can_be_asked_about_at_any_moment_of_its_stop() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                assert fleet.notice("a") is None  # supervised, and not on the board yet
                await fleet.settled(["a"])
                fleet.stop("a")
                while not fleet.is_settled("a"):
                    assert fleet.notice("a") is None
                    await asyncio.sleep(0)
                assert fleet.notice("a") is None

    tell(story)
