"""What all connections of one gateway have in common."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from llamad.gateway.answers import AnswerHeads
from llamad.gateway.deadly import Deadly
from llamad.gateway.http1 import Heads
from llamad.gateway.types import Policy
from llamad.gateway.upstream import IdleCount, Upstreams

_SAY_EVERY = 60.0
"""Seconds between two lines that say that there are too many connections."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take: times in seconds, sizes in bytes."""

    connections: int = 16384
    """At once; there may be a sixteenth more that are told that there are too many."""
    idle_upstreams: int = 2048
    """Connections to servers that are kept and carry no request."""
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
    half_closed: float = 2.0
    """Until a client that has closed its sending side, and gets no byte of its answer, is asked whether it reads."""
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
        self.kept_for = int(limits.idle_timeout) or 1
        """Seconds between two requests, as clients are told."""
        self.tasks = Tasks()
        self.upstreams = Upstreams(self.tasks.spawn, self.loop.time, IdleCount(limits.idle_upstreams))
        self.clients: set[Swept] = set()
        self.strangers: OrderedDict[Swept, None] = OrderedDict()
        self.known: OrderedDict[Swept, None] = OrderedDict()
        """Clients that have no request now, in the order in which they began to wait: those whose last request had a
        valid key, and the others.
        """
        self._told_full_at = -inf
        self.nobody = asyncio.Event()
        """Set while no client is connected."""
        self.nobody.set()
        self.draining = False
        self.heads, self.unix_heads = Heads(), Heads()
        """Over TCP and over unix sockets, of which the policy may say different things."""
        self.answers = AnswerHeads()
        self.deadly = Deadly()
        self.now = self.loop.time()
        """The time of the last sweep: near enough for deadlines of many seconds, and cheaper than the loop's."""
        self.body_bytes = 0
        """Bytes of bodies that are being received."""

    def came(self, client: Swept) -> None:
        """A client is connected."""
        self.clients.add(client)
        self.nobody.clear()

    def renew(self, limits: Limits) -> None:
        """New limits; and what the policy decided of heads is forgotten."""
        self.limits = limits
        self.kept_for = int(limits.idle_timeout) or 1
        self.upstreams.count.most = limits.idle_upstreams
        self.heads.forget()
        self.unix_heads.forget()

    def admits(self, arriving: int) -> bool:
        """Whether one more connection may be taken beside those that arrive, be it to be told that there are too many:
        those without a request make room.
        """
        most = self.limits.connections
        return len(self.clients) - len(self.strangers) - len(self.known) + arriving < most + max(most >> 4, 1)

    def make_room(self) -> bool:
        """Close the connection that can be spared best: one without a request, without a key before one with, the one
        that has waited longest. False where every client has a request.
        """
        waiting = self.strangers or self.known
        now = self.loop.time()
        if now - self._told_full_at >= _SAY_EVERY:
            self._told_full_at = now
            words = "there are %d connections, as many as there may be: %s (gateway.max_connections, LimitNOFILE=)"
            what = "idle ones are closed" if waiting else "further ones are refused"
            log.warning(words, len(self.clients), what, extra={"event": "too-many-connections"})
        if not waiting:
            return False
        client, _ = waiting.popitem(last=False)
        client.drop()
        return True

    def left(self, client: Swept) -> None:
        """Its connection is closed."""
        self.clients.discard(client)
        if not self.clients:
            self.nobody.set()
