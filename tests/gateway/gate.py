"""A gateway with a policy that decides little, a client that speaks raw bytes, and what both need."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from llamad.gateway.enginepaths import Kind
from llamad.gateway.server import GatewayServer
from llamad.gateway.shared import Limits
from llamad.gateway.types import (
    Answer,
    Exchange,
    Headers,
    Lease,
    Local,
    Reader,
    Refusal,
    RequestHead,
    Route,
    Ticket,
    ToServer,
)
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.servers.board import Replica, ReplicaKey
from llamad.servers.traffic import Flight
from tests.folders import short_folder

BOUND = 20.0
SOON_FOUND_OUT = Limits(half_closed=0.1, sweep=0.05)
"""Those of the real gateway, but for how soon it finds out that a client left: two seconds and more."""
"""Seconds after which a wait has failed."""


class ALease(Flight):
    """Counts that it is given back once."""

    def __init__(self, replica: Replica, rules: "Rules") -> None:
        self.replica = replica
        super().__init__(replica.key)
        self._rules = rules
        self._held = True
        rules.leases.append(self)

    def release(self, *, goes_on: bool = False) -> None:
        assert self._held, "a lease was given back twice"
        self._held = False
        self._rules.held -= 1
        self._rules.going_on += goes_on

    def failed(self) -> None:
        self._rules.errors += 1


class ATicket:
    def __init__(self, rules: "Rules", decided: Callable[[Lease | Refusal], None]) -> None:
        self.decided = decided
        self._rules = rules

    def cancel(self) -> None:
        self._rules.waiting.remove(self)


@dataclass
class Rules:
    """Policy and Admission: every request goes to the next of `addresses`, or waits, or gets `refusal`."""

    addresses: list[Address] = field(default_factory=list)
    full: bool = False
    refusal: Refusal | None = None
    key: bytes | None = None
    local: Callable[[], Awaitable[Answer]] | None = None
    cors_headers: Headers = field(default_factory=list)
    authorization: bytes | None = None
    nowhere: int = 0
    """How many leases are for a replica whose address is not known."""
    held: int = 0
    leases: list[ALease] = field(default_factory=list)
    going_on: int = 0
    """How many were given back while the engine goes on without the client."""
    errors: int = 0
    asked: list[tuple[bool, Replica | None]] = field(default_factory=list)
    waiting: list[ATicket] = field(default_factory=list)
    begun: int = 0
    records: list[Exchange] = field(default_factory=list)

    @property
    def admission(self) -> "Rules":
        return self

    def ask(
        self,
        server: str,
        key: str | None,
        decided: Callable[[Lease | Refusal], None],
        *,
        retry: bool = False,
        avoid: Replica | None = None,
    ) -> Lease | Refusal | Ticket:
        self.asked.append((retry, avoid))
        if self.refusal is not None:
            return self.refusal
        if self.full:
            ticket = ATicket(self, decided)
            self.waiting.append(ticket)
            return ticket
        return self.lease()

    def lease(self) -> ALease:
        """A lease for the next address."""
        self.held += 1
        index = (len(self.asked) - 1) % len(self.addresses)
        address = None if self.nowhere else self.addresses[index]
        self.nowhere = max(self.nowhere - 1, 0)
        return ALease(Replica(ReplicaKey("one", index), address=address), self)

    def admit(self) -> None:
        """Let the first that waits go on."""
        self.waiting.pop(0).decided(self.lease())

    def authorize(self, head: RequestHead, *, unix: bool) -> str | Answer | None:
        if self.key is None:
            return None
        return "me" if head.header(b"authorization") == b"Bearer " + self.key else self.error(401, "no good key")

    def reader(self, head: RequestHead) -> Reader | None:
        return Reader(lambda _: "one", head.target, Kind.USE) if head.path.startswith("/v1/") else None

    def route(self, head: RequestHead, reader: Reader | None, body: bytes) -> Route:
        if head.path == "/health":
            return Answer(200, b"fine", b"text/plain")
        if head.path == "/local":
            assert self.local is not None
            return Local(self.local)
        if head.path == "/nothing":
            return self.error(404, "there is nothing here")
        return ToServer("one", head.target, self.authorization)

    def error(
        self, status: int, message: str, *, kind: str = "invalid_request_error", headers: Headers | None = None
    ) -> Answer:
        body = {"error": {"message": message, "type": kind, "code": status}}
        return Answer(status, json.dumps(body).encode(), headers=headers or [])

    def in_dialect(self, head: RequestHead, answer: Answer, request_id: str) -> Answer:
        return answer

    def begin(self, head: RequestHead, request_id: str, peer: str) -> Exchange:
        self.begun += 1
        return Exchange(head, request_id, began=asyncio.get_running_loop().time(), peer=peer)

    def finished(self, exchange: Exchange) -> None:
        assert all(exchange is not other for other in self.records), "told twice"
        self.records.append(exchange)

    def cors(self, head: RequestHead) -> Headers:
        return self.cors_headers


@dataclass
class Reply:
    """An answer as a client reads it. `complete` is False where it ended before its framing said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def header(self, name: str) -> str | None:
        """The only value of a header."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} stands there {len(values)} times"
        return values[0] if values else None

    @property
    def error(self) -> str:
        """The message of an OpenAI-shaped error."""
        message = json.loads(self.body)["error"]["message"]
        assert isinstance(message, str)
        return message


class Wire:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        """Read an answer's head."""
        async with asyncio.timeout(BOUND):
            block = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = block[:-4].decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        return int(first.split(" ")[1]), [(name, value) for name, value in pairs]

    async def reply(self, *, to_head: bool = False, version: str = "1.1") -> Reply:
        """Read an answer, as far as it goes."""
        status, headers = await self.head()
        reply = Reply(status, headers, b"")
        length = reply.header("content-length")
        if to_head or status in (204, 304) or status < 200:
            return reply
        async with asyncio.timeout(BOUND):
            try:
                if reply.header("transfer-encoding") == "chunked":
                    await self._chunks(reply)
                elif length is not None:
                    reply.body = await self.reader.readexactly(int(length))
                else:
                    reply.body = await self.reader.read()
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                reply.body += getattr(error, "partial", b"")
                reply.complete = False
        return reply

    async def _chunks(self, reply: Reply) -> None:
        while True:
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            data = await self.reader.readexactly(size + 2)
            assert data[-2:] == b"\r\n"
            reply.body += data[:-2]
            if not size:
                return

    async def ended(self) -> bytes:
        """What still comes until the gateway closes the connection."""
        async with asyncio.timeout(BOUND):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class Gate:
    """A gateway that listens on a TCP port and a unix socket."""

    def __init__(self, server: GatewayServer, rules: Rules, folder: Path) -> None:
        self.server = server
        self.rules = rules
        self.folder = folder
        self._wires: list[Wire] = []

    @property
    def port(self) -> int:
        """The TCP port."""
        sockets = self.server.sockets[TcpAddress("127.0.0.1", 0)]
        port = sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    async def wire(self, *, unix: bool = False) -> Wire:
        """A new connection; it is closed with the gateway."""
        if unix:
            wire = Wire(*await asyncio.open_unix_connection(str(self.folder / "gate.sock")))
        else:
            wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port))
        self._wires = [one for one in self._wires if not one.writer.is_closing()]
        self._wires.append(wire)
        return wire

    async def ask(self, data: bytes, *, to_head: bool = False) -> Reply:
        """Send bytes on a new connection, and read one answer."""
        wire = await self.wire()
        wire.send(data)
        return await wire.reply(to_head=to_head)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; the loop is let run meanwhile."""
        async with asyncio.timeout(BOUND):
            while not condition():  # noqa: ASYNC110 - of whatever kind it is
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Close every wire."""
        for wire in self._wires:
            await wire.close()


@asynccontextmanager
async def a_gate(rules: Rules, limits: Limits | None = None) -> AsyncIterator[Gate]:
    """A gateway for a block. At the end nothing may be held: no lease, no ticket, no request that is not over."""
    with short_folder() as folder:
        async with GatewayServer(rules, limits or SOON_FOUND_OUT) as server:
            await server.apply([TcpAddress("127.0.0.1", 0), UnixAddress(folder / "gate.sock")])
            gate = Gate(server, rules, folder)
            try:
                yield gate
            finally:
                await gate.close()
        assert rules.held == 0
        assert not rules.waiting
        assert len(rules.records) == rules.begun
        await asyncio.sleep(0)


def post(body: bytes = b"{}", *lines: str, path: str = "/v1/chat/completions", length: bool = True) -> bytes:
    """A request as a usual client sends it."""
    head = [f"POST {path} HTTP/1.1", "Host: gate", "Content-Type: application/json", *lines]
    if length:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def get(path: str = "/props", *lines: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: gate", *lines, "", ""]).encode()
