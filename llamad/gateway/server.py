"""The gateway's own life: its connections, the one periodic sweep over them, and the end."""

import asyncio
from types import TracebackType
from typing import Self

from llamad.gateway.client import Client
from llamad.gateway.shared import Limits, Shared
from llamad.gateway.types import Policy

SWEEP_SECONDS = 0.5
STUCK_SECONDS = 15.0


class GatewayServer:
    """A block inside which connections are served: listeners give them in with `client`."""

    def __init__(self, policy: Policy, limits: Limits) -> None:
        self._shared = Shared(policy, limits)
        self._swept_at = self._shared.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._sweep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for client in tuple(self._shared.clients):
            client.drop()
        self._shared.upstreams.close()
        await self._shared.tasks.close()

    def client(self) -> Client:
        return Client(self._shared)

    def _sweep(self) -> None:
        shared = self._shared
        now = self._swept_at = shared.loop.time()
        self._timer = shared.loop.call_later(SWEEP_SECONDS, self._sweep)
        for client in tuple(shared.clients):
            client.check(now)
        shared.upstreams.sweep(now)
