"""What is served, and which devices programs see."""

from pathlib import Path

import pytest
import uvloop

from llamad.config.model import ServerConfig
from llamad.errors import LlamadError
from llamad.host.address import Address, TcpAddress
from llamad.servers import catalog
from llamad.servers.board import Board, Failure, Replica, ReplicaKey
from llamad.servers.catalog import GpuLists, devices_seen, what_is_served
from llamad.servers.plan import Intent
from llamad.servers.probe import ProbeAnswer, ProbeError
from llamad.servers.state import State
from tests.builders import a_launch, gguf
from tests.stories import an_intent

uvloop.new_event_loop().close()  # libuv opens a pipe once a process: not inside a test, which may leave none open
SAYS = {"/v1/models": b'{"data":[{"id":"qwen","meta":{"n_ctx":4096}}]}', "/props": b'{"total_slots":4}'}


def a_board(state: State = State.READY) -> Board:
    board = Board()
    board.add(Replica(ReplicaKey("a", 0), state, address=TcpAddress("h", 1)))
    return board


async def says(address: Address, path: str, *, timeout: float, key: str | None = None) -> ProbeAnswer:
    return ProbeAnswer(200, SAYS[path])


async def is_silent(address: Address, path: str, *, timeout: float, key: str | None = None) -> ProbeAnswer:
    raise ProbeError("Connection refused")


async def makes_no_sense(address: Address, path: str, *, timeout: float, key: str | None = None) -> ProbeAnswer:
    return ProbeAnswer(200, b"<html>")


def no_key(_: ServerConfig) -> str | None:
    return None


async def test_a_ready_server_speaks_for_itself() -> None:
    found = await what_is_served({"a": an_intent("a")}, a_board(), says, no_key)
    assert (found["a"].names, found["a"].source, found["a"].slots) == (("qwen",), "server", 4)


async def test_one_that_is_silent_down_or_odd_is_spoken_for_by_its_file(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(gguf({"general.architecture": "llama", "llama.context_length": 77}))
    intents = {"a": an_intent("a", model=model)}
    for board, prober in ((a_board(), is_silent), (a_board(), makes_no_sense), (a_board(State.LOADING), says)):
        found = await what_is_served(intents, board, prober, no_key)
        assert (found["a"].source, found["a"].context) == ("file", 77)


async def test_a_file_that_cannot_be_read_is_still_named(tmp_path: Path) -> None:
    found = await what_is_served({"a": an_intent("a", model=tmp_path / "gone.gguf")}, Board(), says, no_key)
    assert found["a"].source == "file"


async def test_an_external_server_whose_key_is_missing_says_nothing() -> None:
    def missing(_: ServerConfig) -> str | None:
        raise LlamadError("no key")

    assert await what_is_served({"a": an_intent("a", url="http://h")}, a_board(), says, missing) == {}


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_devices_are_listed_once_a_program(tmp_path: Path) -> None:
    script = 'echo "Available devices:"; sleep 0.05; echo "  CUDA0: RTX"; echo; sleep 0.05; echo "  CUDA1: $1"'
    good = program(tmp_path / "good", script)
    missing = tmp_path / "missing"
    intents = [
        an_intent("a", launch=a_launch(binary=good), replicas=2),
        an_intent("b", launch=a_launch(binary=missing)),
        an_intent("c", launch=Failure("x", "y")),
        Intent(an_intent("d", url="http://h").config),
    ]
    assert await devices_seen(intents) == {
        str(good): ["CUDA0: RTX", "CUDA1: --list-devices"],
        str(missing): ["cannot be run: No such file or directory"],
    }


def test_devices_are_listed_on_uvloop_too(tmp_path: Path) -> None:
    good = program(tmp_path / "good", 'echo "  CUDA0: RTX"')
    seen = devices_seen([an_intent("a", launch=a_launch(binary=good))])
    assert uvloop.run(seen) == {str(good): ["CUDA0: RTX"]}


@pytest.mark.parametrize("script", ["sleep 60", "sleep 60 & exit 0"], ids=["hangs", "leaves one that holds the pipe"])
async def test_a_program_that_does_not_end_is_ended(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "LIST_TIMEOUT", 0.1)
    slow = program(tmp_path / "slow", script)
    found = await devices_seen([an_intent("a", launch=a_launch(binary=slow))])
    assert found == {str(slow): ["did not list its devices in 0.1 s"]}


async def test_a_flood_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_LIST", 1000)
    flood = program(tmp_path / "flood", "exec yes 123456789")
    found = await devices_seen([an_intent("a", launch=a_launch(binary=flood))])
    assert found == {str(flood): ["123456789"] * 100}


async def test_the_gpus_of_a_launch_are_those_that_its_environment_shows(tmp_path: Path) -> None:
    shows = program(tmp_path / "shows", 'echo "Available devices:"; echo "  BLAS: x"; echo "  $SHOWN"')
    there = a_launch(binary=shows, environment=(("SHOWN", "CUDA0: RTX"),))
    assert await GpuLists({"PATH": "/bin"}).ask(there) == ["CUDA0: RTX"]
    assert await GpuLists({"SHOWN": "(none)"}).ask(a_launch(binary=shows)) == []


@pytest.mark.parametrize(
    "script", ["echo 'error: invalid argument: --list-devices'; exit 1", "exit 0", "echo Available devices:"]
)
async def test_a_program_that_lists_no_devices_tells_nothing_of_gpus(tmp_path: Path, script: str) -> None:
    other = a_launch(binary=program(tmp_path / "other", script))
    assert await GpuLists({"PATH": "/bin"}).ask(other) is None
    assert await GpuLists({}).ask(a_launch(binary=tmp_path / "nothing")) is None


async def test_gpus_that_were_seen_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "count"
    shows = program(tmp_path / "shows", f'echo x >>{count}; echo "Available devices:"; echo "  $SHOWN"')
    lists = GpuLists({"PATH": "/bin"})
    seen, none = (a_launch(binary=shows, environment=(("SHOWN", text),)) for text in ("CUDA0: x", "(none)"))
    monkeypatch.setattr(catalog, "MAX_SEEN", 1)
    for launch, again, asked in (
        (seen, False, 1),
        (seen, False, 1),
        (seen, True, 2),
        (none, False, 3),
        (none, False, 4),
    ):
        await lists.ask(launch, again=again)
        assert len(count.read_text().split()) == asked
    await lists.ask(a_launch(binary=shows, environment=(("SHOWN", "another"),)))
    await lists.ask(seen)
    assert len(count.read_text().split()) == 6, "what is kept is bounded"
