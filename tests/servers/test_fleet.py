"""All servers together, on a clock that jumps: configurations, orders, demand, room, and what crashes meanwhile."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import RestartPolicy, StopPolicy
from llamad.errors import ServerDownError, UnavailableError, UnknownServerError
from llamad.host.pidfd import Exit
from llamad.servers.board import Change, Replica
from llamad.servers.fleet import Fleet
from llamad.servers.plan import Intent
from llamad.servers.state import State
from tests.builders import a_launch
from tests.servers.fleets import (
    AT_ONCE,
    CANNOT,
    NEW,
    SEGFAULT,
    down,
    failure,
    fewest_ready,
    now,
    on_demand,
    pids,
    states,
)
from tests.stories import Behaviour, World, a_fleet, a_world, an_intent, by_name, tell

# --- configurations


def test_servers_start_and_all_end_with_the_fleet() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a"), an_intent("b", replicas=2)) as fleet:
                await fleet.settled(["a", "b"])
                assert states(fleet, "a") == [State.READY]
                assert states(fleet, "b") == [State.READY] * 2
                assert fleet.wanted("a") == "running"

    tell(story)


def test_nothing_starts_a_server_while_the_fleet_ends() -> None:
    """A reload that is under way when llamad is told to stop, an order, a late request: what they would start would
    have nobody who ends it, and the end would wait for it for ever.
    """

    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", stop=StopPolicy(drain_timeout=5)), on_demand("b")) as fleet:
                await fleet.settled(["a"])
                fleet.traffic("a").begin(fleet.board.of("a")[0].key)

                async def comes_late() -> None:
                    await asyncio.sleep(1)
                    assert states(fleet, "a") == [State.DRAINING]
                    for order in (
                        lambda: fleet.apply(by_name(an_intent("a"), an_intent("c"))),
                        lambda: fleet.start("a"),
                        lambda: fleet.restart("b"),
                    ):
                        with pytest.raises(UnavailableError, match="stopping"):
                            order()
                    for name in ("a", "b"):
                        with pytest.raises(UnavailableError, match="stopping"):
                            await fleet.ensure_ready(name)
                    fleet.stop("b")

                late = asyncio.ensure_future(comes_late())
            await late
            assert sorted(fleet.configs) == ["a", "b"]
            assert not fleet.board.replicas
            assert len(world.machine.children) == 1

    tell(story)


def test_an_equal_configuration_touches_nothing() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                changes: list[Change] = []
                with fleet.board.observe(changes.append):
                    plan = fleet.apply(by_name(an_intent("a")))
                    await fleet.settled(["a"])
                assert [str(step) for step in plan] == ["keep a"]
                assert not changes

    tell(story)


def test_a_policy_is_taken_over_without_a_new_process() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", stop=StopPolicy(drain_timeout=3000))) as fleet:
                await fleet.settled(["a"])
                plan = fleet.apply(by_name(an_intent("a", stop=StopPolicy(drain_timeout=2))))
                assert [str(step) for step in plan] == ["retune a: stop.drain_timeout 50m -> 2s"]
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000]
                fleet.traffic("a").begin(fleet.board.of("a")[0].key)
                began = now()
            assert now() - began == pytest.approx(2)

    tell(story)


def test_a_changed_launch_is_a_new_process_and_another_server_is_left_alone() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                fleet.apply(by_name(an_intent("a", launch=NEW), an_intent("b")))
                assert not fleet.is_settled("a")
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1002]
                assert pids(fleet, "b") == [1001]
                assert world.machine.children[0].closed

    tell(story)


def test_a_removed_server_ends_and_can_come_back_while_it_does() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                fleet.apply({})
                with pytest.raises(UnknownServerError):
                    fleet.wanted("a")
                await fleet.board.wait_for(lambda: states(fleet, "a") == [State.DRAINING])
                fleet.apply(by_name(an_intent("a")))
                fleet.traffic("a").end(flight)
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]
                fleet.apply({})
                await fleet.settled(["a"])
                assert not world.machine.alive

    tell(story)


def test_a_server_that_is_removed_and_added_in_one_breath_goes_on() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                fleet.apply({})
                fleet.apply(by_name(an_intent("a")))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000]

    tell(story)


def test_replicas_join_and_leave_without_touching_the_others() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                fleet.apply(by_name(an_intent("a", replicas=3)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000, 1001, 1002]
                fleet.apply(by_name(an_intent("a", replicas=1)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000]

    tell(story)


@pytest.mark.parametrize("at", [0.0, 1.5, 3.0, 3.5])
def test_a_fleet_whose_block_is_left_by_an_error_ends_everything(at: float) -> None:
    async def story() -> None:
        with a_world(Behaviour(), Behaviour(loads_for=1000)) as world:
            with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is the story
                async with a_fleet(world, an_intent("a", replace="start-first"), an_intent("b")) as fleet:
                    await asyncio.sleep(min(at, 3))
                    if at >= 3:
                        fleet.apply(by_name(an_intent("a", launch=NEW, replace="start-first"), an_intent("b")))
                        await asyncio.sleep(at - 3)
                    raise ZeroDivisionError
            assert caught.value.subgroup(ZeroDivisionError)

    tell(story)


def test_a_server_that_cannot_be_launched_is_on_the_board_with_its_reason() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", launch=CANNOT)) as fleet:
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.FAILED]
                assert failure(fleet, "a") == CANNOT
                fleet.apply(by_name(an_intent("a")))
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]

    tell(story)


# --- orders


def test_a_stop_survives_an_unchanged_configuration_and_is_lifted_by_a_change() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                fleet.stop("a")
                assert fleet.wanted("a") == "stopped"
                assert fleet.stopped_by_order == {"a"}
                await fleet.settled(["a"])
                assert not states(fleet, "a")
                fleet.apply(by_name(an_intent("a"), an_intent("b")))
                await fleet.settled(["a", "b"])
                assert not states(fleet, "a")
                fleet.apply(by_name(an_intent("a", launch=NEW), an_intent("b")))
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                assert not fleet.stopped_by_order

    tell(story)


def test_a_start_undoes_a_stop_and_wakes_what_waits() -> None:
    async def story() -> None:
        with a_world(*[AT_ONCE] * 6) as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.FAILED]
                began = now()
                fleet.start("a")
                await fleet.board.wait_for(lambda: states(fleet, "a") == [State.READY])
                assert now() - began < 2
                fleet.stop("a")
                await fleet.settled(["a"])
                fleet.start("a")
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]

    tell(story)


def test_a_stop_and_start_in_one_breath_change_nothing() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                fleet.stop("a")
                fleet.start("a")
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1000]

    tell(story)


def test_a_stop_is_noticed_while_a_rolling_replace_waits_for_a_long_load() -> None:
    async def story() -> None:
        with a_world(Behaviour(), Behaviour(), Behaviour(loads_for=1000, grows=False)) as world:
            async with a_fleet(world, an_intent("a", replicas=2)) as fleet:
                await fleet.settled(["a"])
                fleet.apply(by_name(an_intent("a", launch=NEW, replicas=2)))
                await asyncio.sleep(50.13)  # between two looks of the supervisor
                began = now()
                fleet.stop("a")
                await fleet.settled(["a"])
                assert now() == began

    tell(story)


def test_a_restart_makes_new_processes_even_without_a_change() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", replicas=2)) as fleet:
                await fleet.settled(["a"])
                assert await fewest_ready(fleet, lambda: fleet.restart("a")) == 1
                assert pids(fleet, "a") == [1002, 1003]

    tell(story)


def test_one_that_is_started_by_hand_waits_for_the_hand() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", start="manual")) as fleet:
                await fleet.settled(["a"])
                assert not states(fleet, "a")
                error = await down(fleet, "a")
                assert error.cause == "stopped"
                assert "by hand" in error.message
                fleet.start("a")
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                await fleet.ensure_ready("a")
                fleet.apply(by_name(an_intent("a", start="manual", launch=NEW)))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]
                fleet.stop("a")
                await fleet.settled(["a"])
                assert not states(fleet, "a")

    tell(story)


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "wanted", "traffic", "output", "condition", "notice"])
def test_an_unknown_server_is_told_with_those_there_are(verb: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                with pytest.raises(UnknownServerError, match="there is: a"):
                    getattr(fleet, verb)("b")
                with pytest.raises(UnknownServerError):
                    await fleet.ensure_ready("b")
                await fleet.settled(["b"])  # one that is not there is as settled as it gets

    tell(story)


def test_a_changed_program_is_told_and_not_acted_on(tmp_path: Path) -> None:
    async def story() -> None:
        program = tmp_path / "llama-server"
        program.write_text("old")
        program.chmod(0o755)
        intent = an_intent("a", launch=a_launch(binary=program), llama_server=str(program))
        with a_world() as world:
            async with a_fleet(world, intent) as fleet:
                await fleet.settled(["a"])
                assert fleet.notice("a") is None
                await asyncio.sleep(10)
                assert fleet.notice("a") is None
                program.write_text("newer")
                await asyncio.sleep(10)
                assert "llamad restart a" in (fleet.notice("a") or "")
                await asyncio.sleep(100)
                assert pids(fleet, "a") == [1000]
                fleet.restart("a")
                await fleet.settled(["a"])
                assert fleet.notice("a") is None

    tell(story)


# --- demand


def test_the_first_request_starts_it_and_many_start_it_once() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a")) as fleet:
                await fleet.settled(["a"])
                assert not states(fleet, "a")
                assert fleet.wanted("a") == "stopped"
                await asyncio.gather(*(fleet.ensure_ready("a") for _ in range(50)))
                assert states(fleet, "a") == [State.READY]
                assert len(world.machine.children) == 1
                await fleet.ensure_ready("a")

    tell(story)


def test_one_ready_replica_is_enough() -> None:
    async def story() -> None:
        with a_world(Behaviour(), Behaviour(loads_for=500)) as world:
            async with a_fleet(world, on_demand("a", replicas=2)) as fleet:
                await fleet.ensure_ready("a")
                assert now() < 2

    tell(story)


def test_a_start_that_fails_answers_all_with_the_cause() -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(ends=(0.5, Exit(code=1)), says=("error: invalid argument: --nope",))) as world:
            async with a_fleet(world, on_demand("a")) as fleet:
                errors = await asyncio.gather(*(down(fleet, "a") for _ in range(20)))
                assert {error.cause for error in errors} == {"unknown-option"}
                assert all(error.retry_after == pytest.approx(300, abs=1) for error in errors)
                assert len(world.machine.children) == 1

    tell(story)


def test_one_that_an_operator_stopped_is_not_started_by_a_request() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a")) as fleet:
                await fleet.ensure_ready("a")
                fleet.stop("a")
                error = await down(fleet, "a")
                assert error.cause == "stopped"
                assert "llamad start a" in error.message

    tell(story)


def test_a_stop_answers_who_waits_for_the_start() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=500)) as world:
            async with a_fleet(world, on_demand("a")) as fleet:
                waiting = asyncio.ensure_future(down(fleet, "a"))
                await asyncio.sleep(10)
                fleet.stop("a")
                assert (await waiting).cause == "stopped"

    tell(story)


def test_who_waits_for_one_that_is_removed_is_told_so() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=500)) as world:
            async with a_fleet(world, on_demand("a")) as fleet:
                waiting = asyncio.ensure_future(fleet.ensure_ready("a"))
                await asyncio.sleep(10)
                fleet.apply({})
                with pytest.raises(UnknownServerError):
                    await waiting

    tell(story)


def test_one_without_requests_stops_after_its_time_and_comes_back() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a", idle_timeout=60.0), an_intent("b")) as fleet:
                await fleet.ensure_ready("a")
                await asyncio.sleep(50)
                key = fleet.board.of("a")[0].key
                flight = fleet.traffic("a").begin(key)
                await asyncio.sleep(500)
                assert states(fleet, "a") == [State.READY]
                fleet.traffic("a").end(flight)
                await asyncio.sleep(50)
                assert states(fleet, "a") == [State.READY]
                await asyncio.sleep(15)
                assert not states(fleet, "a")
                assert fleet.wanted("a") == "stopped"
                assert states(fleet, "b") == [State.READY]
                await fleet.ensure_ready("a")
                assert len(world.machine.children) == 3

    tell(story)


def test_without_an_idle_timeout_it_stays() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, on_demand("a")) as fleet:
                await fleet.ensure_ready("a")
                await asyncio.sleep(2000)
                assert states(fleet, "a") == [State.READY]

    tell(story)


def test_a_request_while_it_stops_for_idleness_starts_it_again() -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(dies_in=5)) as world:
            async with a_fleet(world, on_demand("a", idle_timeout=10.0)) as fleet:
                await fleet.ensure_ready("a")
                await fleet.board.wait_for(lambda: states(fleet, "a") == [State.STOPPING])
                await fleet.ensure_ready("a")
                assert pids(fleet, "a") == [1001]

    tell(story)


# --- settled


def test_settled_waits_for_the_end_of_the_first_retries() -> None:
    async def story() -> None:
        with a_world(AT_ONCE, AT_ONCE) as world:
            async with a_fleet(world, an_intent("a")) as fleet:
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                assert now() == pytest.approx(4, abs=0.1)

    tell(story)


def test_one_that_may_retry_for_ever_has_settled_with_its_first_failure() -> None:
    async def story() -> None:
        with a_world(AT_ONCE) as world:
            async with a_fleet(world, an_intent("a", restart=RestartPolicy(max_retries=None))) as fleet:
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.BACKOFF]

    tell(story)


def test_an_external_server_that_is_away_holds_nobody_up() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", url="http://10.0.0.1:8080")) as fleet:
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.BACKOFF]
                assert (await down(fleet, "a")).cause == "no-answer"

    tell(story)


# --- a bug of ours


def test_a_bug_in_one_supervisor_costs_only_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                world.machine.children[1].crash(SEGFAULT)
                with monkeypatch.context() as patch:
                    patch.setattr("llamad.servers.life.diagnose", lambda *_, **__: 1 / 0)
                    await fleet.board.wait_for(lambda: states(fleet, "b") == [State.BACKOFF])
                why = failure(fleet, "b")
                assert why is not None
                assert why.cause == "internal-error"
                assert pids(fleet, "a") == [1000]
                await fleet.settled(["b"])
                assert states(fleet, "b") == [State.READY]

    tell(story)


# --- all at once


@pytest.mark.parametrize("seed", range(2))
def test_after_300_random_operations_the_fleet_is_what_is_wanted(seed: int) -> None:
    chance = random.Random(seed)

    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                wanted: dict[str, Intent] = {}
                for _ in range(300):
                    wanted = await random_step(chance, world, fleet, wanted)
                world.machine.behaviours.clear()
                for name in wanted:
                    if fleet.wanted(name) == "running":
                        fleet.start(name)  # what has failed by now is asked to try again
                await asyncio.sleep(100)
                await fleet.settled(wanted)
                assert_is_wanted(world, fleet, wanted)

    tell(story)


SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"replicas": 2},
    {"replicas": 3, "stop": StopPolicy(drain_timeout=1)},
    {"replace": "start-first"},
    {"start": "on-demand", "idle_timeout": 20.0},
    {"start": "manual"},
    {"restart": RestartPolicy(max_retries=1)},
    {"start": "on-demand", "group": "g"},
    {"start": "on-demand", "memory": 5},
)
BEHAVIOURS = (
    Behaviour(ends=(0.5, SEGFAULT)),
    Behaviour(loads_for=4, dies_in=0.4),
    Behaviour(ignores_term=True),
    Behaviour(silent_from=3),
    Behaviour(ends=(3.0, Exit(code=1)), says=("error: invalid argument: --nope",)),
)


async def random_step(
    chance: random.Random, world: World, fleet: Fleet, wanted: dict[str, Intent]
) -> dict[str, Intent]:
    """One thing that an operator, a client or the machine does; what is configured afterwards."""
    verbs: list[Callable[[str], object]] = [fleet.start, fleet.stop, fleet.restart]
    names = list(wanted)
    match chance.randrange(7):
        case 0:
            wanted = dict(wanted)
            for name in chance.sample("abcd", 2):
                wanted.pop(name, None)
                if chance.random() < 0.8:
                    launch = a_launch(name, arguments=(str(chance.randrange(3)),))
                    wanted[name] = an_intent(name, launch=launch, **chance.choice(SHAPES))
            fleet.apply(wanted, {"host": 8})
        case 1 if world.machine.alive:
            chance.choice(world.machine.alive).crash(SEGFAULT)
        case 2 | 3 if names:
            chance.choice(verbs)(chance.choice(names))
        case 4:
            world.machine.behaviours.append(chance.choice(BEHAVIOURS))
        case 5 if names:
            await a_request(fleet, chance.choice(names))
        case _:
            await asyncio.sleep(chance.choice([0.0, 0.01, 0.3, 1.0, 5.0, 40.0]))
    return wanted


async def a_request(fleet: Fleet, name: str) -> None:
    """Ask for a server, for as long as a client has patience."""
    try:
        async with asyncio.timeout(3):
            await fleet.ensure_ready(name)
    except (ServerDownError, UnknownServerError, TimeoutError):
        return


def assert_is_wanted(world: World, fleet: Fleet, wanted: dict[str, Intent]) -> None:
    """Exactly the replicas that are wanted run, each with its launch, and no other process."""
    running = 0
    for name, intent in wanted.items():
        views: list[Replica] = fleet.board.of(name)
        if fleet.wanted(name) == "running" and failure(fleet, name) is None:
            assert [view.state for view in views] == [State.READY] * len(intent.launches), (name, views)
            assert [view.key.index for view in views] == list(range(len(intent.launches)))
        elif fleet.wanted(name) == "stopped":
            assert not views
        running += sum(view.pid is not None for view in views)
    assert {view.key.server for view in fleet.board.replicas.values()} <= set(wanted)
    assert len(world.machine.alive) == running


def test_hundreds_of_servers_end_together() -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(dies_in=1)) as world:
            async with a_fleet(world, *(an_intent(f"s{i}") for i in range(100))) as fleet:
                await fleet.settled(list(fleet.configs))
                began = now()
            assert now() - began == pytest.approx(1)

    tell(story)


@pytest.mark.parametrize("start", ["always", "on-demand", "manual"])
def test_what_an_operator_had_stopped_is_stopped_however_it_starts(start: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt({}, ["a"])
                fleet.apply({"a": an_intent("a", start=start)})
                assert (await down(fleet, "a")).message == "a was stopped by hand (llamad start a)"

    tell(story)


def test_one_whose_slots_work_is_not_idle_though_nothing_is_relayed() -> None:
    async def story() -> None:
        with a_world(Behaviour(busy_until=300)) as world:
            async with a_fleet(world, on_demand("a", idle_timeout=20)) as fleet:
                await fleet.ensure_ready("a")
                assert fleet.in_hand()[0] == 0
                await asyncio.sleep(200)
                assert states(fleet, "a") == [State.READY]
                assert fleet.in_hand()[0] == 1
                await fleet.board.wait_for(lambda: not states(fleet, "a"))
                assert 300 + 19 < now() < 300 + 30

    tell(story)
