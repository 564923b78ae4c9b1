"""What all connections of one gateway have in common."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from llamad.gateway.types import Policy
from llamad.gateway.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take: times in seconds, sizes in bytes."""

    connections: int = 4096
    max_body: int = 64 << 20
    bodies: int = 512 << 20
    """What all bodies that are being received may fill together."""
    head_timeout: float = 10.0
    """From the first byte of a head (or from the connection) to its last."""
    body_timeout: float = 30.0
    """Without a byte of the body."""
    idle_timeout: float = 75.0
    """Between two requests."""
    last_request: float = 0.5
    """While the gateway ends, on a connection that was said to be kept: a request may be on its way, and HTTP/1.1 has
    no word for "no more" (RFC 9112 section 9.6). It gets its answer, and that says that the connection ends.
    """
    stall_timeout: float = 120.0
    """Without taking a byte of the answer."""
    linger: float = 2.0
    """For reading what a refused client still sends, so that the answer reaches it."""
    sweep: float = 0.5
    """Between two looks at all these times."""


class Swept(Protocol):
    """A connection, as the periodic sweep sees it."""

    def check(self, now: float) -> None:
        """End it where its time is over."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a request runs on it."""
        ...

    def drain(self) -> None:
        """End it as soon as it has no request."""
        ...

    def interrupt(self, why: str) -> None:
        """End its request, so that the client sees why."""
        ...

    def drop(self) -> None:
        """End it at once."""
        ...


class Tasks:
    """The few tasks of the data path (connecting, local answers, binding); whoever closes this awaits them all."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work`; it deals with its own errors."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Cancel what runs and wait for its end."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Shared:
    """Held by every connection."""

    def __init__(self, policy: Policy, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.policy = policy
        self.limits = limits
        self.tasks = Tasks()
        self.upstreams = Upstreams(self.tasks.spawn, self.loop.time)
        self.clients: set[Swept] = set()
        self.nobody = asyncio.Event()
        """Set while no client is connected."""
        self.nobody.set()
        self.draining = False
        self.epoch = object()
        """A new one after each change of what the policy goes by."""
        self.now = self.loop.time()
        """The time of the last sweep: near enough for deadlines of many seconds, and cheaper than the loop's."""
        self.body_bytes = 0
        """Bytes of bodies that are being received."""

    def came(self, client: Swept) -> None:
        """A client is connected."""
        self.clients.add(client)
        self.nobody.clear()

    def left(self, client: Swept) -> None:
        """Its connection is closed."""
        self.clients.discard(client)
        if not self.clients:
            self.nobody.set()
