"""The gateway, put together: the policy that decides, and the data path that carries."""

import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from llamad.config.model import GatewayConfig, ServerConfig
from llamad.gateway.keys import Keys
from llamad.gateway.listen import descriptor_name, inherit
from llamad.gateway.policy import Policy
from llamad.gateway.server import GatewayServer
from llamad.gateway.shared import Limits
from llamad.gateway.socketunit import UnitSockets
from llamad.gateway.types import Backends
from llamad.host.address import Address
from llamad.host.descriptors import client_connections, own_limit
from llamad.metrics import Metrics

__all__ = ["Gateway", "inherit"]
_BODIES_AT_ONCE = 8
"""How many of the largest bodies may be on their way in at once."""


class Gateway:
    """The OpenAI port over `backends`, for an `async with` block; it takes connections once `apply` was called in it.

    `external_key` reads the key that an external server asks. `report` is called with one line about what cannot be
    listened on, or None, whenever that changes. `inherited` are sockets that listen already, `unit` those
    of llamad.socket.
    """

    def __init__(
        self,
        backends: Backends,
        settings: GatewayConfig,
        keys: Keys,
        metrics: Metrics,
        *,
        external_key: Callable[[ServerConfig], str | None],
        report: Callable[[str | None], None],
        inherited: Mapping[Address, list[socket.socket]] | None = None,
        unit: UnitSockets | None = None,
    ) -> None:
        self._policy = Policy(backends, settings, keys, metrics, external_key=external_key)
        self._backends = backends
        self._server = GatewayServer(
            self._policy, self._limits(settings), report=report, inherited=inherited, unit=unit
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._policy)
        await self._stack.enter_async_context(self._server)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def descriptors(self) -> dict[str, list[int]]:
        """What is listened on, by names for systemd's fd store; a successor takes it back with `inherit`."""
        return {
            descriptor_name(address): [sock.fileno() for sock in sockets if not self.unit.owns(sock)]
            for address, sockets in self._server.sockets.items()
        }

    @property
    def unit(self) -> UnitSockets:
        """The sockets of llamad.socket: systemd has them anyway."""
        return self._server.unit

    @property
    def listening(self) -> Mapping[Address, list[socket.socket]]:
        """The sockets of each address that is to be listened on: none yet where it cannot be."""
        return self._server.sockets

    async def apply(self, settings: GatewayConfig, keys: Keys) -> None:
        """Take over an accepted configuration. Connections, and requests that wait or run, are not disturbed."""
        self._policy.apply(settings, keys)
        self._server.renew(self._limits(settings))
        await self._server.apply(settings.listen)

    async def withdraw(self) -> None:
        """Listen nowhere any more, and leave no socket's file: nobody inherits what was listened on."""
        await self._server.apply([])

    def leave(self) -> None:
        """llamad is about to stop: `/ready` says no from now on, and all else is answered as before."""
        self._policy.leave()

    async def drain(self, timeout: float) -> None:
        """Take no more connections and let running requests end, for `timeout` seconds at most; then end them."""
        self._policy.leave()
        await self._server.drain(timeout)

    def _limits(self, settings: GatewayConfig) -> Limits:
        """What clients may take; connections no more than supervision leaves descriptors for."""
        possible = client_connections(own_limit(), sum(one.replicas for one in self._backends.configs.values()))
        connections = min(settings.max_connections, possible)
        return Limits(
            connections=connections,
            idle_upstreams=max(8, connections // 8),
            max_body=settings.max_body,
            bodies=settings.max_body * _BODIES_AT_ONCE,
        )

    def stuck(self, now: float) -> str | None:
        """Why the gateway makes no progress (the loop's clock), for the watchdog; None: it does."""
        return self._server.stuck(now)
