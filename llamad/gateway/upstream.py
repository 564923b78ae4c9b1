"""Connections to the servers: kept, handed out again, and closed when they are old."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, cast

from llamad.host.address import Address, UnixAddress
from llamad.host.connecting import connected, handed_over
from llamad.host.descriptors import is_lack
from llamad.host.keepalive import bound_sending, watch_peer

IDLE_SECONDS = 4.0
"""cpp-httplib, llama-server's HTTP library, closes an idle connection after 5 s."""
CONNECT_SECONDS = 5.0
MAX_IDLE = 256

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Receiver(Protocol):
    """Whose answer an upstream connection carries."""

    def opened(self, upstream: "Upstream") -> None:
        """The connection that was asked for is there."""
        ...

    def not_opened(self, reason: str, *, lacking: bool) -> None:
        """There is none. `lacking`: for lack of something on this machine, which says nothing of the server."""
        ...

    def received(self, data: bytes) -> None:
        """Bytes came."""
        ...

    def lost(self, error: Exception | None) -> None:
        """The connection ended; None: the server closed it."""
        ...


class Upstream(asyncio.Protocol):
    """One connection to a server; carries one request at a time."""

    __slots__ = ("idle_since", "pool", "receiver", "reused", "transport")

    transport: asyncio.Transport

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.receiver: Receiver | None = None
        self.reused = False
        """Whether it carried a request before: it may have been closed meanwhile without our knowing."""
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.pool.open.add(self)
        if not isinstance(self.pool.address, UnixAddress):
            sock = transport.get_extra_info("socket")
            watch_peer(sock)
            bound_sending(sock)

    def data_received(self, data: bytes) -> None:
        if self.receiver is None:  # nobody asked: whatever this is, no request may get it as its answer
            self.transport.abort()
        else:
            self.receiver.received(data)

    def eof_received(self) -> None:
        self.transport.abort()  # what it has not read of the request it never will

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.lost(exc)

    def keep(self) -> None:
        """The answer is complete: the connection may carry another request."""
        self.receiver = None
        self.pool.put(self)

    def drop(self) -> None:
        """The request is given up, or the connection cannot be used again: close it at once."""
        self.receiver = None
        self.transport.abort()


@dataclass(slots=True)
class IdleCount:
    """Idle connections of all pools together: how many there are, and may be."""

    most: int
    now: int = 0


class Pool:
    """The connections to one address. The one used last is used next, so that what is not needed grows old."""

    def __init__(self, address: Address, spawn: Spawn, now: float, count: IdleCount | None = None) -> None:
        self.address = address
        self._spawn = spawn
        self._idle: list[Upstream] = []
        self._count = count or IdleCount(MAX_IDLE)
        self._now = now
        self._opening = 0
        self.open: set[Upstream] = set()
        self.host = f"host: {'localhost' if isinstance(address, UnixAddress) else address}\r\n".encode()

    @property
    def unused(self) -> bool:
        """Whether nothing is connected, or being connected."""
        return not self.open and not self._opening

    def take(self) -> Upstream | None:
        """An idle connection that is still good, as far as can be told."""
        while self._idle:
            upstream = self._idle.pop()
            self._count.now -= 1
            if not upstream.transport.is_closing():
                upstream.reused = True
                return upstream
        return None

    def connect(self, receiver: Receiver) -> "asyncio.Task[None]":
        """Open a new connection for `receiver`; cancel the task when it is not wanted any more."""
        return self._spawn(self._connect(receiver))

    def put(self, upstream: Upstream) -> None:
        """Take a connection back."""
        upstream.idle_since = self._now
        self._idle.append(upstream)
        self._count.now += 1
        if len(self._idle) > MAX_IDLE or self._count.now > self._count.most:
            self._drop_oldest()

    def forget(self, upstream: Upstream) -> None:
        """The connection is closed."""
        self.open.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)
            self._count.now -= 1

    def sweep(self, now: float) -> None:
        """Close what is idle for too long. To be called often: its time is also the one that `put` notes down."""
        self._now = now
        while self._idle and now - self._idle[0].idle_since >= IDLE_SECONDS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._count.now -= 1
        self._idle.pop(0).drop()

    def close(self) -> None:
        """Close every connection."""
        for upstream in tuple(self.open):
            upstream.transport.abort()

    async def _connect(self, receiver: Receiver) -> None:
        upstream = Upstream(self)
        self._opening += 1
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._open(upstream)
        except TimeoutError:
            receiver.not_opened(f"no connection to {self.address} within {CONNECT_SECONDS:.0f} s", lacking=False)
        except OSError as error:
            why = f"cannot connect to {self.address}: {error.strerror or error}"
            receiver.not_opened(why, lacking=is_lack(error))
        except asyncio.CancelledError:
            if upstream in self.open:
                upstream.drop()
                self.forget(upstream)  # cancelled just after connecting, uvloop does not call connection_lost
            raise
        else:
            if upstream in self.open:
                receiver.opened(upstream)
            else:
                receiver.not_opened(f"{self.address} closed the connection at once", lacking=False)
        finally:
            self._opening -= 1

    async def _open(self, upstream: Upstream) -> None:
        loop, address = asyncio.get_running_loop(), self.address
        if isinstance(address, UnixAddress):
            sock = await connected(address.path)
            await handed_over(loop.create_unix_connection(lambda: upstream, sock=sock), sock)
        else:
            await loop.create_connection(lambda: upstream, address.host, address.port)


class Upstreams:
    """The pools, by address."""

    def __init__(self, spawn: Spawn, clock: Callable[[], float], count: IdleCount | None = None) -> None:
        self._spawn = spawn
        self.count = count or IdleCount(MAX_IDLE)
        self._clock = clock
        self._pools: dict[Address, Pool] = {}
        self._last: Pool | None = None
        """The pool that was asked for last: comparing an address is slow beside the rest."""

    def pool(self, address: Address) -> Pool:
        """The pool of `address`."""
        last = self._last
        if last is not None and last.address is address:
            return last
        pool = self._last = self._pools.get(address)
        if pool is None:
            pool = self._last = self._pools[address] = Pool(address, self._spawn, self._clock(), self.count)
        return pool

    def sweep(self, now: float) -> None:
        """Close what is idle for too long, and forget addresses that nothing is connected to."""
        for address, pool in tuple(self._pools.items()):
            pool.sweep(now)
            if pool.unused:
                del self._pools[address]
                self._last = None

    async def close(self) -> None:
        """Close every connection, and wait for it."""
        for pool in self._pools.values():
            pool.close()
        while any(pool.open for pool in self._pools.values()):  # noqa: ASYNC110 - the loop's next rounds close them
            await asyncio.sleep(0)
