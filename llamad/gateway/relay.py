"""One request on its way: asked for, sent to a replica, answered by bytes passed on as they come.

The relay holds a lease, a ticket or a connecting task only while it needs it, and gives each back exactly once: every
way out goes through `_let_go`.
"""

import asyncio
import json
from collections import deque
from typing import Protocol

from llamad.gateway.answers import AnswerShape, client_head
from llamad.gateway.fields import MalformedError
from llamad.gateway.follow import WHOLE, AnswerBody, UntilClose, body_of
from llamad.gateway.http1 import MAX_HEAD, Request, upstream_head
from llamad.gateway.shared import Shared
from llamad.gateway.types import Answer, Exchange, Headers, Lease, Refusal, Ticket, ToServer
from llamad.gateway.upstream import Upstream
from llamad.servers.board import Replica
from llamad.servers.probe import MAX_INTERIM
from llamad.servers.traffic import Flight

_JOINED = 64 << 10
"""Up to this size a body is copied behind its head, to be sent by one system call."""
_TAIL_PIECES = 8
_TAIL_BYTES = 4096


class Caller(Protocol):
    """The client's side of a request."""

    keeps_alive: bool
    cors: Headers

    def write(self, data: bytes) -> None:
        """Pass `data` on to the client."""
        ...

    def answer(self, answer: Answer) -> None:
        """Give an answer of our own; nothing was written before."""
        ...

    def answered(self, *, keep_alive: bool) -> None:
        """All of the answer was written."""
        ...

    def body_sent(self) -> None:
        """The request's body is not needed any more."""
        ...

    def cut(self) -> None:
        """The answer breaks off: make the client see it."""
        ...


class Visit(Flight):
    """A Lease of a request that does not use the model: nothing counts it."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica.key)
        self.replica = replica

    def release(self, *, goes_on: bool = False) -> None:
        """It is over."""

    def failed(self) -> None:
        """It was answered with status 500, which says nothing of the model."""


class Relay:
    """From the route to the last byte of the answer. `start` begins, `abandon` ends it when the client leaves."""

    # Defaults stand in the class: most requests never change them, and one object less to fill is time saved.
    _lease: Lease | None = None
    _flight: Lease
    """The last lease: there as soon as bytes can come."""
    _ticket: Ticket | None = None
    _opening: asyncio.Task[None] | None = None
    _upstream: Upstream | None = None
    _answer: AnswerShape | None = None
    _following: AnswerBody | None = None
    _buffer = b""
    _interim = 0
    """Answers of status 1xx so far."""
    _retried = False
    _losses = 0
    """How often it was sent, and a connection that was good closed without a word."""
    _paused = False
    _asked = 0.0
    _tail: deque[bytes] | None = None

    def __init__(
        self, shared: Shared, caller: Caller, request: Request, body: bytes, route: ToServer, exchange: Exchange
    ) -> None:
        self._shared = shared
        self._caller = caller
        self._request = request
        self._body = body
        self._route = route
        self._exchange = exchange

    def start(self) -> None:
        """Ask for a replica, and go on from there."""
        shared, route = self._shared, self._route
        server = self._exchange.server = route.server
        if shared.deadly.until and shared.deadly.is_known(server, route.target, self._body, shared.loop.time()):
            self._fail(f"this very request has just ended two processes of {server!r}: it is not tried again so soon")
        else:
            self._ask()

    def abandon(self) -> None:
        """The client has left: so does everything that works for it, but for a conversation, which llama-server goes on
        with until its client asks for the rest (llama.cpp's PR 23226).
        """
        sent = self._upstream is not None
        self._let_go(goes_on=sent and self._request.head.header(b"x-conversation-id") is not None)

    def interrupt(self, why: str) -> None:
        """The gateway ends: the answer breaks off, or is that it does."""
        if self._following is not None:
            self._broke_off(why, error="stopping")
        else:
            self._let_go()
            self._refuse(Refusal(503, "stopping", why, 1))

    @property
    def answering(self) -> bool:
        """Whether the head of the answer was passed on."""
        return self._following is not None

    def ask_reader(self) -> None:
        """Send the client a comment, where the answer is a stream of events and stands between two of them."""
        answer, tail = self._answer, self._tail
        stream = answer is not None and answer.events and answer.chunked and self._request.head.version >= (1, 1)
        if stream and tail and tail[-1].endswith(b"\n\n\r\n"):
            self._caller.write(b"3\r\n:\n\n\r\n")

    def pause(self) -> None:
        """The client does not keep up."""
        self._paused = True
        if self._upstream is not None:
            self._upstream.transport.pause_reading()

    def resume(self) -> None:
        """The client has caught up."""
        self._paused = False
        if self._upstream is not None and not self._upstream.transport.is_closing():
            self._upstream.transport.resume_reading()

    # --- a replica ---

    def _ask(self, avoid: Replica | None = None) -> None:
        route = self._route
        if route.replica is not None:
            self._granted(Visit(route.replica))
            return
        outcome = self._shared.policy.admission.ask(
            route.server, self._exchange.key, self._decided, retry=self._retried, avoid=avoid
        )
        if hasattr(outcome, "release"):
            self._granted(outcome)  # type: ignore[arg-type]  # a cast is a call
        elif isinstance(outcome, Refusal):
            self._refuse(outcome)
        else:
            self._ticket = outcome
            self._asked = self._shared.loop.time()

    def _decided(self, outcome: Lease | Refusal) -> None:
        """It has waited long enough."""
        self._ticket = None
        self._exchange.queued_s += self._shared.loop.time() - self._asked
        if isinstance(outcome, Refusal):
            self._refuse(outcome)
        else:
            self._granted(outcome)

    def _granted(self, lease: Lease) -> None:
        self._lease = self._flight = lease
        self._exchange.replica = lease.replica.key.index
        self._open(fresh=self._retried)

    def _refuse(self, refusal: Refusal) -> None:
        headers: Headers = [] if refusal.retry_after is None else [(b"retry-after", b"%d" % refusal.retry_after)]
        self._exchange.error = refusal.kind
        self._caller.answer(
            self._shared.policy.error(refusal.status, refusal.message, kind=refusal.kind, headers=headers)
        )

    def _open(self, *, fresh: bool) -> None:
        assert self._lease is not None
        address = self._lease.replica.address
        if address is None:
            self._died("it has no address")
            return
        pool = self._shared.upstreams.pool(address)
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self._send(upstream)
        else:
            self._opening = pool.connect(self)

    def opened(self, upstream: Upstream) -> None:
        """A new connection is there."""
        self._opening = None
        self._send(upstream)

    def not_opened(self, reason: str, *, lacking: bool) -> None:
        """There is no connection to the replica; `lacking`: for lack of something here, and the replica may be fine."""
        self._opening = None
        if lacking:
            self._let_go()
            self._refuse(Refusal(503, "overloaded", f"llamad {reason}: try again", 1))
        else:
            self._died(reason)

    def _send(self, upstream: Upstream) -> None:
        self._upstream = upstream
        upstream.receiver = self
        route, body, fixed, write = self._route, self._body, upstream.pool.host, upstream.transport.write
        if route.authorization is not None:
            fixed += b"authorization: " + route.authorization + b"\r\n"
        length = len(body)
        head = upstream_head(self._request, route.target, length, self._exchange.peer, fixed)
        if length <= _JOINED:
            write(head + body)
        else:
            write(head)
            write(body)

    # --- its answer ---

    def received(self, data: bytes) -> None:
        """Bytes of the answer came."""
        self._flight.received += len(data)
        try:
            following = self._following
            if following is not None:
                out = following.feed(data)
            else:
                out = self._read_head(data)
                following = self._following
                if following is None:
                    return
        except MalformedError as error:
            self._broken(error.message)
            return
        if out:
            self._caller.write(out)
            self._exchange.bytes_out += len(out)
        if following.done:
            self._complete(following, out)
        elif self._tail is None:
            self._tail = deque((out[-_TAIL_BYTES:],), maxlen=_TAIL_PIECES)
        else:
            self._tail.append(out if len(out) <= _TAIL_BYTES else out[-_TAIL_BYTES:])

    def _read_head(self, data: bytes) -> bytes:
        """Take bytes of the head; returns what the client gets of it, once it is whole."""
        buffer = self._buffer + data if self._buffer else data
        while True:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > MAX_HEAD:
                    raise MalformedError(502, f"the head of the server's answer is larger than {MAX_HEAD} bytes")
                self._buffer = buffer
                return b""
            answer, length = self._shared.answers.read(buffer[:end])
            buffer = buffer[end + 4 :]
            if answer.status >= 200:
                return self._begin_answer(answer, length, buffer)
            self._buffer = buffer
            self._interim += 1
            if answer.status == 101:
                raise MalformedError(502, "the server switches protocols, which nobody asked for")
            if self._interim > MAX_INTERIM:
                raise MalformedError(502, f"the server answers more than {MAX_INTERIM} times that it goes on")

    def _begin_answer(self, answer: AnswerShape, length: int | None, rest: bytes) -> bytes:
        request, exchange, caller = self._request, self._exchange, self._caller
        following = body_of(answer, length, request.head, len(rest))
        if type(following) is UntilClose:
            caller.keeps_alive = False
        exchange.first_byte = self._shared.loop.time()
        exchange.status = answer.status
        if answer.status == 500 and self._lease is not None:
            self._lease.failed()
        if self._paused:
            self.pause()
        kept = self._shared.kept_for if caller.keeps_alive else 0
        out = client_head(answer, length, request, cors=caller.cors, keep_alive=kept)
        if following is WHOLE:
            out += rest
        elif rest:
            out += following.feed(rest)
        self._answer, self._following = answer, following
        if self._body:
            self._body = b""
            caller.body_sent()
        return out

    def _complete(self, following: AnswerBody, last: bytes) -> None:
        upstream, answer, lease = self._upstream, self._answer, self._lease
        assert answer is not None
        assert lease is not None
        self._upstream = self._lease = None
        if upstream is not None:
            transport = upstream.transport
            if answer.keep_alive and not following.surplus and not transport.get_write_buffer_size():
                if self._paused:
                    transport.resume_reading()
                upstream.keep()
            else:
                upstream.drop()
        lease.release()  # may let another request go at once, on the connection that is free now
        self._exchange.tail = (last if self._tail is None else b"".join((*self._tail, last)))[-_TAIL_BYTES:]
        self._caller.answered(keep_alive=self._caller.keeps_alive)

    # --- what goes wrong ---

    def lost(self, error: Exception | None) -> None:
        """The replica's connection ended before its answer did."""
        upstream, self._upstream = self._upstream, None
        if self._following is not None:
            if error is None and type(self._following) is UntilClose:
                self._complete(self._following, b"")
            else:
                self._broke_off(self._fate or "the server closed the connection in the middle of its answer")
        elif upstream is not None and upstream.reused and not self._buffer and self._fate is None:
            self._open(fresh=True)  # it was closed while idle, and only now we know
        else:
            self._losses += error is None or isinstance(error, OSError)  # anything else is a bug of ours
            self._died("it closed the connection before it answered")

    def _died(self, reason: str) -> None:
        """No byte of an answer was passed on, and this replica will give none: try once more, elsewhere or later."""
        fate = self._fate
        avoid = None if self._lease is None else self._lease.replica
        self._let_go()
        self._buffer = b""
        if fate is not None:
            self._exchange.error = "upstream-hung"
            self._caller.answer(self._shared.policy.error(504, fate, kind="upstream_error"))
        elif self._route.replica is not None:
            self._fail(f"the server {self._route.server!r} gave no answer: {reason}")
        elif self._retried:
            if self._losses > 1:
                self._shared.deadly.note(self._route.server, self._route.target, self._body, self._shared.loop.time())
            self._fail(f"the server {self._route.server!r} gave no answer, twice: {reason}")
        else:
            self._retried = True
            self._exchange.retries += 1
            self._ask(avoid)

    @property
    def _fate(self) -> str | None:
        """Why llamad itself ended the process that worked on this request: what it did once it would do again, so it is
        not sent to another.
        """
        why = None if self._lease is None else self._lease.fate
        return None if why is None else f"llamad ended the server that worked on it, and does not repeat it: {why}"

    def _broken(self, message: str) -> None:
        """The answer makes no sense."""
        if self._following is not None:
            self._broke_off(message)
        else:
            self._let_go()
            self._fail(message)

    def _fail(self, message: str) -> None:
        self._exchange.error = "upstream-died"
        self._caller.answer(self._shared.policy.error(502, message, kind="upstream_error"))

    def _broke_off(self, message: str, error: str = "upstream-died") -> None:
        """Part of the answer was passed on: end it so that no client takes it for the whole."""
        answer, following, head = self._answer, self._following, self._request.head
        assert answer is not None
        assert following is not None
        self._let_go()
        self._exchange.error = error
        repair = following.repair() if answer.events else None
        if repair is None:
            self._caller.cut()
            return
        event = error_event(message)
        if answer.chunked and head.version >= (1, 1):
            event = b"%x\r\n%b\r\n" % (len(event), event)
        self._caller.write(repair + event)
        self._caller.answered(keep_alive=False)

    def _let_go(self, *, goes_on: bool = False) -> None:
        """Give back whatever is held. The lease last: it may wake another request at once."""
        ticket, self._ticket = self._ticket, None
        opening, self._opening = self._opening, None
        upstream, self._upstream = self._upstream, None
        lease, self._lease = self._lease, None
        if ticket is not None:
            ticket.cancel()
        if opening is not None:
            opening.cancel()
        if upstream is not None:
            upstream.drop()
        if lease is not None:
            lease.release(goes_on=goes_on)


def error_event(message: str) -> bytes:
    """The event that ends a broken stream: read as an error by clients of OpenAI's API and of Anthropic's."""
    error = {"type": "error", "error": {"message": message, "type": "upstream_error", "code": 502}}
    return b"\n\nevent: error\ndata: " + json.dumps(error).encode() + b"\n\n"
