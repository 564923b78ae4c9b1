"""One request of a client, from its head to the end of its answer."""

import asyncio
import logging
from typing import Protocol

from llamad.gateway.answers import CONTINUE, own_answer
from llamad.gateway.bodies import ChunkedBody, SizedBody, too_large
from llamad.gateway.decoding import Decoder
from llamad.gateway.fields import MalformedError
from llamad.gateway.http1 import Decided, Heads, Request
from llamad.gateway.relay import Relay
from llamad.gateway.shared import Shared
from llamad.gateway.types import Answer, Headers, Local, Reader, Route, ToServer
from llamad.host.threads import aside

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What a turn needs of the connection it is taken on."""

    buffer: bytes
    """What came and belongs to no head: the turn takes its body off the beginning."""
    peer: str
    heads: Heads
    writing_paused: bool

    def write(self, data: bytes) -> None:
        """Send `data` to the client."""
        ...

    def expect_body(self) -> None:
        """The body is incomplete: `Turn.read_body` is to be called when more came."""
        ...

    def expect_answer(self) -> None:
        """The request is complete."""
        ...

    def turn_over(self, *, keep_alive: bool, lingering: bool) -> None:
        """All is written; `lingering`: the client may still be sending what nobody reads."""
        ...

    def cut(self) -> None:
        """End the connection so that the client does not take what it got for the whole."""
        ...


class Turn:
    """Decides, and answers or has a relay answer. Its exchange is told to be over exactly once."""

    # Defaults stand in the class: most requests never change them, and one object less to fill is time saved.
    _body: SizedBody | ChunkedBody | None = None
    _held = 0
    """Bytes of the body counted in `Shared.body_bytes`."""
    _reader: Reader | None = None
    _route: Route | None = None
    _relay: Relay | None = None
    _local: asyncio.Task[None] | None = None
    _over = False

    def __init__(self, shared: Shared, connection: Connection, request: Request) -> None:
        head = request.head
        self._shared = shared
        self._connection = connection
        self._request = request
        self._unread = head.chunked or bool(request.length)
        """Whether not all of the body was taken."""
        self.write = connection.write
        self.cors: Headers = []
        self.keeps_alive = head.keep_alive and not shared.draining
        self.exchange = shared.policy.begin(head, request.id, connection.peer)

    # --- the request ---

    def begin(self) -> None:
        """Decide what can be decided by the head, then take the body."""
        shared, request = self._shared, self._request
        head, decided = request.head, request.shape.decided
        if decided is None:
            known = self._ask_policy()
            if isinstance(known, Answer):
                self.answer(known)
                return
            decided = request.shape.decided = known
            self._connection.heads.keep(request)
        self.cors = decided.cors
        self.exchange.key = decided.key
        self._reader = decided.reader
        if decided.reader is None:
            self._route = shared.policy.route(head, None, b"")
            if isinstance(self._route, Answer):
                self.answer(self._route)
                return
        if self._unread:
            self._begin_body()
        else:
            self._decide(b"")

    def _begin_body(self) -> None:
        """Take what is there of the body, which often is all."""
        length, connection, limit = self._request.length, self._connection, self._shared.limits.max_body
        there = connection.buffer
        if length is not None and length > limit:
            self.refuse(too_large(limit))
        elif length is not None and len(there) >= length:
            connection.buffer = there[length:]
            self._unread = False
            self._decide(there[:length])
        else:
            self._body = ChunkedBody(limit) if length is None else SizedBody(length)
            if self._request.shape.expects_continue and not there:
                self.write(CONTINUE)
            self.read_body()

    def _ask_policy(self) -> Decided | Answer:
        """What the policy says of the head alone; or that it is not let in."""
        shared, head = self._shared, self._request.head
        key = shared.policy.authorize(head, unix=self._connection.peer == "unix")
        if isinstance(key, Answer):
            return key
        return Decided(key, shared.policy.reader(head), shared.policy.cors(head))

    def read_body(self) -> None:
        """Take what came of the body off the connection's buffer."""
        connection, body = self._connection, self._body
        assert body is not None
        try:
            connection.buffer = body.feed(connection.buffer)
            self._hold(len(body.body))
        except MalformedError as error:
            self.refuse(error)
            return
        if body.done:
            self._body = None
            self._unread = False
            connection.expect_answer()
            self._decide(bytes(body.body))
        else:
            connection.expect_body()

    def _hold(self, size: int) -> None:
        """Count the body's bytes among those of all bodies; MalformedError where these are too many."""
        shared = self._shared
        shared.body_bytes += size - self._held
        self._held = size
        if size and shared.body_bytes > shared.limits.bodies:
            raise MalformedError(503, "too many large requests arrive at once: try again later")

    # --- the answer ---

    def _decide(self, body: bytes) -> None:
        """All of the request is there."""
        coding = self._request.shape.coding
        self.exchange.bytes_in = len(body)
        if coding is not None and body:
            self._local = self._shared.tasks.spawn(self._decode(Decoder(coding, body, self._shared.limits.max_body)))
        else:
            self._go_on(body)

    async def _decode(self, decoder: Decoder) -> None:
        """Undo the body's compression, off the loop."""
        try:
            while not decoder.done:
                await aside(decoder.step)
                self._hold(len(decoder.body))
        except MalformedError as error:
            self._local = None
            self.answer(self._shared.policy.error(error.status, error.message))
            return
        self._local = None
        self._go_on(bytes(decoder.body))

    def _go_on(self, body: bytes) -> None:
        """The body is as it was meant."""
        shared, request = self._shared, self._request
        route = self._route or shared.policy.route(request.head, self._reader, body)
        if isinstance(route, ToServer):
            relay = self._relay = Relay(shared, self, request, body, route, self.exchange)
            if self._connection.writing_paused:
                relay.pause()
            relay.start()
        elif isinstance(route, Local):
            self._local = shared.tasks.spawn(self._answer_locally(route, body))
        else:
            self.answer(route)

    async def _answer_locally(self, route: Local, body: bytes) -> None:
        try:
            self._route = await route.handle()
        except Exception:  # the last resort: one path that fails costs nobody the connection
            logger.exception("%s could not be answered", self._request.head.path, extra={"event": "bug"})
            self._route = self._shared.policy.error(500, "a bug in llamad: its log says more", kind="server_error")
        self._local = None
        self._go_on(body)

    def answer(self, answer: Answer) -> None:
        """Give an answer of our own."""
        request, policy, exchange = self._request, self._shared.policy, self.exchange
        self._skip_body()
        if answer.status >= 400:
            answer = policy.in_dialect(request.head, answer, request.id)
        keep_alive = self.keeps_alive and not self._unread
        kept = self._shared.kept_for if keep_alive else 0
        written = own_answer(answer, request, cors=policy.cors(request.head), keep_alive=kept)
        exchange.status = answer.status
        exchange.bytes_out += len(written)
        self.write(written)
        self.answered(keep_alive=keep_alive)

    def refuse(self, error: MalformedError) -> None:
        """Say what is wrong, and end the connection: where the next request would begin is not known."""
        self._body = None
        self._unread = True
        self.keeps_alive = False
        self._connection.buffer = b""
        self.answer(self._shared.policy.error(error.status, error.message))

    def interrupt(self, why: str) -> None:
        """The gateway ends: so does this request, visibly."""
        self.keeps_alive = False
        if self._relay is not None:
            self._relay.interrupt(why)

    def body_sent(self) -> None:
        """The body is not needed any more."""
        if self._held:
            self._hold(0)

    def answered(self, *, keep_alive: bool) -> None:
        """All of the answer was written."""
        self._end()
        self._connection.turn_over(keep_alive=keep_alive, lingering=self._unread)

    def cut(self) -> None:
        """The answer broke off."""
        self._end()
        self._connection.cut()

    def abandon(self) -> None:
        """The client has left, or was made to."""
        if self._over:
            return
        if self._relay is not None:
            self._relay.abandon()
        if self._local is not None:
            self._local.cancel()
        self.exchange.error = "client-left"
        self.exchange.status = self.exchange.status or 499
        self._end()

    def drain(self) -> None:
        """Have the answer say that the connection ends with it, if its head is still to be written."""
        if self._relay is None or not self._relay.answering:
            self.keeps_alive = False

    def ask_reader(self) -> None:
        """Send the client something that says nothing: one that is gone answers with a reset."""
        if self._relay is not None and self._relay.answering:
            self._relay.ask_reader()
        elif self._request.head.version >= (1, 1):
            self.write(CONTINUE)

    def pause(self) -> bool:
        """The client does not keep up; returns whether it is to be given time for it."""
        if self._relay is not None:
            self._relay.pause()
        return self._relay is not None

    def resume(self) -> None:
        """The client has caught up."""
        if self._relay is not None:
            self._relay.resume()

    def _skip_body(self) -> None:
        """A body that is here already, though nobody wants it, does not end the connection."""
        length, connection = self._request.length, self._connection
        if self._unread and self._body is None and length is not None and len(connection.buffer) >= length:
            connection.buffer = connection.buffer[length:]
            self._unread = False

    def _end(self) -> None:
        self._over = True
        self._relay = None  # the two know each other: without this, only the collector would end them
        if self._held:
            self._hold(0)
        self._shared.policy.finished(self.exchange)
