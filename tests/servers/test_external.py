"""A server that llamad does not run, watched on a clock that jumps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from llamad.errors import LlamadError
from llamad.host.address import TcpAddress
from llamad.servers.board import Replica
from llamad.servers.external import ExternalWatcher
from llamad.servers.probe import ProbeAnswer, ProbeError
from llamad.servers.state import State
from llamad.servers.traffic import Traffic
from tests.stories import KEY, World, a_server, a_world, tell

THERE = TcpAddress("10.0.0.1", 8080)
IDLE = b'[{"id":0,"is_processing":false},{"id":1,"is_processing":false}]'
STUCK = b'[{"id":0,"is_processing":true,"id_task":3}]'


class Remote:
    """What answers there; None: nothing does."""

    def __init__(self) -> None:
        self.health: int | None = 200
        self.slots = ProbeAnswer(200, IDLE)

    def __call__(self, path: str) -> ProbeAnswer:
        if self.health is None:
            raise ProbeError("Connection refused")
        return self.slots if path == "/slots" else ProbeAnswer(self.health, b"{}")


class Watched:
    """A watcher that runs beside the test."""

    def __init__(self, world: World, remote: Remote, **config: Any) -> None:
        world.machine.scripts[THERE] = remote
        self.world, self.remote = world, remote
        self.traffic = Traffic(asyncio.get_running_loop().time)
        config = {"url": "http://10.0.0.1:8080", **config}
        self.watcher = ExternalWatcher(KEY, a_server(**config), THERE, around=world.around, traffic=self.traffic)
        self.task = asyncio.ensure_future(self.watcher.run())

    @property
    def view(self) -> Replica:
        """Its replica on the board."""
        return self.world.board.replicas[KEY]

    @property
    def cause(self) -> str | None:
        """Of its last failure."""
        return self.view.last_error.cause if self.view.last_error else None

    async def until(self, state: State) -> None:
        """Wait until it is in that state."""
        await self.world.board.wait_for(lambda: KEY in self.world.board.replicas and self.view.state is state)


@asynccontextmanager
async def watched(world: World, remote: Remote | None = None, **config: Any) -> AsyncIterator[Watched]:
    one = Watched(world, remote or Remote(), **config)
    try:
        yield one
    finally:
        one.task.cancel()
        await asyncio.wait((one.task,))
    assert one.task.cancelled()


def test_one_that_answers_is_ready_and_only_leaves_the_board() -> None:
    async def story() -> None:
        with a_world() as world:
            async with watched(world) as one:
                await one.until(State.READY)
                await world.board.wait_for(lambda: one.view.slots == 2)
                assert one.view.address == THERE
                assert one.view.pid is None
                assert one.view.busy_slots == 0
            assert world.story_of("a") == ["stopped", "ready", "draining", "stopped"]
            assert not world.machine.children

    tell(story)


@pytest.mark.parametrize(
    ("prepare", "state", "cause"),
    [
        (lambda remote: setattr(remote, "health", None), State.BACKOFF, "no-answer"),
        (lambda remote: setattr(remote, "health", 500), State.BACKOFF, "not-healthy"),
        (lambda remote: setattr(remote, "slots", ProbeAnswer(401, b"")), State.BACKOFF, "key-refused"),
        (lambda remote: setattr(remote, "slots", ProbeAnswer(403, b"")), State.BACKOFF, "key-refused"),
        (lambda remote: setattr(remote, "health", 503), State.LOADING, None),
        (lambda remote: setattr(remote, "slots", ProbeAnswer(501, b"")), State.READY, None),
    ],
)
def test_what_it_answers_is_its_state_and_it_can_leave_from_there(
    prepare: Callable[[Remote], None], state: State, cause: str | None
) -> None:
    async def story() -> None:
        remote = Remote()
        prepare(remote)
        with a_world() as world:
            async with watched(world, remote) as one:
                await one.until(state)
                await asyncio.sleep(100)
                assert (one.view.state, one.cause) == (state, cause)
                remote.health, remote.slots = 200, ProbeAnswer(200, IDLE)
                await one.until(State.READY)
                assert one.cause is None
                prepare(remote)
                await asyncio.sleep(200)
                assert (one.view.state, one.cause) == (state, cause)

    tell(story)


def test_a_silence_is_unresponsive_first_and_away_after_the_hang_timeout() -> None:
    async def story() -> None:
        with a_world() as world:
            async with watched(world) as one:
                await one.until(State.READY)
                one.remote.health = None
                await one.until(State.UNRESPONSIVE)
                await one.until(State.BACKOFF)
                assert asyncio.get_running_loop().time() == pytest.approx(60, abs=6)
                one.remote.health = 200
                await one.until(State.READY)

    tell(story)


def test_a_stuck_slot_takes_requests_away() -> None:
    async def story() -> None:
        with a_world() as world:
            async with watched(world) as one:
                await one.until(State.READY)
                one.remote.slots = ProbeAnswer(200, STUCK)
                await one.until(State.UNRESPONSIVE)
                await asyncio.sleep(500)
                assert one.view.state is State.UNRESPONSIVE
                one.remote.slots = ProbeAnswer(200, IDLE)
                await one.until(State.READY)

    tell(story)


def test_a_key_that_cannot_be_read_is_named() -> None:
    async def story() -> None:
        def no_key(_: object) -> str:
            raise LlamadError("the key file is not there", hint="mend it")

        with a_world() as world:
            object.__setattr__(world, "around", replace(world.around, external_key=no_key))
            async with watched(world) as one:
                await one.until(State.BACKOFF)
                assert one.cause == "credential-missing"

    tell(story)


@pytest.mark.parametrize("how", ["wake", "retune"])
def test_one_that_waits_looks_at_once_when_asked(how: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with watched(world) as one:
                await one.until(State.READY)
                await asyncio.sleep(1)
                before = len(world.machine.asked)
                if how == "wake":
                    one.watcher.wake()
                else:
                    one.watcher.retune(a_server(url="http://10.0.0.1:8080"))
                await asyncio.sleep(0.001)
                assert len(world.machine.asked) == before + 2

    tell(story)


def test_a_bug_costs_one_look(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        def broken(_: str) -> ProbeAnswer:
            raise ZeroDivisionError

        with a_world() as world:
            async with watched(world) as one:
                await one.until(State.READY)
                world.machine.scripts[THERE] = broken
                await one.until(State.BACKOFF)
                assert one.cause == "internal-error"
                world.machine.scripts[THERE] = one.remote
                await one.until(State.READY)

    tell(story)
    assert "a bug in llamad" in caplog.text
