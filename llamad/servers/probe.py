"""One small request to a llama-server, on a connection of its own.

aiohttp's client costs about a millisecond a request, which at 200 idle servers is the whole budget; and llama-server's
HTTP library keeps a thread for every connection that stays open.
"""

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, Self, cast

import httptools

from llamad.host.address import Address, UnixAddress
from llamad.host.connecting import connected, handed_over
from llamad.host.descriptors import is_lack

MAX_BODY = 4 << 20
"""Bytes an answer may have; `/slots` with long prompts is the largest."""
MAX_VALUES = 200_000
"""Values an answer in JSON may have: reading more would hold the loop up, and no llama-server has as many to tell."""
MAX_INTERIM = 16
"""Answers of status 1xx before the one that counts (RFC 9110 section 15.2)."""
TICK = 0.05
"""Seconds between two looks at whether the loop is on time, while a probe waits."""
MOST_LATE, LEAST_LATE = 0.25, 0.1
"""A time-out proves nothing where the loop was held up for more than this share of it, and for more seconds than a busy
machine takes now and then.
"""


class ProbeError(Exception):
    """No answer: refused, cut, not HTTP, or too late. The text says which."""


class CannotProbeError(ProbeError):
    """The question was not asked, for lack of something here (a file descriptor), or llamad was too late to read the
    answer: nobody knows how the server is.
    """


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """A whole answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None where it is not, or has too much in it."""
        if sum(map(self.body.count, (b",", b"[", b"{"))) > MAX_VALUES:
            return None
        try:
            return json.loads(self.body, parse_constant=_refuse)
        except (ValueError, RecursionError):  # the parser gives up on deep nesting
            return None


def _refuse(word: str) -> None:
    """NaN and Infinity are no JSON, though Python reads and writes them."""
    raise ValueError(word)


class Prober(Protocol):
    """Asks a server one thing; raises ProbeError."""

    async def __call__(self, address: Address, path: str, *, timeout: float, key: str | None = None) -> ProbeAnswer: ...


class Poster(Protocol):
    """A Prober that can also send a body."""

    async def __call__(
        self, address: Address, path: str, *, timeout: float, key: str | None = None, body: bytes | None = None
    ) -> ProbeAnswer: ...


class _Lateness:
    """Measures, inside the block, for how long the loop was held up: by work of ours, or as llamad was stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()

    def _arm(self) -> None:
        self._due = self._loop.time() + TICK
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self.seconds += max(0.0, self._loop.time() - self._due - TICK)
        self._arm()


class _Exchange(asyncio.Protocol):
    """Sends one request and collects one answer."""

    def __init__(self, request: bytes, answer: asyncio.Future[ProbeAnswer]) -> None:
        self._request = request
        self._answer = answer
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._interim = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.WriteTransport, transport)  # uvloop's are, and do not say so
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"does not speak HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > MAX_BODY:
            self._fail(f"answered with more than {MAX_BODY >> 20} MB")

    def on_message_complete(self) -> None:
        if (status := self._parser.get_status_code()) < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._fail(f"said more than {MAX_INTERIM} times that it goes on")
            return
        if not self._answer.done():
            self._answer.set_result(ProbeAnswer(status, bytes(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"closed the connection{f': {exc}' if exc else ''}")

    def _fail(self, why: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(ProbeError(why))


async def probe(
    address: Address, path: str, *, timeout: float, key: str | None = None, body: bytes | None = None
) -> ProbeAnswer:
    """GET `path`, or POST `body` there; `timeout` in seconds bounds the whole exchange, `key` goes as a bearer token.
    Raises ProbeError.
    """
    authorization = b"Bearer " + key.encode() if key else None
    method = "GET" if body is None else "POST"
    return await send(address, path, timeout=timeout, method=method, body=body or b"", authorization=authorization)


async def send(
    address: Address,
    path: str,
    *,
    timeout: float,
    method: str = "GET",
    body: bytes = b"",
    authorization: bytes | None = None,
) -> ProbeAnswer:
    """Ask for `path`, with `body` as JSON where there is one, and `authorization` as that header's value."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[ProbeAnswer] = loop.create_future()
    host = "localhost" if isinstance(address, UnixAddress) else str(address)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if body or method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join(lines).encode("latin-1", "replace")
    if authorization is not None:
        head += b"\r\nAuthorization: " + authorization
    request = head + b"\r\n\r\n" + body
    transport: asyncio.BaseTransport | None = None
    try:
        with _Lateness() as late:
            async with asyncio.timeout(timeout):
                if isinstance(address, UnixAddress):
                    sock = await connected(address.path)
                    making = loop.create_unix_connection(lambda: _Exchange(request, answer), sock=sock)
                    transport, _ = await handed_over(making, sock)
                else:
                    transport, _ = await loop.create_connection(
                        lambda: _Exchange(request, answer), address.host, address.port
                    )
                return await answer
    except TimeoutError:
        if late.seconds > max(timeout * MOST_LATE, LEAST_LATE):
            raise CannotProbeError(f"llamad itself was held up for {late.seconds:.1f} s") from None
        raise ProbeError(f"did not answer in {timeout:g} s") from None
    except OSError as error:
        kind = CannotProbeError if is_lack(error) else ProbeError
        raise kind(error.strerror or str(error)) from None
    finally:
        if answer.done() and not answer.cancelled():
            answer.exception()  # seen: a late failure is no surprise
        answer.cancel()
        if transport is not None:
            transport.close()
