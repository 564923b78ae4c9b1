"""Whose words decide: those of a process that nobody but llamad has talked to, and of no client."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llamad.host.address import UnixAddress
from llamad.host.pidfd import Exit
from llamad.servers.board import Failure
from llamad.servers.command import Launch
from llamad.servers.starting import Running
from llamad.servers.state import State
from tests.builders import a_launch
from tests.stories import Behaviour, FakeChild, World, a_fleet, a_world, an_intent, by_name, supervised, tell

NO_GPU = "warning: no usable GPU found, --gpu-layers option will be ignored"
TOO_OLD = "CUDA error: no kernel image is available for execution on the device"
DRIVER = "E ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient"
OPTION = "error: invalid argument: --nope"


def test_a_ready_server_is_not_ended_for_words_of_a_client() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world, a_launch(gpus_asked=True)) as one:
                await one.until(State.READY)
                for line in (NO_GPU, DRIVER, f"got exception: {NO_GPU}"):
                    world.machine.children[0].say(line)
                await asyncio.sleep(60)
                assert one.view.state is State.READY
                assert len(world.machine.children) == 1

    tell(story)


@pytest.mark.parametrize("ended", [Exit(1), Exit(127), Exit(signal=4), Exit(signal=6), Exit(signal=11)], ids=str)
@pytest.mark.parametrize("line", [NO_GPU, TOO_OLD, OPTION])
def test_a_crash_after_words_of_a_client_is_only_a_crash(ended: Exit, line: str) -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world, a_launch(gpus_asked=True)) as one:
                await one.until(State.READY)
                world.machine.children[0].say(line)
                world.machine.children[0].crash(ended)
                await one.until(State.BACKOFF)
                assert one.view.last_error is not None
                assert one.cause not in ("gpu-missing", "gpu-too-old", "unknown-option")
                await one.until(State.READY)

    tell(story)


def test_what_others_wrote_is_for_the_operator_only() -> None:
    async def story() -> None:
        with a_world() as world:
            async with supervised(world) as one:
                await one.until(State.READY)
                world.machine.children[0].say("my secret prompt\x1b[2J")
                world.machine.children[0].crash(Exit(1))
                await one.until(State.BACKOFF)
                error = one.view.last_error
                assert error is not None
                assert error.message == r'it ended with exit code 1; its last words: "my secret prompt\x1b[2J"'
                assert error.for_clients.startswith("it ended (exit code 1) (")

    tell(story)


def taken_over(world: World, path: Path, **behaviour: Any) -> Running:
    """A child of an earlier llamad."""
    address = UnixAddress(path)
    child = FakeChild(world.machine, 77, address, Behaviour(**behaviour))
    world.machine.children.append(child)
    return Running(child, a_launch(gpus_asked=True), address, -500.0, 0, adopted=True)


def test_one_that_was_taken_over_ready_is_not_judged_by_what_lay_in_its_pipe(tmp_path: Path) -> None:
    async def story() -> None:
        with a_world() as world:
            adopted = taken_over(world, tmp_path / "x.sock", loads_for=0, answers_from=0, says=(NO_GPU, OPTION))
            async with supervised(world, adopted=adopted) as one:
                await one.until(State.READY)
                world.machine.children[0].crash(Exit(1))
                await one.until(State.BACKOFF)
                assert one.cause == "exit-code"

    tell(story)


@pytest.mark.parametrize("says", [(NO_GPU,), ()])
def test_one_that_ended_before_it_could_be_asked_is_not_judged_either(tmp_path: Path, says: tuple[str, ...]) -> None:
    async def story() -> None:
        with a_world() as world:
            ended = (0.0, Exit(1))
            adopted = taken_over(world, tmp_path / "x.sock", answers_from=9, says=(*says, OPTION), ends=ended)
            async with supervised(world, adopted=adopted) as one:
                await one.until(State.BACKOFF)
                assert one.cause == "exit-code"

    tell(story)


def test_one_that_was_taken_over_while_it_loads_is_judged_like_any_other(tmp_path: Path) -> None:
    async def story() -> None:
        with a_world() as world:
            adopted = taken_over(
                world, tmp_path / "x.sock", loads_for=9, answers_from=0, says=(OPTION,), ends=(5.0, Exit(1))
            )
            async with supervised(world, adopted=adopted) as one:
                await one.until(State.FAILED)
                assert one.cause == "unknown-option"

    tell(story)


# --- GPUs


@pytest.mark.parametrize(("devices", "fails"), [([], True), (["Vulkan0: a GPU"], False), (None, True)])
def test_a_driver_that_fails_is_judged_by_the_list_of_devices(devices: list[str] | None, *, fails: bool) -> None:
    """Another backend of the same build may have a GPU."""

    async def story() -> None:
        with a_world(Behaviour(says=(DRIVER, DRIVER), loads_for=50)) as world:
            world.gpus = devices
            async with supervised(world, a_launch(gpus_asked=True)) as one:
                await one.until(State.READY, State.BACKOFF, State.FAILED)
                assert (one.view.state is not State.READY) == fails
                if fails:
                    assert one.view.last_error is not None
                    assert one.cause == "gpu-missing"
                    assert one.view.last_error.message.endswith("CUDA driver version is insufficient")
                    assert asyncio.get_running_loop().time() < 1

    tell(story)


@pytest.mark.parametrize(("gpus", "starts"), [([], False), (["CUDA0: a GPU"], True), (None, True)])
def test_no_start_where_the_program_sees_no_gpu_and_one_was_asked_for(gpus: list[str] | None, *, starts: bool) -> None:
    """A build with the RPC backend, as llama.cpp's own releases are, never warns that it has no GPU."""

    async def story() -> None:
        with a_world() as world:
            world.gpus_at_first = gpus
            async with supervised(world, a_launch(gpus_asked=True)) as one:
                await one.until(State.READY, State.BACKOFF)
                assert (one.view.state is State.READY) == starts
                if not starts:
                    assert one.cause == "gpu-missing"
                    assert not world.machine.children
                    world.gpus_at_first = ["CUDA0: it came"]
                    await one.until(State.READY)

    tell(story)


@pytest.mark.parametrize("launch", [a_launch(), a_launch(gpus_asked=True, arguments=("--rpc", "h:1"))])
def test_no_program_is_asked_for_gpus_that_nobody_wants_or_others_have(launch: Launch) -> None:
    async def story() -> None:
        with a_world() as world:
            world.gpus_at_first = []
            async with supervised(world, launch) as one:
                await one.until(State.READY)

    tell(story)


def test_a_driver_that_fails_is_nothing_to_one_that_asked_for_no_gpu() -> None:
    async def story() -> None:
        with a_world(Behaviour(says=(DRIVER,))) as world:
            world.gpus = []
            async with supervised(world) as one:
                await one.until(State.READY)

    tell(story)


# --- an end without a word

MISSING = Failure("model-missing", "the model is not there", permanent=True)


def test_what_can_be_seen_explains_a_start_that_ended_without_a_word() -> None:
    async def story() -> None:
        with a_world(usual=Behaviour(ends=(0.5, Exit(1)))) as world:
            world.examinations[:] = [None, MISSING]
            async with supervised(world) as one:
                await one.until(State.BACKOFF)
                assert one.cause == "exit-code"
                await one.until(State.FAILED)
                assert one.cause == "model-missing"

    tell(story)


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(ends=(0.5, Exit(1)), says=(OPTION,)), Behaviour(ends=(5.0, Exit(1)))],
    ids=["told", "served"],
)
def test_no_look_explains_what_is_known_or_came_later(behaviour: Behaviour) -> None:
    async def story() -> None:
        with a_world(behaviour) as world:
            world.examinations[:] = [MISSING]
            async with supervised(world) as one:
                await one.until(State.BACKOFF, State.FAILED)
                assert one.cause in ("unknown-option", "exit-code")

    tell(story)


# --- rpc-servers


def test_one_whose_rpc_server_went_is_tried_again_soon() -> None:
    async def story() -> None:
        line = "E Failed to connect to 10.0.0.7:50052"
        with a_world(usual=Behaviour(ends=(0.5, Exit(signal=6)), says=(line,))) as world:
            launch = a_launch(arguments=("--model", "/m.gguf", "--rpc", "10.0.0.7:50052"))
            async with supervised(world, launch) as one:
                await one.until(State.FAILED)
                assert one.cause == "rpc-server-gone"
                assert one.view.last_error is not None
                assert "10.0.0.7:50052" in one.view.last_error.message
                assert one.view.retry_at is not None
                assert one.view.retry_at - asyncio.get_running_loop().time() <= 30

    tell(story)


@pytest.mark.parametrize(("rpc", "goes_on"), [("10.0.0.7:50052", False), (None, True)])
def test_none_goes_on_without_an_rpc_server_that_it_was_told_to_use(rpc: str | None, *, goes_on: bool) -> None:
    """llama.cpp says so in one line and loads the whole model without it."""

    async def story() -> None:
        with a_world(Behaviour(says=("E Failed to connect to 10.0.0.7:50052",), loads_for=50)) as world:
            launch = a_launch(arguments=("--model", "/m.gguf", *(("--rpc", rpc) if rpc else ())))
            async with supervised(world, launch) as one:
                await one.until(State.READY, State.BACKOFF)
                assert (one.view.state is State.READY) == goes_on
                if not goes_on:
                    assert one.cause == "rpc-server-gone"
                    await one.until(State.READY)

    tell(story)


def test_a_running_one_is_not_ended_for_one_that_would_see_no_gpu() -> None:
    async def story() -> None:
        with a_world() as world:
            before = an_intent(launch=a_launch(gpus_asked=True))
            async with a_fleet(world, before) as fleet:
                await world.board.wait_for(lambda: [one.state for one in world.board.of("a")] == [State.READY])
                world.gpus_at_first = []
                fleet.apply(by_name(an_intent(launch=a_launch(gpus_asked=True, arguments=("--changed",)))))
                await asyncio.sleep(60)
                (one,) = world.board.of("a")
                assert (one.state, len(world.machine.children)) == (State.READY, 1)
                assert one.last_error is not None
                assert one.last_error.cause == "gpu-missing"

    tell(story)
