"""One replica's life, told on a clock that jumps."""

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import HealthPolicy, RestartPolicy
from llamad.host.address import UnixAddress
from llamad.host.pidfd import Exit
from llamad.servers import starting
from llamad.servers.board import Failure
from llamad.servers.ending import Ending
from llamad.servers.starting import Running
from llamad.servers.state import State
from tests.builders import a_launch
from tests.stories import KEY, Behaviour, FakeChild, JumpingLoop, World, a_server, a_world, supervised, tell

SEGFAULT = Exit(signal=11)
AT_ONCE = Behaviour(ends=(0.0, SEGFAULT))
PERMANENT = Failure("model-missing", "the model is not there", "put it there", permanent=True)


def starts(world: World) -> list[float]:
    """When each child was started."""
    return [child.started for child in world.machine.children]


def test_a_life_goes_from_stopped_to_ready_and_back() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                assert one.view.pid == 1000
                assert one.view.started_at == 0.0
                assert one.view.ready_since == pytest.approx(1.0, abs=0.1)
                await world.board.wait_for(lambda: one.view.slots == 1)
            assert world.story_of("a") == ["stopped", "starting", "loading", "ready", "draining", "stopping", "stopped"]
            assert world.machine.children[0].got_term
            assert not world.machine.children[0].got_kill

    tell(story)


def test_a_crash_is_followed_by_a_start_after_the_delay() -> None:
    async def story() -> None:
        with a_world(Behaviour(ends=(10.0, SEGFAULT))) as world:
            async with supervised(world) as one:
                await one.until(State.BACKOFF)
                assert one.view.last_exit == "killed by SIGSEGV"
                assert one.cause == "segfault"
                assert one.view.pid is None
                assert one.view.address is None
                assert one.view.retry_at == pytest.approx(11.0)
                await one.until(State.READY)
                assert starts(world) == [0.0, pytest.approx(11.0)]
                assert one.view.restarts == 1
                assert one.view.last_error is None
                assert one.view.last_exit == "killed by SIGSEGV"

    tell(story)


@pytest.mark.parametrize(
    ("chance", "first", "second"), [(0.0, 0.9, 1.8), (0.5, 1.0, 2.0), (1.0, 1.1, 2.2)], ids=["low", "middle", "high"]
)
def test_the_delay_doubles_and_is_spread_by_the_jitter(chance: float, first: float, second: float) -> None:
    async def story() -> None:
        with a_world(AT_ONCE, AT_ONCE) as world:
            world.chances[:] = [chance, chance]
            async with supervised(world) as one:
                await one.until(State.READY)
            assert starts(world) == [0.0, pytest.approx(first), pytest.approx(first + second)]

    tell(story)


def test_too_many_failures_in_a_row_end_in_failed_and_the_slow_retry_mends_it() -> None:
    async def story() -> None:
        with a_world(*[AT_ONCE] * 7) as world:
            async with supervised(world) as one:
                await one.until(State.FAILED)
                assert starts(world) == [pytest.approx(at) for at in (0, 1, 3, 7, 15, 31)]
                assert one.view.retry_at == pytest.approx(331)
                await one.until(State.STARTING)
                await one.until(State.FAILED)
                await one.until(State.READY)
                assert starts(world)[6:] == [pytest.approx(331), pytest.approx(631)]

    tell(story)


def test_a_stable_run_starts_the_count_anew() -> None:
    async def story() -> None:
        stable = Behaviour(ends=(70.0, SEGFAULT))
        with a_world(AT_ONCE, AT_ONCE, stable) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.BACKOFF)
                assert one.view.retry_at == pytest.approx(asyncio.get_running_loop().time() + 1.0)

    tell(story)


def test_a_short_run_does_not() -> None:
    async def story() -> None:
        with a_world(AT_ONCE, AT_ONCE, Behaviour(ends=(30.0, SEGFAULT))) as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                await one.until(State.BACKOFF)
                assert one.view.retry_at == pytest.approx(asyncio.get_running_loop().time() + 4.0)

    tell(story)


def test_without_a_slow_retry_failed_is_for_good_until_somebody_wakes_it() -> None:
    async def story() -> None:
        with a_world(AT_ONCE) as world:
            async with supervised(world, restart=RestartPolicy(max_retries=0, retry_failed_every=None)) as one:
                await one.until(State.FAILED)
                assert one.view.retry_at is None
                await asyncio.sleep(3000)
                assert one.view.state is State.FAILED
                one.supervisor.wake()
                await one.until(State.READY)
                assert starts(world) == [0.0, pytest.approx(3000)]

    tell(story)


@pytest.mark.parametrize("how", ["wake", "retune"])
def test_one_that_waits_tries_at_once_when_asked(how: str) -> None:
    async def story() -> None:
        with a_world(*[AT_ONCE] * 4) as world:
            async with supervised(world) as one:
                await world.board.wait_for(lambda: KEY in world.board.replicas and one.view.restarts == 3)
                await one.until(State.BACKOFF)
                if how == "wake":
                    one.supervisor.wake()
                else:
                    one.supervisor.retune(a_server(restart=RestartPolicy(initial_delay=7)))
                await one.until(State.STARTING)
                assert asyncio.get_running_loop().time() == pytest.approx(7)

    tell(story)


def test_what_somebody_asked_for_begins_the_count_anew() -> None:
    async def story() -> None:
        with a_world(*[AT_ONCE] * 5) as world:
            async with supervised(world) as one:
                await world.board.wait_for(lambda: KEY in world.board.replicas and one.view.restarts == 3)
                await one.until(State.BACKOFF)
                one.supervisor.wake()
                await one.until(State.STARTING)
                await one.until(State.BACKOFF)
                assert one.view.retry_at == pytest.approx(asyncio.get_running_loop().time() + 1)

    tell(story)


def test_a_permanent_cause_fails_without_a_start() -> None:
    async def story() -> None:
        with a_world() as world:
            world.inspections[:] = [PERMANENT]
            async with supervised(world) as one:
                await one.until(State.FAILED)
                assert not world.machine.children
                assert one.view.last_error == PERMANENT
            assert world.story_of("a") == ["stopped", "failed", "stopped"]

    tell(story)


def test_a_permanent_cause_in_the_log_is_not_hammered() -> None:
    async def story() -> None:
        bad = Behaviour(ends=(0.2, Exit(code=1)), says=("error: invalid argument: --nope",))
        with a_world(bad) as world:
            async with supervised(world) as one:
                await one.until(State.FAILED)
                assert one.cause == "unknown-option"
                assert len(world.machine.children) == 1
                assert [line.text for line in one.output.lines()] == ["error: invalid argument: --nope"]

    tell(story)


def test_no_usable_gpu_in_the_log_ends_one_that_asked_for_gpus() -> None:
    async def story() -> None:
        line = "warning: no usable GPU found, --gpu-layers option will be ignored"
        with a_world(Behaviour(says=(line,), loads_for=50)) as world:
            async with supervised(world, a_launch(gpus_asked=True)) as one:
                await one.until(State.FAILED, State.BACKOFF)
                assert one.cause == "gpu-missing"
                assert world.machine.children[0].got_kill
                assert one.view.last_exit is not None
                assert one.view.last_exit.startswith("killed by SIGKILL by llamad: GPUs were asked for, but")
                assert asyncio.get_running_loop().time() < 1

    tell(story)


def test_the_same_line_is_nothing_to_one_that_asked_for_none() -> None:
    async def story() -> None:
        line = "warning: no usable GPU found, --gpu-layers option will be ignored"
        with a_world(Behaviour(says=(line,))) as world:
            async with supervised(world) as one:
                await one.until(State.READY)

    tell(story)


def test_an_oom_kill_is_told_from_other_kills() -> None:
    async def story() -> None:
        with a_world(Behaviour(ends=(3.0, Exit(signal=9)), oom_kills=1)) as world:
            async with supervised(world) as one:
                await one.until(State.BACKOFF)
                assert one.cause == "oom-killed"

    tell(story)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.E2BIG])
def test_a_kernel_that_refuses_makes_it_wait_with_that_cause(number: int) -> None:
    async def story() -> None:
        with a_world() as world:
            world.machine.refuses = [OSError(number, os.strerror(number))]
            async with supervised(world) as one:
                await one.until(State.BACKOFF)
                assert one.cause == "cannot-spawn"
                assert one.view.last_error is not None
                assert os.strerror(number) in one.view.last_error.message
                assert one.view.last_error.hint
                assert one.view.pid is None
                await one.until(State.READY)
                assert starts(world) == [pytest.approx(1.0)]

    tell(story)


def test_a_kernel_that_gives_no_thread_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "to_thread", no_thread)

    async def story() -> None:
        with a_world(AT_ONCE) as world:
            async with supervised(world) as one:
                await one.until(State.READY)

    tell(story)


def test_a_missing_credential_is_named_and_not_retried_soon() -> None:
    async def story() -> None:
        with a_world() as world:
            world.no_secrets.append("hf")
            async with supervised(world, a_launch(credentials=(("HF_TOKEN", "hf"),))) as one:
                await one.until(State.FAILED)
                assert one.cause == "credential-missing"
                world.no_secrets.clear()
                one.supervisor.wake()
                await one.until(State.READY)
                assert world.machine.environments[0]["HF_TOKEN"] == "secret of hf"

    tell(story)


def test_a_launch_that_cannot_be_fails_and_asks_for_a_reload_when_a_file_changes(tmp_path: Path) -> None:
    async def story() -> None:
        program = tmp_path / "llama-server"
        with a_world() as world:
            failure = Failure("program-missing", "it is not there", permanent=True)
            async with supervised(world, failure, llama_server=str(program)) as one:
                await one.until(State.FAILED)
                assert one.view.last_error == failure
                await asyncio.sleep(10)
                assert not world.rereads
                program.write_text("#!/bin/sh\n")
                program.chmod(0o755)
                await asyncio.sleep(10)
                assert len(world.rereads) == 1
                assert not world.machine.children

    tell(story)


def test_a_launch_that_may_be_possible_later_asks_for_a_reload_at_each_retry() -> None:
    """A program that did not answer --help in time (a cold disk): no file changes, and it may answer now."""

    async def story() -> None:
        with a_world() as world:
            silent = Failure("binary-silent", "it has not ended 30 s after --help")
            async with supervised(world, silent) as one:
                await one.until(State.FAILED)
                assert len(world.rereads) == one.supervisor._config.restart.max_retries
                await asyncio.sleep(301)
                assert len(world.rereads) == 6

    tell(story)


def test_a_changed_model_is_tried_at_once_when_it_keeps_still(tmp_path: Path) -> None:
    async def story() -> None:
        model = tmp_path / "model.gguf"
        with a_world(*[AT_ONCE] * 6) as world:
            async with supervised(world, a_launch(model=model)) as one:
                await one.until(State.FAILED)
                failed_at = asyncio.get_running_loop().time()
                for size in range(1, 20):  # a copy that goes on
                    model.write_bytes(b"x" * size)
                    await asyncio.sleep(1)
                assert one.view.state is State.FAILED
                await one.until(State.READY)
                assert asyncio.get_running_loop().time() - failed_at < 25

    tell(story)


def test_the_program_is_told_to_have_changed_only_when_it_did(tmp_path: Path) -> None:
    async def story() -> None:
        program = tmp_path / "llama-server"
        program.write_text("old")
        program.chmod(0o755)
        with a_world() as world:
            async with supervised(world, a_launch(binary=program), llama_server=str(program)) as one:
                before = await starting.look_at_programs([one.supervisor.launch])
                assert not one.supervisor.program_changed(before)
                await one.until(State.READY)
                assert not one.supervisor.program_changed(await starting.look_at_programs([one.supervisor.launch]))
                program.write_text("newer")
                newer = await starting.look_at_programs([one.supervisor.launch])
                assert one.supervisor.program_changed(newer)
                assert not one.supervisor.program_changed(replace(newer, at=0.0)), "seen before it was started"
                program.unlink()
                assert not one.supervisor.program_changed(await starting.look_at_programs([one.supervisor.launch]))

    tell(story)


# --- taken over


def an_adopted(world: World, path: Path, **behaviour: Any) -> Running:
    """A child of an earlier llamad, ready since long."""
    address = UnixAddress(path)
    child = FakeChild(world.machine, 77, address, Behaviour(loads_for=0, answers_from=0, **behaviour))
    world.machine.children.append(child)
    return Running(child, a_launch(), address, -500.0, 3)


def test_one_that_was_taken_over_goes_on_as_it_is(tmp_path: Path) -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world, adopted=an_adopted(world, tmp_path / "x.sock")) as one:
                await one.until(State.READY)
                assert (one.view.pid, one.view.restarts, one.view.started_at) == (77, 3, -500.0)
                seen = await starting.look_at_programs([one.supervisor.launch])
                assert not one.supervisor.program_changed(seen)
                assert len(world.machine.children) == 1

    tell(story)


def test_one_that_was_taken_over_and_crashes_waits_like_any_other(tmp_path: Path) -> None:
    async def story() -> None:
        with a_world() as world:
            policy = RestartPolicy(initial_delay=10, max_delay=10)
            adopted = an_adopted(world, tmp_path / "x.sock", ends=(5.0, SEGFAULT))
            async with supervised(world, adopted=adopted, restart=policy) as one:
                await one.until(State.BACKOFF)
                await one.until(State.READY)
                assert starts(world) == [0.0, pytest.approx(15)]
                assert one.view.restarts == 4

    tell(story)


def test_the_socket_of_an_ended_child_is_removed(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "x.sock"
        path.touch()
        with a_world() as world:
            adopted = an_adopted(world, path)
            async with supervised(world, adopted=adopted) as one:
                await one.until(State.READY)
                assert path.exists()
            assert not path.exists()

    tell(story)


# --- a bug of ours


def test_a_bug_costs_one_life(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with a_world() as world:
            inspections = iter([ZeroDivisionError("oops")])

            async def prepare(*_: object) -> None:
                raise next(inspections)

            with monkeypatch.context() as patch:
                patch.setattr(starting, "prepare", prepare)
                async with supervised(world) as one:
                    await one.until(State.BACKOFF)
                    assert one.cause == "internal-error"
                    patch.undo()
                    await one.until(State.READY)

    tell(story)
    assert "a bug in llamad" in caplog.text


def test_a_bug_while_it_runs_ends_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                with monkeypatch.context() as patch:
                    patch.setattr("llamad.servers.witnesses.read_slots", lambda _: 1 / 0)
                    await one.until(State.BACKOFF)
                assert one.cause == "internal-error"
                assert world.machine.children[0].closed
                await one.until(State.READY)

    tell(story)


# --- the best one

WHOLE_LIFE = (
    Behaviour(loads_for=2, busy_until=4, ends=(6.0, SEGFAULT), dies_in=0.3),
    Behaviour(loads_for=1, silent_from=3, silent_until=9, ends=(12.0, Exit(code=1))),
    Behaviour(loads_for=1, stuck_from=2, ignores_term=True),
    Behaviour(ends=(0.0, SEGFAULT)),
)
"""In 30 s: loading, ready, busy, crashed, waiting, unresponsive, again, stuck, hung, killed, failing."""


@pytest.mark.parametrize("part", range(4))
def test_a_stop_at_any_instant_ends_clean(part: int) -> None:
    """200 instants; many coincide with something that the loop does at that time."""
    seen: set[str] = set()
    for instant in range(part, 200, 4):

        async def story(at: float = instant * 0.15) -> None:
            with a_world(*WHOLE_LIFE) as world:
                async with supervised(world, health=HealthPolicy(hang_timeout=9, interval=1, timeout=1)) as one:
                    flight = one.traffic.begin(KEY)
                    asyncio.get_running_loop().call_later(at + 1, one.traffic.end, flight)
                    await asyncio.sleep(at)
                    seen.add(str(one.view.state))
                assert asyncio.get_running_loop().time() - at <= 30 + 10 + 10
            assert world.story_of("a")[-1] == "stopped"

        tell(story)
    assert {"loading", "ready", "unresponsive", "backoff"} <= seen


@pytest.mark.parametrize("steps", range(60))
def test_a_stop_after_any_number_of_steps_ends_clean(steps: int) -> None:
    """Not by the clock but by turns of the loop: between any two awaits."""

    async def story() -> None:
        with a_world(Behaviour(loads_for=0, answers_from=0, ends=(0.005, SEGFAULT))) as world:
            async with supervised(world):
                for _ in range(steps + 1):
                    await asyncio.sleep(0)

    tell(story)


@pytest.mark.parametrize("after", [0.0, 0.03, 0.06, 3.0])
@pytest.mark.parametrize("order", ["crash first", "stop first"])
def test_a_crash_in_the_moment_of_a_stop_ends_clean(after: float, order: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await world.board.wait_for(lambda: bool(world.machine.children))
                await asyncio.sleep(after)
                if order == "stop first":
                    one.task.cancel()
                world.machine.children[0].crash(SEGFAULT)
            assert world.story_of("a")[-1] == "stopped"

    tell(story)


@pytest.mark.parametrize("when", ["while it is looked at", "while it is killed"])
def test_an_order_in_the_last_moments_of_a_life_is_not_lost(when: str) -> None:
    """`llamad start` for one that is just ending: it does not wait for its back-off."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        hangs = Behaviour(loads_for=0, grows=False, ignores_kill=True, silent_from=1)
        with a_world(*([hangs] if when == "while it is killed" else [])) as world:
            restart = {"initial_delay": 100.0, "max_delay": 100.0, "jitter": 0.0}
            if when == "while it is looked at":
                loop.thread_time = 2.0  # what is there to start from takes a while to see
                world.inspections[:] = [Failure("model-missing", "the model is not there")]
            async with supervised(world, restart=restart) as one:
                if when == "while it is looked at":
                    await asyncio.sleep(1)
                    one.supervisor.wake()  # it is there now
                else:
                    await one.until(State.STOPPING)
                    one.supervisor.wake()
                    world.machine.children[0].crash(Exit(signal=9))
                began = loop.time()
                await one.until(State.READY)
                assert loop.time() - began < 20

    tell(story)


def test_an_order_during_a_start_is_no_order_for_the_next_one() -> None:
    """It was obeyed: a crash much later waits for its back-off like any other."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        loop.thread_time = 2.0
        with a_world(Behaviour(ends=(500, SEGFAULT))) as world:
            async with supervised(world, restart={"initial_delay": 50.0, "max_delay": 50.0, "jitter": 0.0}) as one:
                await asyncio.sleep(1)
                one.supervisor.wake()
                await one.until(State.BACKOFF)
                await one.until(State.READY)
            first, second = starts(world)
            assert second - first >= 550

    tell(story)


@pytest.mark.parametrize("where", ["gracefully", "_let_go", "_note_exit"])
def test_a_bug_on_the_way_out_keeps_nobody(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is stopped ends, whatever goes wrong meanwhile: else whoever stops it waits for ever."""

    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                usual = getattr(Ending, where)

                def broken(ending: Ending, *args: Any) -> None:
                    if where != "gracefully":
                        usual(ending, *args)
                    raise KeyError(where)

                monkeypatch.setattr(Ending, where, broken)

    tell(story)
