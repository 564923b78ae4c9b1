"""The end of a process: drain, SIGTERM, grace, SIGKILL; on a clock that jumps."""

import asyncio
import logging
from functools import partial

import pytest

from llamad.config.model import StopPolicy
from llamad.host.pidfd import Exit
from llamad.servers.state import State
from tests.stories import KEY, Behaviour, a_world, supervised, tell

SEGFAULT = Exit(signal=11)

# --- stopping


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str, str, str]]:
    """Level, server, event and message of what the module logged."""
    return [
        (one.levelno, vars(one)["server"], vars(one)["event"], one.getMessage())
        for one in caplog.records
        if one.name == "llamad.servers.ending"
    ]


STOPPED = (logging.INFO, "a", "stopped", "stopped")


def test_a_stop_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)

    tell(story)
    assert told(caplog) == [STOPPED]


def test_a_crash_is_no_stop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        with a_world(Behaviour(ends=(5.0, SEGFAULT))) as world:
            async with supervised(world) as one:
                await one.until(State.BACKOFF)

    tell(story)
    assert told(caplog) == []


def test_one_that_ignores_sigterm_is_killed_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        with a_world(Behaviour(ignores_term=True)) as world:
            async with supervised(world, stop=StopPolicy(term_timeout=7)) as one:
                await one.until(State.READY)
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began == pytest.approx(7)
            child = world.machine.children[0]
            assert child.got_term
            assert child.got_kill

    tell(story)
    assert told(caplog) == [(logging.WARNING, "a", "killed", "did not end within 7s of SIGTERM: killed"), STOPPED]


def test_one_that_takes_its_time_to_end_is_given_it() -> None:
    async def story() -> None:
        with a_world(Behaviour(dies_in=6)) as world:
            async with supervised(world, stop=StopPolicy(term_timeout=7)) as one:
                await one.until(State.READY)
            assert not world.machine.children[0].got_kill

    tell(story)


def test_one_that_hangs_in_the_kernel_is_given_up_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with a_world(Behaviour(ignores_term=True, ignores_kill=True)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began == pytest.approx(20)
            assert world.machine.children[0].closed
            world.machine.children[0].crash(SEGFAULT)  # so that the world is clean

    tell(story)
    assert "does not die of SIGKILL" in caplog.text


def test_draining_waits_for_requests_in_flight() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                flight = one.traffic.begin(KEY)
                asyncio.get_running_loop().call_later(12, one.traffic.end, flight)
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began == pytest.approx(12, abs=0.2)

    tell(story)


def test_draining_waits_for_slots_that_somebody_else_keeps_busy() -> None:
    async def story() -> None:
        with a_world(Behaviour(busy_until=15)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
            assert asyncio.get_running_loop().time() == pytest.approx(15, abs=0.2)

    tell(story)


def test_draining_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world, stop=StopPolicy(drain_timeout=20)) as one:
                await one.until(State.READY)
                one.traffic.begin(KEY)
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began == pytest.approx(20)
            assert world.machine.children[0].got_term

    tell(story)
    assert "still had requests after 20s" in caplog.text


def test_without_time_to_drain_only_requests_that_are_cut_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async def story(in_flight: int) -> None:
        with a_world() as world:
            async with supervised(world, stop=StopPolicy(drain_timeout=0)) as one:
                await one.until(State.READY)
                for _ in range(in_flight):
                    one.traffic.begin(KEY)
            assert world.machine.children[0].got_term

    tell(partial(story, 0))
    assert "still had requests" not in caplog.text
    tell(partial(story, 1))
    assert "still had requests after 0ms" in caplog.text


def test_draining_ends_with_the_child() -> None:
    async def story() -> None:
        with a_world(Behaviour(busy_until=100, ends=(9.0, SEGFAULT))) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
            assert asyncio.get_running_loop().time() == pytest.approx(9)
            assert not world.machine.children[0].got_term
            assert world.story_of("a")[-3:] == ["draining", "stopping", "stopped"]

    tell(story)


def test_one_that_loads_is_ended_without_draining() -> None:
    async def story() -> None:
        with a_world(Behaviour(loads_for=100)) as world:
            async with supervised(world) as one:
                await one.until(State.LOADING)
            assert world.story_of("a")[-2:] == ["stopping", "stopped"]
            assert "draining" not in world.story_of("a")
            assert asyncio.get_running_loop().time() < 1

    tell(story)


@pytest.mark.parametrize("at", [State.DRAINING, State.STOPPING])
def test_a_second_cancel_makes_it_short(at: State) -> None:
    async def story() -> None:
        with a_world(Behaviour(ignores_term=True)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                if at is State.DRAINING:
                    one.traffic.begin(KEY)
                one.task.cancel()
                await one.until(at)
                now = asyncio.get_running_loop().time()
                one.task.cancel()
                await asyncio.wait((one.task,))
                assert asyncio.get_running_loop().time() == now
                assert world.machine.children[0].got_kill

    tell(story)


def test_a_stop_while_a_hung_one_is_killed_waits_for_its_end() -> None:
    async def story() -> None:
        with a_world(Behaviour(silent_from=2, ignores_term=True, ignores_kill=True)) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.STOPPING)
                one.task.cancel()
                await asyncio.sleep(1)
                assert not one.task.done()
                one.task.cancel()
                await asyncio.sleep(1)
                world.machine.children[0].crash(Exit(signal=9))
                await asyncio.wait((one.task,))
                assert one.task.cancelled()

    tell(story)
