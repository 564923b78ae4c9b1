"""One replica's life, told on a clock that jumps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llamad.host.pidfd import Exit
from llamad.servers.board import Replica, ReplicaKey
from llamad.servers.output import Output
from llamad.servers.state import State
from llamad.servers.supervisor import Supervisor
from llamad.servers.traffic import Traffic
from tests.builders import a_launch
from tests.stories import Behaviour, World, a_server, a_world, tell

KEY = ReplicaKey("a", 0)


class Supervised:
    """A supervisor that runs beside the test."""

    def __init__(self, world: World, **config: Any) -> None:
        self.world = world
        self.traffic = Traffic(asyncio.get_running_loop().time)
        self.output = Output()
        self.supervisor = Supervisor(
            KEY,
            a_server(**config),
            config.pop("launch", None) or a_launch(),
            around=world.around,
            output=self.output,
            traffic=self.traffic,
        )

    @property
    def view(self) -> Replica:
        return self.world.board.replicas[KEY]

    async def until(self, *states: State) -> None:
        await self.world.board.wait_for(lambda: KEY in self.world.board.replicas and self.view.state in states)


@asynccontextmanager
async def supervised(world: World, **config: Any) -> AsyncIterator[Supervised]:
    one = Supervised(world, **config)
    task = asyncio.ensure_future(one.supervisor.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.wait((task,))


def test_a_life_goes_from_stopped_to_ready_and_back() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                assert one.view.pid == 1000
                assert one.view.slots is None or one.view.slots == 1
            assert world.story_of("a") == ["stopped", "starting", "loading", "ready", "draining", "stopping", "stopped"]
            assert world.machine.children[0].got_term
            assert not world.machine.children[0].got_kill
            assert world.machine.children[0].closed
            assert not world.board.replicas

    tell(story)


def test_a_crash_is_followed_by_a_start_after_the_delay() -> None:
    async def story() -> None:
        with a_world(Behaviour(ends=(10.0, Exit(signal=11)))) as world:
            async with supervised(world) as one:
                await one.until(State.BACKOFF)
                assert one.view.last_exit == "killed by SIGSEGV"
                assert one.view.last_error is not None
                await one.until(State.READY)
                assert [child.started for child in world.machine.children] == [0.0, pytest.approx(11.0)]
                assert one.view.restarts == 1
                assert one.view.last_error is None

    tell(story)
