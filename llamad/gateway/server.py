"""The gateway's own life: its listeners, the one periodic sweep over its connections, and the end."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from llamad.gateway.client import Client, TurnedAway
from llamad.gateway.listen import Listener
from llamad.gateway.shared import Limits, Shared
from llamad.gateway.socketunit import UnitSockets
from llamad.gateway.types import Policy
from llamad.host.accept import Acceptor
from llamad.host.address import Address

STUCK_SECONDS = 15.0
LAST_WORDS = 0.5
"""Seconds that a client may take to read how its request ended."""

logger = logging.getLogger(__name__)


class GatewayServer:
    """A block inside which the addresses given to `apply` are served.

    `report` is called with one line, or None when all is well, whenever what cannot be listened on changes.
    `inherited` are listening sockets that are there already, by address; `unit` are those of llamad.socket.
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        *,
        report: Callable[[str | None], None] = lambda _: None,
        inherited: Mapping[Address, list[socket.socket]] | None = None,
        unit: UnitSockets | None = None,
    ) -> None:
        self.unit = unit or UnitSockets()
        self._unserved: list[str] = []
        self._shared = Shared(policy, limits)
        self._report = report
        self._inherited = dict(inherited or {})
        self._listeners: dict[Address, Listener] = {}
        self._swept_at = self._shared.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._sweep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close_listeners()
        await self.unit.close()
        for sockets in self._inherited.values():
            for sock in sockets:
                sock.close()
        if self._timer is not None:
            self._timer.cancel()
        for client in tuple(self._shared.clients):
            client.drop()
        await self._shared.nobody.wait()
        await self._shared.tasks.close()
        await self._shared.upstreams.close()

    @property
    def sockets(self) -> Mapping[Address, list[socket.socket]]:
        """What is listened on; for a successor that is to inherit it. May be asked in a thread."""
        return {address: listener.sockets for address, listener in tuple(self._listeners.items())}

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._shared.clients)

    async def apply(self, addresses: Iterable[Address]) -> None:
        """Listen on these addresses and no others; those that stay are not touched, and those that go are closed last,
        so that no client finds nobody there. What cannot be bound is tried again, and reported meanwhile.
        """
        wanted = dict.fromkeys(addresses)
        leaving = {one: self._listeners.pop(one) for one in tuple(self._listeners) if one not in wanted}
        there = {address: listener.sockets for address, listener in leaving.items()}
        for address in wanted:
            if address not in self._listeners:
                listener = self._listeners[address] = Listener(
                    address, self._take, unit=self.unit, spawn=self._shared.tasks.spawn, changed=self._tell
                )
                await listener.open(self._inherited.pop(address, []), there)
        for listener in leaving.values():
            await listener.withdraw()
        served = [sock for listener in self._listeners.values() for sock in listener.sockets]
        self._unserved = await self.unit.turn_away(served, self._turn_away)
        self._tell()

    def _take(self, sock: socket.socket) -> Acceptor:
        shared = self._shared
        return Acceptor(sock, lambda: Client(shared), admits=shared.admits, relieve=shared.make_room)

    def _turn_away(self, sock: socket.socket) -> Acceptor:
        shared = self._shared
        return Acceptor(sock, lambda: TurnedAway(shared), admits=shared.admits, relieve=shared.make_room)

    def renew(self, limits: Limits) -> None:
        """New limits, for requests that come from now on; and what the policy decided of heads is forgotten."""
        self._shared.renew(limits)

    async def drain(self, timeout: float) -> None:
        """Take no more connections and let the requests that are there end, for `timeout` seconds at most; what runs
        then is ended so that its client sees it.
        """
        shared = self._shared
        shared.draining = True
        await self._close_listeners()
        for client in tuple(shared.clients):
            client.drain()
        try:
            async with asyncio.timeout(timeout):
                await shared.nobody.wait()
        except TimeoutError:
            await self._interrupt()

    async def _interrupt(self) -> None:
        """End the requests that still run, so that their clients see why."""
        shared = self._shared
        busy = [client for client in shared.clients if client.busy]
        for client in busy:
            client.interrupt("llamad is stopping, and the time for draining is over")
        if busy:
            what = "request still runs" if len(busy) == 1 else "requests still run"
            logger.warning("%d %s, and the time for draining is over: cut", len(busy), what, extra={"event": "cut"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await shared.nobody.wait()

    def stuck(self, now: float) -> str | None:
        """Why the gateway makes no progress (the loop's clock), for the watchdog; None: it does."""
        silent = now - self._swept_at
        return (
            f"the gateway has not looked after its connections for {silent:.0f} s" if silent > STUCK_SECONDS else None
        )

    async def _close_listeners(self) -> None:
        listeners = tuple(self._listeners.values())
        self._listeners.clear()
        for listener in listeners:
            await listener.close()

    def _tell(self) -> None:
        problems = [listener.problem for listener in self._listeners.values() if listener.problem is not None]
        problems += [f"llamad.socket listens on {one}, which gateway.listen does not name" for one in self._unserved]
        self._report("; ".join(problems) or None)

    def _sweep(self) -> None:
        """End what has taken too long. One timer for all connections, instead of several for each request."""
        shared = self._shared
        now = self._swept_at = shared.now = shared.loop.time()
        self._timer = shared.loop.call_later(shared.limits.sweep, self._sweep)
        for client in tuple(shared.clients):
            client.check(now)
        shared.upstreams.sweep(now)
