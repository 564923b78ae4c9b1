"""Questions to servers and their programs that only a person asks: what is served, which devices are seen."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from llamad.config.model import ServerConfig
from llamad.errors import LlamadError
from llamad.host.gguf import GgufError, read_header
from llamad.host.threads import aside
from llamad.servers.board import Board
from llamad.servers.command import Launch
from llamad.servers.models import Served, served, served_by_file
from llamad.servers.plan import Intent
from llamad.servers.probe import ProbeError, Prober
from llamad.servers.starting import mark
from llamad.servers.state import State

ASK_TIMEOUT = 2.0
LIST_TIMEOUT = 10.0
"""Seconds that a program may take to list its devices: CUDA alone wakes up for two."""
END_TIMEOUT = 2.0
MAX_LIST = 64 << 10
MAX_SEEN = 256
_TITLE = "Available devices"
_NO_GPU = ("(none)", "BLAS", "CPU")
"""What a list of devices may hold beside GPUs."""


async def what_is_served(
    intents: Mapping[str, Intent], board: Board, prober: Prober, key_of: Callable[[ServerConfig], str | None]
) -> dict[str, Served]:
    """By server's name: what a ready one says itself, else what its model's file says; all at once."""
    names = list(intents)
    answers = await asyncio.gather(*(_ask(intents[name].config, board, prober, key_of) for name in names))
    return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}


async def _ask(
    config: ServerConfig, board: Board, prober: Prober, key_of: Callable[[ServerConfig], str | None]
) -> Served | None:
    for replica in board.of(config.name):
        if replica.state is State.READY and replica.address is not None:
            with suppress(ProbeError, LlamadError):
                key = key_of(config)
                models = await prober(replica.address, "/v1/models", timeout=ASK_TIMEOUT, key=key)
                props = await prober(replica.address, "/props", timeout=ASK_TIMEOUT, key=key)
                if (said := served(models.json(), props.json())) is not None:
                    return said
    return None if config.model is None else await aside(_by_file, config.model)


def _by_file(model: Path) -> Served:
    try:
        return served_by_file(model, read_header(model))
    except (OSError, GgufError):  # `llamad models` lists the file with what is wrong with it
        return served_by_file(model, None)


async def devices_seen(intents: Iterable[Intent]) -> dict[str, list[str]]:
    """By program: the lines of `llama-server --list-devices`, or why there are none."""
    launches = (launch for intent in intents for launch in intent.launches)
    programs = sorted({launch.binary for launch in launches if isinstance(launch, Launch)})
    return {str(program): await _list_devices(program) for program in programs}


class GpuLists:
    """Asks programs which GPUs they see, each once in each environment for as long as it sees some: CUDA takes a second
    to wake up, and some of each GPU's memory.
    """

    def __init__(self, inherited: Mapping[str, str]) -> None:
        self._inherited = inherited
        self._seen: dict[object, Sequence[str]] = {}

    async def ask(self, launch: Launch, *, again: bool = False) -> Sequence[str] | None:
        """The GPUs that the program of a launch lists in the environment of the launch; None where it does not tell."""
        what = (launch.binary, await aside(mark, launch.binary), launch.environment)
        if not again and what in self._seen:
            return self._seen[what]
        gpus = await self._ask_anew(launch)
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen.pop(what, None)
        if gpus:
            self._seen[what] = gpus
        return gpus

    async def _ask_anew(self, launch: Launch) -> Sequence[str] | None:
        try:
            title, *lines = await _listed(launch.binary, dict(self._inherited) | dict(launch.environment)) or [""]
        except (OSError, TimeoutError):  # it does not say; a start that fails says why
            return None
        if not title.startswith(_TITLE) or not lines:  # it has no such option, or is too old to say `(none)`
            return None
        return [line for line in lines if not line.startswith(_NO_GPU)]


async def _list_devices(program: Path) -> list[str]:
    try:
        return [line for line in await _listed(program, dict(os.environ)) if not line.startswith(_TITLE)]
    except TimeoutError:
        return [f"did not list its devices in {LIST_TIMEOUT:g} s"]
    except OSError as error:
        return [f"cannot be run: {error.strerror}"]


async def _listed(program: Path, environment: dict[str, str]) -> list[str]:
    """What `--list-devices` prints: a title, and a line a device. Raises OSError (it cannot be run), TimeoutError."""
    child = await asyncio.create_subprocess_exec(
        program,
        "--list-devices",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # uvloop has no process_group=
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(LIST_TIMEOUT):
            text = await _read(child.stdout)
    finally:
        with suppress(ProcessLookupError):  # it has ended: nothing is left to end
            os.killpg(child.pid, signal.SIGKILL)  # it and what it started, which may hold the pipe
        with suppress(TimeoutError):  # what is stuck in a driver is nobody's any more
            async with asyncio.timeout(END_TIMEOUT):  # asyncio's wait() ends only once the pipe was read to its end
                while await child.stdout.read(MAX_LIST):
                    pass
                await child.wait()
    lines = text.decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


async def _read(stream: asyncio.StreamReader) -> bytes:
    """All of it, up to the bound."""
    text = b""
    while len(text) < MAX_LIST and (more := await stream.read(MAX_LIST - len(text))):
        text += more
    return text
