"""One llama-server, fake or real, and a plain client for it."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0
"""Seconds that anything may take: the real engine on a busy machine."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A program that is to behave as llama-server, with a model for it. `slow` makes it load long enough to be seen."""

    name: str
    binary: Path
    model: Path
    slow: Mapping[str, str] = field(default_factory=dict)

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [self.binary, *args],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, **(env or {})},
            check=False,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class Server:
    """A running one; leaving the block ends it. It listens on a unix socket in a folder of its own, or on `port`."""

    def __init__(
        self,
        engine: Engine,
        *args: str,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(dir="/tmp")  # a unix socket's path has to be short
        self.log = Path(self._folder.name) / "log"
        self.socket = Path(self._folder.name) / "s.sock"
        self.port = port
        where = (
            ("--host", str(self.socket), "--port", "1")
            if port is None
            else ("--host", "127.0.0.1", "--port", str(port))
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [engine.binary, "--model", str(engine.model), *where, "--ctx-size", "1024", *args],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        if wait:
            self.wait_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._folder.cleanup()

    def connection(self) -> contextlib.closing[http.client.HTTPConnection]:
        """A connection, for more than one request."""
        if self.port is None:
            return contextlib.closing(_UnixConnection(str(self.socket)))
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE))

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own; a body that is no bytes goes as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with self.connection() as connection:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def get(self, path: str) -> Answer:
        """GET."""
        return self.ask("GET", path)

    def events(self, path: str, body: object) -> Iterator[Any]:
        """The events of a stream as they come; `[DONE]` as a text. Leaving the loop leaves the server."""
        with self.connection() as connection:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.getheader("Content-Type") == "text/event-stream"
            with answer:
                for line in answer:
                    if line.startswith(b"data: "):
                        text = line[6:].strip().decode()
                        yield text if text == "[DONE]" else json.loads(text)

    def statuses_until_ready(self) -> list[Answer]:
        """What `/health` answered from the first answer to the first 200."""
        answers: list[Answer] = []
        deadline = time.monotonic() + PATIENCE
        while not answers or answers[-1].status != 200:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                answers.append(self.get("/health"))
            time.sleep(0.002)
        return answers

    def wait_ready(self) -> None:
        """Return once it is ready."""
        self.statuses_until_ready()

    def wait_until(self, what: str, path: str, holds: Any) -> Any:
        """Ask `path` until the answer is as `holds` says; returns it."""
        deadline = time.monotonic() + PATIENCE
        while not holds(answer := self.get(path).json):
            assert time.monotonic() < deadline, what
            time.sleep(0.002)
        return answer

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
