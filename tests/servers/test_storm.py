"""Many orders at nearly the same moment: configurations, orders, demand and crashes mixed by chance, on a clock that
jumps. Whatever their order, afterwards each server is as it was wanted last, and nothing is left over.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from llamad.errors import ServerDownError, UnknownServerError
from llamad.host.address import parse_url
from llamad.host.pidfd import Exit
from llamad.servers.board import Board, ReplicaKey
from llamad.servers.fleet import Fleet
from llamad.servers.member import Member
from llamad.servers.plan import Intent
from llamad.servers.probe import ProbeAnswer
from llamad.servers.state import State
from tests.builders import a_launch
from tests.servers.fleets import failure, fewest_ready, now, on_demand, pids, states
from tests.servers.test_member import an_adopted
from tests.stories import Behaviour, JumpingLoop, World, a_fleet, a_world, an_intent, by_name, tell

URL = "http://127.0.0.1:9"
MOMENTS = (0.0, 0.0, 0.0, 0.001, 0.06, 0.5, 1.02, 2.5)
"""Seconds between two acts: most within one, and around the steps of a start (answers 0.05, ready 1)."""


def threads_take(seconds: float) -> None:
    """What looks at files is a thread, and orders come while it does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.thread_time = seconds


# --- two orders for one start-first server


@pytest.mark.parametrize("apart", [None, 0.0, 0.001, 0.02, 0.05, 0.5, 1.01, 1.02, 1.05, 2.0])
@pytest.mark.parametrize("second", ["restart", "reload", "stop", "remove", "replicas", "retune"])
def test_a_second_order_beside_a_start_first_replace_costs_nothing(second: str, apart: float | None) -> None:
    """A restart, and something else at nearly the same moment: before the new replica's first step, while it loads,
    when it has just come up. The old one serves until a new one does, or until it is to go."""

    async def story() -> None:
        threads_take(0.01)
        with a_world(usual=Behaviour(dies_in=0.03)) as world:
            async with a_fleet(world, an_intent("a", replace="start-first"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                launch = a_launch("a", arguments=("--new",))
                seconds: dict[str, Callable[[], object]] = {
                    "restart": lambda: fleet.restart("a"),
                    "reload": lambda: fleet.apply(
                        by_name(an_intent("a", launch=launch, replace="start-first"), an_intent("b"))
                    ),
                    "stop": lambda: fleet.stop("a"),
                    "remove": lambda: fleet.apply(by_name(an_intent("b"))),
                    "replicas": lambda: fleet.apply(
                        by_name(an_intent("a", replicas=2, replace="start-first"), an_intent("b"))
                    ),
                    "retune": lambda: fleet.apply(
                        by_name(an_intent("a", idle_timeout=5, replace="start-first"), an_intent("b"))
                    ),
                }
                fleet.restart("a")
                if apart is None:
                    seconds[second]()
                    await fleet.settled(["a"])
                else:
                    fewest = await fewest_ready(fleet, lambda: None, seconds[second], apart=apart)
                    assert fewest == 1 or second in ("stop", "remove")
                there = 0 if second in ("stop", "remove") else 2 if second == "replicas" else 1
                assert states(fleet, "a") == [State.READY] * there
                assert 1000 not in pids(fleet, "a"), "a restart is a new process"
                assert pids(fleet, "b") == [1001]
                assert len(world.machine.alive) == there + 1

    tell(story)


def test_a_policy_that_changes_meanwhile_does_not_start_the_replacement_anew() -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", replace="start-first")) as fleet:
                await fleet.settled(["a"])
                fleet.restart("a")
                await asyncio.sleep(0.9)
                fleet.apply(by_name(an_intent("a", idle_timeout=5, replace="start-first")))
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]
                assert now() < 2.5

    tell(story)


def test_a_replacement_that_fails_beside_an_old_one_that_has_failed_too_is_what_goes_on() -> None:
    """The old one is kept for what it serves, not for its age."""

    async def story() -> None:
        dies = Behaviour(ends=(0.01, Exit(code=1)))
        with a_world(Behaviour(), Behaviour(loads_for=5, ends=(3, Exit(code=1))), *[dies] * 4) as world:
            async with a_fleet(world, an_intent("a", replace="start-first")) as fleet:
                await fleet.settled(["a"])
                new = a_launch("a", arguments=("--new",))
                fleet.apply(by_name(an_intent("a", launch=new, replace="start-first")))
                await asyncio.sleep(0.5)
                world.machine.children[0].crash(Exit(signal=11))
                await fleet.settled(["a"])
                await asyncio.sleep(700)
                assert states(fleet, "a") == [State.READY]
                assert [post.launch for post in fleet._members["a"]._posts.values()] == [new]
                assert fleet._members["a"]._posts[0].supervisor.launch == new  # type: ignore[union-attr]

    tell(story)


# --- other orders that come at a bad moment

INSTANTS = [0.0, 0.0005, 0.01, 0.03, 0.5, 0.99, 1.0, 1.01, 1.05, 1.5]
"""Seconds from one order to the next; a start takes one, an end 0.03, a look at files 0.01."""


@pytest.mark.parametrize("how", ["stop-first", "start-first"])
@pytest.mark.parametrize("apart", INSTANTS)
def test_replicas_go_from_two_to_one_to_three_while_one_restarts(apart: float, how: str) -> None:
    async def story() -> None:
        threads_take(0.01)
        with a_world(usual=Behaviour(dies_in=0.03)) as world:
            async with a_fleet(world, an_intent("a", replicas=2, replace=how)) as fleet:
                await fleet.settled(["a"])
                world.machine.children[1].crash(Exit(signal=11))
                for replicas in (1, 3):
                    await asyncio.sleep(apart)
                    fleet.apply(by_name(an_intent("a", replicas=replicas, replace=how)))
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY] * 3
                assert pids(fleet, "a")[0] == 1000, "the one that nobody touched"
                assert len(world.machine.alive) == 3

    tell(story)


@pytest.mark.parametrize("drains", [True, False])
@pytest.mark.parametrize("apart", INSTANTS)
def test_a_server_that_is_removed_and_added_again_within_a_second_runs_once(apart: float, drains: bool) -> None:  # noqa: FBT001
    async def story() -> None:
        threads_take(0.01)
        with a_world(usual=Behaviour(dies_in=0.03)) as world:
            async with a_fleet(world, an_intent("a"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                key, traffic = fleet.board.of("a")[0].key, fleet.traffic("a")
                flight = traffic.begin(key) if drains else None
                fleet.apply(by_name(an_intent("b")))
                await asyncio.sleep(apart)
                fleet.apply(by_name(an_intent("a"), an_intent("b")))
                await asyncio.sleep(apart)
                if flight is not None:
                    traffic.end(flight)
                fleet.restart("a")
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                assert len(world.machine.alive) == 2

    tell(story)


@pytest.mark.parametrize("apart", INSTANTS)
def test_starts_and_stops_race_and_the_last_one_wins(apart: float) -> None:
    async def story() -> None:
        threads_take(0.01)
        with a_world(usual=Behaviour(dies_in=0.03)) as world:
            async with a_fleet(world, an_intent("a", start="manual", replicas=2)) as fleet:
                for order in (fleet.start, fleet.stop, fleet.start, fleet.restart, fleet.stop, fleet.start):
                    order("a")
                    await asyncio.sleep(apart)
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY] * 2
                fleet.restart("a")
                fleet.stop("a")
                await fleet.settled(["a"])
                assert not world.machine.alive

    tell(story)


@pytest.mark.parametrize("part", range(4))
def test_a_fleet_can_be_left_at_any_instant_of_a_replacement(part: int) -> None:
    """200 instants of a start-first restart of two replicas, one of which fails at first."""

    async def story(instant: float) -> None:
        threads_take(0.01)
        fails = Behaviour(ends=(0.7, Exit(code=1)))
        with a_world(Behaviour(), Behaviour(), fails, usual=Behaviour(dies_in=0.03)) as world:
            async with a_fleet(world, an_intent("a", replicas=2, replace="start-first")) as fleet:
                await fleet.settled(["a"])
                fleet.restart("a")
                await asyncio.sleep(instant)

    for instant in range(part, 200, 4):
        tell(lambda instant=instant: story(instant / 60))  # type: ignore[misc]


def test_memory_that_became_free_is_not_taken_twice() -> None:
    """Who waits for freed memory is judged again when that is over: somebody else may have got it meanwhile."""

    async def story() -> None:
        with a_world() as world:
            world.free[0] = 0
            servers = by_name(
                on_demand("old", memory={0: 6}),
                on_demand("large", memory={0: 12}, evictable=False),
                on_demand("a", memory={0: 6}),
            )
            async with a_fleet(world, *servers.values(), budget={0: 8}) as fleet:
                fleet.start("old")
                await fleet.settled(["old"])
                fleet.start("large")  # it can never fit, and holds nobody up
                await fleet.settled(["large"])
                fleet.start("a")  # `old` makes way, and its memory is not free yet
                await fleet.board.wait_for(lambda: not states(fleet, "old"))
                fleet.apply(servers, {0: 16})  # now it fits
                await asyncio.sleep(1)
                world.free[0] = 16
                await asyncio.sleep(30)
                assert [name for name in servers if states(fleet, name)] == ["large"]

    tell(story)


# --- a fault of llamad's own


def broken_once(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let a step of one member raise, the first time it is taken for server `a`."""
    usual = getattr(Member, where)
    met: list[Member] = []

    def step(member: Member, *args: object, **named: object) -> object:
        if member.name == "a" and not met and member.posted:
            met.append(member)
            raise KeyError(where)
        return usual(member, *args, **named)

    monkeypatch.setattr(Member, where, step)


@pytest.mark.parametrize("where", ["_roll", "_is_ready", "_recognise"])
def test_a_bug_costs_the_server_it_hits_and_no_other(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a", replicas=2), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                broken_once(monkeypatch, where)
                fleet.restart("a")
                await fleet.board.wait_for(lambda: failure(fleet, "a") is not None)
                why = failure(fleet, "a")
                assert why is not None
                assert why.cause == "internal-error"
                assert where in why.message
                assert states(fleet, "a") == [State.BACKOFF]
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY] * 2, "it was tried again"
                assert failure(fleet, "a") is None
                assert pids(fleet, "b") == [1002]
                assert len(world.machine.alive) == 3

    tell(story)
    assert caplog.text.count("Traceback") >= 1


def test_a_bug_that_stays_is_retried_more_and_more_slowly_and_an_order_is_heard_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                tries = []

                async def converge(member: Member, target: object) -> None:
                    tries.append(now())
                    raise ZeroDivisionError

                with monkeypatch.context() as patched:
                    patched.setattr(Member, "_converge", converge)
                    fleet.restart("a")
                    await asyncio.sleep(100)
                    assert states(fleet, "a") == [State.FAILED]
                    assert 4 <= len(tries) <= 8
                    fleet.stop("a")
                    await asyncio.sleep(0)
                fleet.start("a")
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                assert pids(fleet, "b") == [1001]

    tell(story)


def test_a_bug_in_the_last_resort_costs_no_other_server_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                broken_once(monkeypatch, "_roll")
                with monkeypatch.context() as patched:
                    patched.setattr(Member, "stay_down", lambda *_: 1 / 0)
                    fleet.restart("a")
                    await asyncio.sleep(1)
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                assert pids(fleet, "b") == [1001]

    tell(story)


@pytest.mark.parametrize("where", ["update", "move"])
def test_no_process_lives_on_that_a_bug_hits_while_it_is_announced(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with a_world() as world:
            async with a_fleet(world, an_intent("a"), an_intent("b")) as fleet:
                await fleet.settled(["a", "b"])
                usual = getattr(Board, where)

                def broken(board: Board, key: ReplicaKey, *args: Any, **figures: Any) -> None:
                    if key.server == "a" and len(world.machine.children) == 3:
                        raise KeyError(where)
                    usual(board, key, *args, **figures)

                with monkeypatch.context() as patched:
                    patched.setattr(Board, where, broken)
                    fleet.restart("a")
                    await asyncio.sleep(0.5)
                fleet.restart("a")
                await fleet.settled(["a"])
                assert states(fleet, "a") == [State.READY]
                assert len(world.machine.alive) == 2
                assert pids(fleet, "b") == [1001]

    tell(story)


def test_what_was_taken_over_is_not_taken_over_again_after_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with a_world() as world:
            async with Fleet(world.around) as fleet:
                fleet.adopt({"a": {0: an_adopted(world, current=True)}}, ())
                fleet.apply(by_name(an_intent("a")))
                await fleet.settled(["a"])
                broken_once(monkeypatch, "_roll")
                fleet.restart("a")
                await fleet.board.wait_for(lambda: states(fleet, "a") == [State.BACKOFF])
                await fleet.settled(["a"])
                assert pids(fleet, "a") == [1001]
                assert len(world.machine.alive) == 1

    tell(story)


def test_an_observer_that_raises_costs_no_server(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with a_world() as world:

            def broken(_: object) -> None:
                raise KeyError("observer")

            with world.board.observe(broken):
                async with a_fleet(world, an_intent("a")) as fleet:
                    await fleet.settled(["a"])
                    assert pids(fleet, "a") == [1000]

    tell(story)
    assert "KeyError: 'observer'" in caplog.text


# --- the storm


def a_configuration(chance: random.Random) -> dict[str, Intent]:
    """Some of the servers, each in one of its forms."""

    def launch(name: str) -> object:
        return a_launch(name, arguments=(f"--form={chance.randrange(3)}",))

    def replicas() -> int:
        return chance.choice((1, 1, 2, 3))

    forms: list[Callable[[], Intent]] = [
        lambda: an_intent("first", launch=launch("first"), replace="start-first", replicas=replicas()),  # type: ignore[arg-type]
        lambda: an_intent("firsts", launch=launch("firsts"), replace="start-first", start="on-demand",  # type: ignore[arg-type]
                          idle_timeout=chance.choice((2, 20))),
        lambda: an_intent("stop", launch=launch("stop"), replicas=replicas()),  # type: ignore[arg-type]
        lambda: an_intent("demand", launch=launch("demand"), start="on-demand", idle_timeout=3),  # type: ignore[arg-type]
        lambda: an_intent("manual", launch=launch("manual"), start="manual"),  # type: ignore[arg-type]
        lambda: an_intent("g1", launch=launch("g1"), group="g", start="on-demand"),  # type: ignore[arg-type]
        lambda: an_intent("g2", launch=launch("g2"), group="g", start="on-demand", replace="start-first"),  # type: ignore[arg-type]
        lambda: an_intent("outside", url=URL),
    ]  # fmt: skip
    return by_name(*[form() for form in forms if chance.random() < 0.85])


async def asks(fleet: Fleet, server: str) -> None:
    """A request that wants it."""
    try:
        async with asyncio.timeout(30):
            await fleet.ensure_ready(server)
            await asyncio.sleep(0.3)
    except (ServerDownError, UnknownServerError, TimeoutError):
        pass


def act(fleet: Fleet, world: World, chance: random.Random, requests: asyncio.TaskGroup) -> None:
    """One thing that somebody does."""
    name = chance.choice(sorted(fleet.configs)) if fleet.configs else None
    what = chance.choice(("restart", "restart", "start", "stop", "apply", "apply", "same", "crash", "ask", "wake"))
    alive = world.machine.alive
    if what == "apply":
        fleet.apply(a_configuration(chance))
    elif what == "same":
        fleet.apply(dict(fleet.intents))
    elif what == "crash" and alive:
        chance.choice(alive).crash(Exit(signal=9))
    elif name is not None and what == "ask":
        requests.create_task(asks(fleet, name))
    elif name is not None and fleet.configs[name].url is None and what in ("restart", "start", "stop"):
        getattr(fleet, what)(name)


def as_wanted(fleet: Fleet, world: World) -> None:
    """Wanted equals observed, launch by launch, and nothing else runs."""
    running = 0
    for name, intent in fleet.intents.items():
        posts = fleet._members[name]._posts
        if fleet.wanted(name) == "stopped":
            assert states(fleet, name) == []
            assert not posts
            continue
        count = intent.config.replicas
        assert states(fleet, name) == [State.READY] * count, (name, states(fleet, name))
        for index, post in posts.items():
            if not intent.config.external:
                assert post.supervisor.launch == intent.launches[index]  # type: ignore[union-attr]
        running += 0 if intent.config.external else count
    assert len(world.machine.alive) == running
    assert {view.key.server for view in fleet.board.replicas.values()} <= set(fleet.intents)


@pytest.mark.parametrize("block", range(10))
def test_after_a_storm_each_server_is_as_it_was_wanted_last(block: int, caplog: pytest.LogCaptureFixture) -> None:
    """120 storms of up to 60 acts; in half of them the fleet is left in the middle."""

    async def story(seed: int) -> None:
        chance = random.Random(seed)
        usual = Behaviour(dies_in=0.03)
        threads_take(chance.choice((0, 0.0005, 0.02)))
        with a_world(usual=usual) as world:
            world.machine.scripts[parse_url(URL)] = lambda path: ProbeAnswer(200, b"[]" if path == "/slots" else b"{}")
            async with a_fleet(world, *a_configuration(chance).values()) as fleet, asyncio.TaskGroup() as requests:
                for _ in range(chance.choice((15, 60))):
                    if chance.random() < 0.2:  # how the next child will be
                        late = Behaviour(loads_for=chance.choice((0, 0.05, 3)), dies_in=chance.choice((0, 0.2)))
                        broken = Behaviour(ends=(chance.choice((0.0, 0.7, 1.5)), Exit(code=1)))
                        world.machine.behaviours.append(chance.choice((late, broken)))
                    act(fleet, world, chance, requests)
                    await asyncio.sleep(chance.choice(MOMENTS))
                if seed % 2:
                    return
                world.machine.behaviours.clear()
                await asyncio.sleep(60)  # back-off and idle time included
                for name in fleet.configs:  # what was not replaced, or has failed for good, waits for an order
                    if fleet.wanted(name) == "running" and failure(fleet, name) is not None:
                        fleet.restart(name)
                await fleet.settled(fleet.configs)
                await asyncio.sleep(30)
                as_wanted(fleet, world)

    for seed in range(block * 12, block * 12 + 12):
        tell(lambda seed=seed: story(seed))  # type: ignore[misc]
    assert "a bug in llamad" not in caplog.text
