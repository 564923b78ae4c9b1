"""What the control socket asks of the daemon. The daemon implements it; nothing here knows how.

Failures an operator can mend are LlamadErrors: UnknownServerError for a name that is not there, ConfigError (with
`problems`) where a configuration is not accepted. Everything else is a bug of ours and answered as such.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llamad.config.files import Files
from llamad.config.verdict import Verdict
from llamad.control.documents import DevicesDocument, LogDocument, ModelsDocument, StatusDocument
from llamad.servers.board import Failure
from llamad.servers.plan import Step
from llamad.servers.state import State


@dataclass(frozen=True, slots=True)
class Settled:
    """A server after a verb: its state (`state.together`) and, where the verb waited and it failed, why."""

    server: str
    state: State
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """What was applied by itself before: when (Unix time), why, what it changed, and how its servers are now."""

    at: float
    cause: str
    changes: tuple[str, ...]
    servers: tuple[Settled, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What a reload did, or would do. `problems` are lines that did not refuse it (a new server's model is missing);
    `settled` are the servers waited for, empty where nobody waited; `settings` what changed beside servers, in words;
    `earlier` what was applied since the last one that was asked for.
    """

    steps: tuple[Step, ...]
    problems: tuple[str, ...] = ()
    settled: tuple[Settled, ...] = ()
    settings: tuple[str, ...] = ()
    earlier: tuple[Before, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What is wrong with a configuration: `files` those that were read, `servers` their names as far as known."""

    file: Path
    files: tuple[Path, ...]
    servers: tuple[str, ...]
    verdict: Verdict


class Operations(Protocol):
    """The verbs. A call that is cancelled (its client has left) undoes nothing: what it asked for goes on."""

    def status(self, server: str | None) -> StatusDocument:
        """The status now, of one server or of all."""
        ...

    def watch(self, server: str | None) -> AsyncGenerator[StatusDocument, None]:
        """The status now, then again whenever it changes, coalesced (`watching.watch`)."""
        ...

    async def reload(self, *, wait: bool) -> ReloadOutcome:
        """Read and apply the configuration; returns once it is accepted, or with `wait` once every server has settled
        that it touched, or that should run and had not come to what is wanted. ConfigError where it is refused.
        """
        ...

    async def plan(self, files: Files | None) -> ReloadOutcome:
        """What a reload would do now, or with these files instead, without doing it; `settled` is empty."""
        ...

    async def check(self, files: Files | None) -> CheckOutcome:
        """What is wrong with the files on disk, or with these."""
        ...

    async def start(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        """Want these servers running. All names are checked before anything is changed; one answer a server, in the
        order asked. With `wait`, returns once each is ready, has failed or is stopped. LlamadError where llamad does
        not run one of them.
        """
        ...

    async def stop(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        """Want these servers stopped; otherwise as `start`."""
        ...

    async def restart(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        """Replace the processes of these servers; otherwise as `start`."""
        ...

    def logs(self, server: str, *, last: int | None, follow: bool) -> AsyncGenerator[LogDocument, None]:
        """The `last` lines kept of a server's output (None: all), then with `follow` each new one."""
        ...

    async def models(self) -> ModelsDocument:
        """The files in models_dir, and what each server serves (`wire.models_document`)."""
        ...

    async def devices(self) -> DevicesDocument:
        """The GPUs (`wire.devices_document`)."""
        ...

    async def upgrade(self) -> None:
        """Check the configuration (ConfigError), then have llamad end without its servers. Returns before it ends."""
        ...
