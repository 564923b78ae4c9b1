"""A client's connection: one request after another, and no more time for each than it is given."""

import asyncio
import re
import select
import socket
import struct
from collections import OrderedDict
from enum import Enum, auto
from math import inf
from typing import cast

from llamad.gateway.fields import MalformedError
from llamad.gateway.http1 import Heads, check_start, unread_request
from llamad.gateway.shared import Shared, Swept
from llamad.gateway.turn import Turn

_MAX_AHEAD = 64 << 10
"""Bytes of further requests that are taken while one is worked on."""
_EMPTY_LINES = re.compile(rb"(?:\r\n)*+")
_RESET = struct.pack("ii", 1, 0)


class Stage(Enum):
    """What the connection waits for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    AHEAD = auto()
    """The next request, which may be here already, waits: for the others' turn, or until the client has read."""
    LEAVING = auto()
    """The last answer is written; what still comes is not looked at."""


# An enum's attributes are slow to get.
_IDLE, _HEAD, _BODY, _ANSWER, _AHEAD = Stage.IDLE, Stage.HEAD, Stage.BODY, Stage.ANSWER, Stage.AHEAD


class Client(asyncio.Protocol):
    """One connection. `deadline` is when the periodic sweep ends what it waits for (the loop's clock)."""

    __slots__ = (
        "_among",
        "_asks_at",
        "_half_closed",
        "_shared",
        "_stage",
        "_transport",
        "_turn",
        "buffer",
        "deadline",
        "heads",
        "peer",
        "write",
        "writing_paused",
    )

    _transport: asyncio.Transport
    heads: Heads

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._stage = Stage.IDLE
        self._turn: Turn | None = None
        self._among: OrderedDict[Swept, None] | None = None
        """Where it stands among the clients without a request, which may be closed to make room."""
        self.buffer = b""
        self.peer = ""
        self.deadline = inf
        self.writing_paused = False
        self._half_closed: float | None = None
        """When the client closed its sending side."""
        self._asks_at = inf

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        shared = self._shared
        self.heads = shared.unix_heads if self.peer == "unix" else shared.heads
        limits = shared.limits
        self.deadline = shared.loop.time() + (limits.last_request if shared.draining else limits.head_timeout)
        shared.came(self)
        if len(shared.clients) > shared.limits.connections and not shared.make_room():
            self._refuse(MalformedError(503, "there are too many connections: close some, or try again later"))
            self._stand_among(None)  # it leaves by itself, and makes no room
        else:
            self._stand_among(shared.strangers)

    def data_received(self, data: bytes) -> None:
        stage = self._stage
        if stage is _IDLE or stage is _HEAD:
            known = len(self.buffer)
            self.buffer = self.buffer + data if known else data
            self._read_head(known)
        elif stage is _BODY:
            assert self._turn is not None
            self.buffer = data
            self._turn.read_body()
        elif stage is _ANSWER or stage is _AHEAD:
            self.buffer += data
            if len(self.buffer) > _MAX_AHEAD:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more. It may have left, or wait for its answer (RFC 9112 section 9.6 lets it): a request
        that is complete goes on, until it is known that nobody reads the answer. Over a unix socket that is known at
        once. TCP tells only when something is sent: bytes of the answer, or, while there are none, a `100 Continue` (a
        comment between two events of a stream), which says nothing, after `Limits.half_closed` seconds and again each
        time the wait has doubled. Where neither can be sent (HTTP/1.0, the middle of a body), the kernel finds out: it
        asks after 15 s, and a client's kernel has forgotten a connection that was closed after a minute.
        """
        waits = self._stage is _ANSWER or (self._stage is _AHEAD and bool(self.buffer))
        if waits and not self._polled(0):
            self._note_half_closed()
            return True
        self._abandon()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.left(self)
        self._stand_among(None)
        self._abandon()

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self._turn is not None and self._turn.pause():
            self.deadline = self._shared.loop.time() + self._shared.limits.stall_timeout

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._turn is not None:
            self._turn.resume()
            self.deadline = inf if self._stage is Stage.ANSWER else self.deadline
        elif self._stage is Stage.AHEAD:
            self._go_on()

    # --- what the sweep says ---

    def check(self, now: float) -> None:
        """End the connection where its time is over, or its client is gone."""
        if self._half_closed is not None:
            if self._polled(0):
                self.drop()
                return
            if now >= self._asks_at and self._turn is not None:
                self._asks_at = 2 * now - self._half_closed
                self._turn.ask_reader()
        elif len(self.buffer) > _MAX_AHEAD and self._polled(select.POLLRDHUP):
            self._note_half_closed()  # while nothing is read, no event tells
        if now < self.deadline:
            return
        match self._stage:
            case Stage.IDLE:
                self._leave(lingering=False)
            case Stage.HEAD:
                self._refuse(MalformedError(408, "the request's head did not come in time"))
            case Stage.BODY:
                assert self._turn is not None
                self._turn.refuse(MalformedError(408, "the request's body did not come in time"))
            case Stage.ANSWER | Stage.AHEAD | Stage.LEAVING:
                self.drop()

    def drain(self) -> None:
        """End the connection as soon as it has no request."""
        if self._turn is not None:
            self._turn.drain()
        elif self._stage is Stage.IDLE:
            self.deadline = min(self.deadline, self._shared.loop.time() + self._shared.limits.last_request)

    @property
    def busy(self) -> bool:
        """Whether a request runs on it."""
        return self._turn is not None

    def interrupt(self, why: str) -> None:
        """End the request that runs, so that the client sees why, and with it the connection."""
        if self._turn is not None:
            self._turn.interrupt(why)

    def drop(self) -> None:
        """End the connection at once."""
        self._abandon()
        self._transport.abort()

    # --- what a turn says ---

    def expect_body(self) -> None:
        """More of the body is to come."""
        if self._half_closed is not None:  # it will not
            self._abandon()
            self._leave(lingering=False)
            return
        self._stage = Stage.BODY
        self.deadline = self._shared.loop.time() + self._shared.limits.body_timeout

    def expect_answer(self) -> None:
        """The request is complete."""
        self._stage = Stage.ANSWER
        self.deadline = inf

    def turn_over(self, *, keep_alive: bool, lingering: bool) -> None:
        """All is written: go on to the next request, or leave."""
        turn, self._turn = self._turn, None
        assert turn is not None
        among = self._among = self._shared.strangers if turn.exchange.key is None else self._shared.known
        among[self] = None  # it was among none
        if not keep_alive:
            self._leave(lingering=lingering or bool(self.buffer))
            return
        if self._half_closed is not None and not self.buffer:
            self._leave(lingering=False)
            return
        self._await_request()
        if self.writing_paused:  # who does not read gets no more
            self._stage = _AHEAD
            self.deadline = self._shared.loop.time() + self._shared.limits.stall_timeout
        elif self.buffer:
            self._stage = _AHEAD
            self._go_on()

    def cut(self) -> None:
        """Reset the connection: no client may take what it got for the whole."""
        self._turn = None
        self._stage = Stage.LEAVING
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # --- by itself ---

    def _read_head(self, known: int) -> None:
        """Look for a whole head in the buffer, `known` bytes of which were looked at before."""
        buffer = self.buffer
        if buffer[:2] == b"\r\n":
            buffer, known = self._skip_empty_lines(), 0
        end = buffer.find(b"\r\n\r\n", known - 3 if known > 3 else 0)
        try:
            if end < 0:
                check_start(buffer, known)
                self._await_head()
                return
            request = self.heads.read(buffer[:end])
        except MalformedError as error:
            self._refuse(error)
            return
        self.buffer = buffer[end + 4 :]
        if (among := self._among) is not None:
            among.pop(self, None)
            self._among = None
        self._stage = _ANSWER
        self.deadline = inf
        turn = self._turn = Turn(self._shared, self, request)
        turn.begin()

    def _stand_among(self, clients: OrderedDict[Swept, None] | None) -> None:
        """Wait for a request among `clients`, or have one (None)."""
        if self._among is not None:
            self._among.pop(self, None)
        if clients is not None:
            clients[self] = None
        self._among = clients

    def _skip_empty_lines(self) -> bytes:
        """Empty lines before a request line are let pass (RFC 9112 section 2.2); returns what is left."""
        empty = _EMPTY_LINES.match(self.buffer)
        assert empty is not None
        self.buffer = self.buffer[empty.end() :]
        return self.buffer

    def _await_request(self) -> None:
        shared = self._shared
        self._stage = _IDLE
        limits = shared.limits
        self.deadline = shared.loop.time() + (limits.last_request if shared.draining else limits.idle_timeout)

    def _await_head(self) -> None:
        if self._half_closed is not None:  # there is no more to come
            self._leave(lingering=False)
        elif self._stage is Stage.IDLE and self.buffer:
            self._stage = Stage.HEAD
            self.deadline = self._shared.loop.time() + self._shared.limits.head_timeout

    def _go_on(self) -> None:
        if len(self.buffer) > _MAX_AHEAD:
            self._transport.resume_reading()
        self._shared.loop.call_soon(self._next)  # others have their turn before a request that was sent ahead

    def _next(self) -> None:
        if self._stage is Stage.AHEAD and not self._transport.is_closing():
            self._await_request()
            self._read_head(0)

    def _note_half_closed(self) -> None:
        now = self._shared.loop.time()
        self._half_closed = now
        self._asks_at = now + self._shared.limits.half_closed
        if self._turn is not None and not self.buffer:
            self._turn.drain()

    def _polled(self, events: int) -> bool:
        """Whether the socket says `events`, or that it is closed for both directions."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), events)
        return bool(poll.poll(0))

    def _refuse(self, error: MalformedError) -> None:
        self._stand_among(None)
        turn = self._turn = Turn(self._shared, self, unread_request())
        turn.refuse(error)

    def _abandon(self) -> None:
        turn, self._turn = self._turn, None
        self._stage = Stage.LEAVING
        self.deadline = min(self.deadline, self._shared.loop.time() + self._shared.limits.body_timeout)
        if turn is not None:
            turn.abandon()

    def _leave(self, *, lingering: bool) -> None:
        """Close the connection. Where the client may still be sending, its end is awaited for a moment, because closing
        at once would reset the connection and the answer could be lost (RFC 9112 section 9.6).
        """
        limits = self._shared.limits
        self._stage = Stage.LEAVING
        if len(self.buffer) > _MAX_AHEAD:
            self._transport.resume_reading()
        self.buffer = b""
        lingering = lingering and self._half_closed is None
        all_sent = lingering and not self._transport.get_write_buffer_size()
        self.deadline = self._shared.loop.time() + (limits.linger if all_sent else limits.body_timeout)
        if lingering and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        else:
            self._transport.close()


class TurnedAway(Client):
    """A client of a socket that systemd listens on, and gateway.listen does not name."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._stage is Stage.IDLE:
            words = "llamad takes no requests here: llamad.socket listens on this address, gateway.listen names others"
            self._refuse(MalformedError(503, words))
            self._stand_among(None)
