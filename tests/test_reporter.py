"""What systemd is told, over a fleet of the fake machine on a clock that jumps."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llamad.config.model import Config
from llamad.host.notify import Notifier, SystemdEnvironment
from llamad.host.pidfd import Exit
from llamad.reporter import HEALTHY_AFTER, Reporter, StrictStartError
from llamad.servers.fleet import Fleet
from tests.service_manager import ServiceManager, service_manager
from tests.stories import Behaviour, World, a_server, a_world, an_intent, tell


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with service_manager() as one:
        yield one


class Reported:
    """A reporter over a fleet."""

    def __init__(self, world: World, fleet: Fleet, notifier: Notifier) -> None:
        self.world = world
        self.fleet = fleet
        self.notices: list[str] = []
        self.reporter = Reporter(notifier, fleet, world.around.pulse, lambda: self.notices)

    def configure(self, *names: str, startup: str = "settle", **server: Any) -> Config:
        self.fleet.apply({name: an_intent(name, **server) for name in names})
        servers = {name: a_server(name, **server) for name in names}
        return Config.model_validate({"startup": startup, "servers": servers, "models_dir": "/models"})


@asynccontextmanager
async def reported(world: World, manager: ServiceManager) -> AsyncIterator[Reported]:
    with Notifier(SystemdEnvironment(notify_socket=str(manager.path))) as notifier:
        async with Fleet(world.around) as fleet:
            yield Reported(world, fleet, notifier)


@asynccontextmanager
async def beside(coroutine: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


def test_a_long_load_is_given_time_again_and_again(manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(loads_for=23.0)) as world:
            async with reported(world, manager) as one:
                await one.reporter.until_started(one.configure("a"))
                assert manager.pump() == ["EXTEND_TIMEOUT_USEC=60000000"] * 5
                seen = [one.reporter.is_ready]
                one.reporter.ready()
                assert [*seen, one.reporter.is_ready] == [False, True]
                assert manager.pump()[-1] == "READY=1"

    tell(story)


@pytest.mark.parametrize("problem", [None, "cannot listen on 127.0.0.1:80: something else listens there"])
def test_the_end_of_the_start_is_told_and_first_what_is_wrong(
    problem: str | None, manager: ServiceManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        with a_world() as world:
            async with reported(world, manager) as one:
                await one.reporter.until_started(one.configure("a"))
                one.notices += [problem] if problem is not None else []
                one.reporter.ready()

    tell(story)
    (record,) = [one for one in caplog.records if one.name == "llamad.reporter"]
    told = (logging.INFO, "ready: 1/1 ready") if problem is None else (logging.WARNING, f"{problem}; 1/1 ready")
    assert (record.levelno, record.getMessage()) == told


def test_a_start_that_is_immediate_waits_for_nothing(manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(loads_for=1000.0)) as world:
            async with reported(world, manager) as one:
                await one.reporter.until_started(one.configure("a", startup="immediate"))
                assert manager.pump() == []
                assert asyncio.get_running_loop().time() == 0

    tell(story)


@pytest.mark.parametrize("startup", ["settle", "strict"])
def test_a_server_that_fails_ends_the_start_only_where_it_is_strict(startup: str, manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(ends=(0.1, Exit(code=1)))) as world:
            async with reported(world, manager) as one:
                config = one.configure("a", startup=startup, restart={"max_retries": 0})
                if startup == "settle":
                    await one.reporter.until_started(config)
                else:
                    with pytest.raises(
                        StrictStartError, match="startup is strict: a failed: it ended with exit code 1"
                    ) as raised:
                        await one.reporter.until_started(config)
                    assert "next try" not in str(raised.value), "llamad ends"

    tell(story)


@pytest.mark.parametrize("what", ["stopped", "taken out"])
def test_what_should_not_run_does_not_fail_a_strict_start(what: str, manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world() as world:
            async with reported(world, manager) as one:
                config = one.configure("a", "b", startup="strict")
                if what == "stopped":
                    one.fleet.stop("b")
                else:
                    one.configure("a")
                await one.reporter.until_started(config)

    tell(story)


def test_servers_on_demand_and_of_others_are_not_waited_for(manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world() as world:
            async with reported(world, manager) as one:
                await one.reporter.until_started(one.configure("a", startup="strict", start="on-demand"))
                await one.reporter.until_started(one.configure("a", startup="strict", url="http://h:1"))
                assert asyncio.get_running_loop().time() < 1

    tell(story)


def test_status_follows_what_happens_and_says_each_thing_once(manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world() as world:
            async with reported(world, manager) as one, beside(one.reporter.show_status()):
                one.configure("a")
                await one.fleet.settled(["a"])
                await asyncio.sleep(1)
                assert manager.status() == "1/1 ready"
                one.notices.append("the port is taken")
                one.reporter.refresh()
                await asyncio.sleep(1)
                assert manager.status() == "the port is taken; 1/1 ready"
                before = len(manager.messages)
                one.reporter.refresh()
                await asyncio.sleep(1)
                assert len(manager.pump()) == before
                world.machine.children[-1].crash(Exit(signal=11))
                await asyncio.sleep(0.5)
                assert "a backoff: " in manager.status()

    tell(story)


def test_the_watchdog_is_fed_only_while_nothing_is_stuck(
    manager: ServiceManager, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        with a_world() as world:
            async with reported(world, manager) as one, beside(one.reporter.feed_watchdog(10.0)):
                with world.around.pulse.part("a part", within=15.0) as beat:
                    await asyncio.sleep(11)
                    assert manager.pump() == ["WATCHDOG=1"] * 2
                    await asyncio.sleep(10)
                    assert manager.pump() == ["WATCHDOG=1"] * 2
                    assert caplog.records[-1].getMessage() == "stuck: a part"
                    beat()
                    await asyncio.sleep(10)
                    assert manager.pump() == ["WATCHDOG=1"] * 3

    tell(story)


def test_ten_healthy_minutes_make_the_next_restart_the_first(manager: ServiceManager) -> None:
    async def story() -> None:
        with a_world() as world:
            async with reported(world, manager) as one, beside(one.reporter.feed_watchdog(None)):
                for minute in range(1, 22):  # looked at so often that systemd's queue is never full
                    await asyncio.sleep(60)
                    resets = manager.pump().count("RESTART_RESET=1")
                    assert resets == (60 * minute) // HEALTHY_AFTER or minute % 10 == 0

    tell(story)
