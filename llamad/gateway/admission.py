"""The admission: every server's line, kept in step with the board and the configuration."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from llamad.config.model import QueueConfig
from llamad.errors import LlamadError
from llamad.gateway.line import Line
from llamad.gateway.types import Backends, Lease, Refusal, Ticket
from llamad.gateway.waiting import Decided
from llamad.servers.board import Change, Replica

_GOING = Refusal(503, "stopping", "llamad is stopping: ask again in a moment", 1)


class Queues:
    """Implements types.Admission. Use it as `async with`: inside, it follows the board; leaving ends what it has
    asked of the fleet and refuses who still waits. `rejected` is told server and reason of every refusal.
    """

    def __init__(self, backends: Backends, settings: QueueConfig, *, rejected: Callable[[str, str], None]) -> None:
        self._backends = backends
        self._settings = settings
        self._rejected = rejected
        self._configs: object = None
        self._lines: dict[str, Line] = {}
        self._group = asyncio.TaskGroup()
        self._starts: set[asyncio.Task[None]] = set()
        self._observing = ExitStack()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._observing.enter_context(self._backends.board.observe(self._changed))
        self._sync()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._observing.close()
        lines, self._lines, self._configs = self._lines, {}, self._backends.configs
        for line in lines.values():
            line.close(_GOING)
        for task in self._starts:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def ask(
        self,
        server: str,
        key: str | None,
        decided: Decided,
        *,
        retry: bool = False,
        avoid: Replica | None = None,
    ) -> Lease | Refusal | Ticket:
        """See types.Admission."""
        if self._backends.configs is not self._configs:
            self._sync()
        line = self._lines.get(server)
        if line is None:
            return _gone(server)
        return line.ask(key, decided, retry=retry, avoid=avoid)

    def apply(self, settings: QueueConfig) -> None:
        """New settings; requests that wait already keep their time."""
        self._settings = settings
        self._sync()

    def _sync(self) -> None:
        """Take over the configuration: who waits for a server that is gone is told so."""
        configs = self._configs = self._backends.configs
        for name in [name for name in self._lines if name not in configs]:
            self._lines.pop(name).close(_gone(name))
        for name, config in configs.items():
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = self._new_line(name)
            line.follow(config, self._backends.traffic(name), self._settings)
            line.look()

    def _new_line(self, name: str) -> Line:
        backends = self._backends
        return Line(
            backends.configs[name],
            backends.traffic(name),
            view=lambda: backends.board.of(name),
            explain=lambda: backends.condition(name),
            start=self._have_started,
            rejected=self._rejected,
            settings=self._settings,
        )

    def _changed(self, change: Change) -> None:
        if self._backends.configs is not self._configs:
            self._sync()
        old, new = change.old, change.new
        # figures change all the time; only these say where a request may go
        if old is None or new is None or (old.state, old.slots, old.address) != (new.state, new.slots, new.address):
            line = self._lines.get(change.key.server)
            if line is not None:
                line.look()

    def _have_started(self, line: Line) -> None:
        task = self._group.create_task(self._ensure_ready(line), name=f"ensure {line.server} is ready")
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _ensure_ready(self, line: Line) -> None:
        """Ask the fleet, once for all who wait, and again only if the server came and went meanwhile."""
        again = True
        while again:
            moves = line.moves
            error = None
            try:
                await self._backends.ensure_ready(line.server)
            except LlamadError as failure:
                error = failure
            again = line.started(error, moved=line.moves != moves)


def _gone(server: str) -> Refusal:
    return Refusal(404, "model_not_found", f"{server} is no longer configured: GET /v1/models lists what there is")
