"""A client's connection: requests one after another, each read whole, decided, answered."""

import asyncio
import socket
import struct
from enum import Enum, auto
from math import inf
from typing import cast

from llamad.gateway.answers import CONTINUE, own_answer
from llamad.gateway.bodies import ChunkedBody, SizedBody, too_large
from llamad.gateway.fields import MalformedError
from llamad.gateway.http1 import Request, check_start, read_request, stub_head
from llamad.gateway.relay import Relay
from llamad.gateway.shared import Shared
from llamad.gateway.types import Answer, Exchange, Local, Route, ToServer

_MAX_AHEAD = 64 << 10
"""Bytes of further requests that are taken while one is worked on."""
_RESET = struct.pack("ii", 1, 0)


class Stage(Enum):
    """What the connection waits for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    LEAVING = auto()
    """The last answer is written; what still comes is not looked at."""


class Client(asyncio.Protocol):
    """One connection. `deadline` is when the periodic sweep ends what it waits for (the loop's clock)."""

    __slots__ = (
        "_body",
        "_buffer",
        "_exchange",
        "_held",
        "_local",
        "_peer",
        "_relay",
        "_request",
        "_route",
        "_shared",
        "_stage",
        "_transport",
        "_unread",
        "deadline",
        "keeps_alive",
        "write",
        "writing_paused",
    )

    _transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._stage = Stage.IDLE
        self._buffer = b""
        self._peer = ""
        self._request: Request | None = None
        self._exchange: Exchange | None = None
        self._body: SizedBody | ChunkedBody | None = None
        self._held = 0
        """Bytes of the body counted in `Shared.body_bytes`."""
        self._unread = False
        """Whether the request's body is not completely read."""
        self._route: Route | None = None
        self._relay: Relay | None = None
        self._local: asyncio.Task[None] | None = None
        self.deadline = inf
        self.keeps_alive = False
        self.writing_paused = False

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "unix"
        shared = self._shared
        self.deadline = shared.loop.time() + shared.limits.head_timeout
        full = len(shared.clients) >= shared.limits.connections
        shared.clients.add(self)
        if full:
            self._refuse(MalformedError(503, "there are too many connections: close some, or try again later"))

    def data_received(self, data: bytes) -> None:
        match self._stage:
            case Stage.IDLE | Stage.HEAD:
                known = len(self._buffer)
                self._buffer = self._buffer + data if known else data
                self._read_head(known)
            case Stage.BODY:
                self._read_body(data)
            case Stage.ANSWER:
                self._buffer += data
                if len(self._buffer) > _MAX_AHEAD:
                    self._transport.pause_reading()
            case Stage.LEAVING:
                pass

    def eof_received(self) -> None:
        self._abandon()  # who does not wait for an answer gets none, and no GPU works for it

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.clients.discard(self)
        self._abandon()
        self._stage = Stage.LEAVING

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self._relay is not None:
            self.deadline = self._shared.loop.time() + self._shared.limits.stall_timeout
            self._relay.pause()

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._relay is not None:
            self.deadline = inf
            self._relay.resume()

    # --- what the sweep says ---

    def check(self, now: float) -> None:
        """End the connection where its time is over."""
        if now < self.deadline:
            return
        match self._stage:
            case Stage.IDLE:
                self._leave(lingering=False)
            case Stage.HEAD:
                self._refuse(MalformedError(408, "the request's head did not come in time"))
            case Stage.BODY:
                self._refuse(MalformedError(408, "the request's body did not come in time"))
            case Stage.ANSWER | Stage.LEAVING:
                self.drop()

    def drain(self) -> None:
        """End the connection as soon as it has no request."""
        if self._stage is Stage.IDLE:
            self._leave(lingering=False)
        self.keeps_alive = False

    def drop(self) -> None:
        """End the connection at once."""
        self._abandon()
        self._transport.abort()

    # --- reading a request ---

    def _read_head(self, known: int) -> None:
        if self._buffer.startswith(b"\r\n"):  # an empty line before a request line is let pass (RFC 9112 section 2.2)
            self._buffer, known = self._buffer[2:], 0
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(known - 3, 0))
        try:
            if end >= 0:
                request = read_request(buffer[:end])
            else:
                check_start(buffer, known)
        except MalformedError as error:
            self._refuse(error)
            return
        if end >= 0:
            self._buffer = buffer[end + 4 :]
            self._begin(request)
        elif self._stage is Stage.IDLE:
            self._stage = Stage.HEAD
            self.deadline = self._shared.loop.time() + self._shared.limits.head_timeout

    def _begin(self, request: Request) -> None:
        """A head was read: decide what can be decided without the body."""
        shared, head = self._shared, request.head
        policy = shared.policy
        self._stage = Stage.ANSWER
        self.deadline = inf
        self._request = request
        self._unread = head.chunked or bool(head.content_length)
        self.keeps_alive = head.keep_alive and not shared.draining
        exchange = self._exchange = policy.begin(head, self._peer)
        key = policy.authorize(head)
        if isinstance(key, Answer):
            self.answer(key)
            return
        exchange.key = key
        limit = shared.limits.max_body
        if (head.content_length or 0) > limit:
            self._refuse(too_large(limit))
            return
        route = self._route = None if policy.needs_body(head) else policy.route(head, None)
        if isinstance(route, Answer):
            self.answer(route)
        elif not self._unread:
            self._decide(b"")
        else:
            self._begin_body(request)

    def _begin_body(self, request: Request) -> None:
        head = request.head
        body: ChunkedBody | SizedBody
        if head.content_length is None:
            body = ChunkedBody(self._shared.limits.max_body)
        else:
            body = SizedBody(head.content_length)
        self._body = body
        self._stage = Stage.BODY
        data, self._buffer = self._buffer, b""
        if not data and request.expects_continue:
            self.write(CONTINUE)
        self._read_body(data)

    def _read_body(self, data: bytes) -> None:
        shared, body = self._shared, self._body
        assert body is not None
        try:
            rest = body.feed(data)
            if not body.done:
                self._hold(len(body.body))
        except MalformedError as error:
            self._refuse(error)
            return
        if body.done:
            self._stage = Stage.ANSWER
            self.deadline = inf
            self._buffer = rest
            self._body = None
            self._unread = False
            self._hold(0)
            self._decide(bytes(body.body))
        else:
            self.deadline = shared.loop.time() + shared.limits.body_timeout

    def _hold(self, size: int) -> None:
        """Count the bytes of the body among those of all bodies; MalformedError where these are too many."""
        shared = self._shared
        shared.body_bytes += size - self._held
        self._held = size
        if size and shared.body_bytes > shared.limits.bodies:
            raise MalformedError(503, "too many large requests arrive at once: try again later")

    # --- answering it ---

    def _decide(self, body: bytes) -> None:
        """All of the request is there."""
        request, exchange, shared = self._request, self._exchange, self._shared
        assert request is not None
        assert exchange is not None
        exchange.bytes_in = len(body)
        route = self._route or shared.policy.route(request.head, body)
        if isinstance(route, ToServer):
            self._relay = Relay(shared, self, request, body, route=route, exchange=exchange)
            self._relay.start()
        elif isinstance(route, Answer):
            self.answer(route)
        else:
            self._local = shared.tasks.spawn(self._answer_locally(route))

    async def _answer_locally(self, route: Local) -> None:
        answer = await route.handle()
        self._local = None
        self.answer(answer)

    def answer(self, answer: Answer) -> None:
        """Give an answer of our own."""
        request, exchange, policy = self._request, self._exchange, self._shared.policy
        assert request is not None
        assert exchange is not None
        self._skip_body()
        keep_alive = self.keeps_alive and not answer.close and not self._unread
        self.write(own_answer(answer, request.head, cors=policy.cors(request.head), keep_alive=keep_alive))
        exchange.status = answer.status
        exchange.bytes_out += len(answer.body)
        self.answered(keep_alive=keep_alive)

    def answered(self, *, keep_alive: bool) -> None:
        """All of the answer was written: go on to the next request, or leave."""
        self._finish()
        if not keep_alive:
            self._leave(lingering=self._unread)
            return
        shared = self._shared
        self._stage = Stage.IDLE
        self.deadline = shared.loop.time() + shared.limits.idle_timeout
        if self._buffer:
            if len(self._buffer) > _MAX_AHEAD:
                self._transport.resume_reading()
            shared.loop.call_soon(self._next)  # others have their turn before a pipelined request

    def cut(self) -> None:
        """The answer breaks off: no client may take what it got for the whole, so the connection is reset."""
        self._finish()
        self._stage = Stage.LEAVING
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _next(self) -> None:
        if self._stage is Stage.IDLE and self._buffer and not self._transport.is_closing():
            self._read_head(0)

    def _skip_body(self) -> None:
        """A body that is here already, to be answered without, does not end the connection."""
        length = self._request.head.content_length if self._request is not None else None
        if self._unread and self._body is None and length is not None and len(self._buffer) >= length:
            self._buffer = self._buffer[length:]
            self._unread = False

    def _refuse(self, error: MalformedError) -> None:
        """Say what is wrong, and end the connection: where the next request would begin is not known."""
        if self._request is None:
            head = stub_head()
            self._request = Request(head, [], {}, expects_continue=False)
            self._exchange = self._shared.policy.begin(head, self._peer)
        self._unread = True
        self.keeps_alive = False
        self._buffer = b""
        self.answer(self._shared.policy.error(error.status, error.message))

    def _finish(self) -> None:
        """The request is over: tell it, and forget it."""
        exchange, self._exchange = self._exchange, None
        self._request = self._route = self._relay = self._body = self._local = None
        if self._held:
            self._hold(0)
        if exchange is not None:
            exchange.ended = self._shared.loop.time()
            self._shared.policy.finished(exchange)

    def _abandon(self) -> None:
        """The client has left, or was made to."""
        relay, local, exchange = self._relay, self._local, self._exchange
        if relay is not None:
            relay.abandon()
        if local is not None:
            local.cancel()
        if exchange is not None:
            exchange.error = "client-left"
            exchange.status = exchange.status or 499
        self._finish()

    def _leave(self, *, lingering: bool) -> None:
        """Close the connection. Where the client may still be sending, its end is awaited for a moment, because closing
        at once would reset the connection and the answer could be lost (RFC 9112 section 9.6).
        """
        limits = self._shared.limits
        self._stage = Stage.LEAVING
        self.deadline = self._shared.loop.time() + (limits.linger if lingering else limits.body_timeout)
        if lingering and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        else:
            self._transport.close()
