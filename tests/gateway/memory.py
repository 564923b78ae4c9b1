"""The data path without sockets: transports that only remember, and a server behind them."""

import asyncio
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import httptools

from llamad.gateway.client import Client
from llamad.gateway.shared import Limits, Shared
from llamad.gateway.upstream import Upstream
from llamad.host.address import UnixAddress
from tests.gateway.gate import Rules
from tests.gateway.origin import plain

_NOWHERE = Path("/nowhere")
_OWN = re.compile(rb"x-request-id: [^\r]*\r\n|date: [^\r]*\r\n")
_WORDS = re.compile(rb'content-length: \d+\r\n(connection: close\r\n\r\n{"error": {"message": )"(?:[^"\\]|\\.)*"')


class Remembers(asyncio.Transport):
    """A transport whose other side is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.closed = False
        self.ended = False
        self.aborted = False
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.out += data

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Line:
    """One client, the gateway, and one server that gives `answer` to every request in pieces cut at `cuts`."""

    def __init__(self, answer: bytes | None = None, cuts: tuple[int, ...] = ()) -> None:
        self.rules = Rules([UnixAddress(_NOWHERE)])
        self.shared = Shared(self.rules, Limits())
        self.client = Client(self.shared)
        self.down = Remembers()
        self.client.connection_made(self.down)
        self.upstream: Upstream | None = None
        self.up = Remembers()
        self.bodies: list[bytes] = []
        self._answer = answer
        self._cuts = cuts
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._read = 0

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.bodies.append(self._body)

    async def send(self, data: bytes, cuts: tuple[int, ...] = ()) -> None:
        """Send `data` in pieces, as far as the gateway reads, and let the server answer."""
        for piece in pieces(data, cuts):
            if not (self.down.closed or self.down.ended):
                self.client.data_received(piece)
            await self._serve()

    async def _serve(self) -> None:
        for _ in range(3):
            self._connect()
            before = len(self.bodies)
            fresh, self._read = bytes(self.up.out[self._read :]), len(self.up.out)
            if fresh:
                self._parser.feed_data(fresh)
            if len(self.bodies) > before:
                answer = self._answer if self._answer is not None else plain(200, self.bodies[-1])
                for piece in pieces(answer, self._cuts):
                    if self.upstream is not None and not self.up.closed:
                        self.upstream.data_received(piece)
            await asyncio.sleep(0)

    def _connect(self) -> None:
        """Have an idle connection in the pool before the gateway asks for one."""
        if self.upstream is None or self.up.closed:
            pool = self.shared.upstreams.pool(self.rules.addresses[0])
            self.up, self._read = Remembers(), 0
            self._parser = httptools.HttpRequestParser(self)
            self.upstream = Upstream(pool)
            self.upstream.connection_made(self.up)
            self.upstream.keep()

    def start(self) -> "Line":
        """Have the server there."""
        self._connect()
        return self

    @property
    def outcome(self) -> tuple[bytes, bool, list[bytes]]:
        """What the client got (without ids, dates, and the words of errors that end the connection), whether it cannot
        go on, and what the server got.
        """
        return _WORDS.sub(rb"\1", _OWN.sub(b"", bytes(self.down.out))), self.down.closed or self.down.ended, self.bodies


def pieces(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    """`data`, cut at these places."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[start:end] for start, end in pairwise(places)]
