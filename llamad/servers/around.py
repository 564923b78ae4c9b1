"""What every supervisor works with; put together once, by the daemon or by a test."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llamad.config.model import ServerConfig
from llamad.host.address import Address
from llamad.host.devices import Choice
from llamad.host.dirs import Directories
from llamad.host.gpu_use import GpuUse
from llamad.host.pidfd import Exit
from llamad.host.pulse import Pulse
from llamad.servers.board import Board, Failure, ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.probe import Poster
from llamad.servers.residency import Device


class Child(Protocol):
    """A running llama-server, as a supervisor sees it (`process.Process`, or a fake with the same behaviour)."""

    pid: int
    ended: asyncio.Future[Exit]
    """Its Exit, once it has ended and its last output was read."""

    def attach(self, on_output: Callable[[bytes], None]) -> None:
        """Start to read its output and to watch for its end."""
        ...

    def terminate(self) -> None:
        """SIGTERM to the process."""
        ...

    def kill(self) -> None:
        """SIGKILL to the process and to everything it started."""
        ...

    def memory_and_reads(self) -> tuple[int, int] | None:
        """Resident bytes, and bytes read so far."""
        ...

    def cpu_seconds(self) -> float | None:
        """Processor time used so far."""
        ...

    def oom_kills(self) -> int:
        """How often the kernel killed for lack of memory in its control group."""
        ...

    def close(self) -> None:
        """It has ended: let go of its descriptors, its control group and its entry in the ledger."""
        ...


class Launcher(Protocol):
    """Starts a child; OSError where the kernel refuses."""

    def __call__(self, key: ReplicaKey, launch: Launch, address: Address, environment: Mapping[str, str]) -> Child: ...


class GpuLister(Protocol):
    """The GPUs that the program of a launch sees, looked at `again` or as last seen; None where it does not tell."""

    async def __call__(self, launch: Launch, *, again: bool = False) -> Sequence[str] | None: ...


@dataclass(frozen=True, slots=True)
class Around:
    """The world of the supervisors."""

    board: Board
    directories: Directories
    launcher: Launcher
    prober: Poster
    pulse: Pulse
    environ: Mapping[str, str]
    """What children inherit, systemd's own variables already taken out."""
    secret: Callable[[str], str]
    """The text of a systemd credential by its name; LlamadError where it is not there."""
    external_key: Callable[[ServerConfig], str | None]
    """The API key for an external server; LlamadError where it cannot be read."""
    inspect: Callable[[Launch], Failure | None]
    """Looks at model and binary before a start; runs in a thread."""
    examine: Callable[[Launch, Address], Failure | None]
    """Looks for the cause of an unexplained end of a start; runs in a thread."""
    list_gpus: GpuLister
    memory_free: Callable[[Device], int | None]
    """Free bytes of a GPU by its index, or of the `host`; None where that cannot be told."""
    gpu_use: Callable[[int, Choice], GpuUse]
    """What a process does with the GPUs it may use; runs in a thread."""
    make_folder: Callable[[Path], None]
    """Makes the folder of the private sockets where it is not there; OSError."""
    reread: Callable[[], None]
    """Asks for a reload: the program of a server that could not be started may be there now."""
    chance: Callable[[], float]
    """A random number from 0 to 1."""
