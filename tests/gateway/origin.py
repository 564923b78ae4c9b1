"""A server with behaviour, for the data path: it records what it really sees, read by another parser than ours."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httptools


@dataclass
class Seen:
    """One request as a server sees it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """The only value of a header."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} stands there {len(values)} times"
        return values[0] if values else None


Behaviour = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def plain(status: int = 200, body: bytes = b"{}", *more: bytes) -> bytes:
    """An answer with a length."""
    lines = [b"HTTP/1.1 %d Whatever" % status, b"Content-Type: application/json", *more]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


EVENT = b'data: {"n": 1}\n\n'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer with what was seen."""
    body = json.dumps({"method": seen.method, "target": seen.target, "body": seen.body.decode("latin-1")}).encode()
    writer.write(plain(200, body))


def answering(*pieces: bytes) -> Behaviour:
    """Always answer with these bytes, piece by piece."""

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return behave


@dataclass
class _Reading:
    """One connection's parser and what it found."""

    connection: int
    found: "asyncio.Queue[Seen | None]" = field(default_factory=asyncio.Queue)

    def on_message_begin(self) -> None:
        self.target, self.headers, self.body = b"", list[tuple[str, str]](), b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        method = self.parser.get_method().decode()
        self.found.put_nowait(Seen(method, self.target.decode("latin-1"), self.headers, self.body, self.connection))

    def start(self) -> httptools.HttpRequestParser:
        self.parser = httptools.HttpRequestParser(self)
        return self.parser


class Origin:
    """Listens on a unix socket inside its block. `behave` answers a request; EOFError from it closes the connection."""

    def __init__(self, path: Path, behave: Behaviour = echo) -> None:
        self.path = path
        self.behave = behave
        self.requests: list[Seen] = []
        self.raw = bytearray()
        self.errors: list[str] = []
        self.left = 0
        """Connections that ended while a request was worked on."""
        self.connections = 0
        self.reading = asyncio.Event()
        """Whether bytes are taken off the connections."""
        self.reading.set()
        self._busy = 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, str(self.path))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.reading.set()
        for writer in self._open.values():
            writer.transport.abort()
        await asyncio.gather(*self._open)
        self.path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        reading = _Reading(self.connections)
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._answer(reading, writer))
                await self._read(reader, reading)
                if reading.found.empty() and self._busy:
                    self.left += 1
                work.cancel()
        except* (OSError, EOFError):
            pass
        finally:
            writer.close()
            del self._open[task]

    async def _read(self, reader: asyncio.StreamReader, reading: _Reading) -> None:
        parser = reading.start()
        while data := await reader.read(65536):
            await self.reading.wait()
            self.raw += data
            try:
                parser.feed_data(data)
            except httptools.HttpParserError as error:
                self.errors.append(repr(error))
                return

    async def _answer(self, reading: _Reading, writer: asyncio.StreamWriter) -> None:
        while True:
            seen = await reading.found.get()
            assert seen is not None
            self.requests.append(seen)
            self._busy += 1
            try:
                await self.behave(seen, writer)
            finally:
                self._busy -= 1
