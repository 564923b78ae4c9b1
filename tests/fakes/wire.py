"""HTTP/1.1 as the fake speaks it: blocking, one thread a connection, on the bare socket module for a quick start."""

from __future__ import annotations

import _socket
import time

from tests.fakes.mood import hanging, number, raw

JSON = "application/json; charset=utf-8"
_WORDS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}
_FOREVER = 3600.0


class LeftError(Exception):
    """The client has left, or the connection is over."""


class Connection:
    """Bytes of one client."""

    def __init__(self, fd: int) -> None:
        self.sock = _socket.socket(fileno=fd)
        self._buffer = b""

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise LeftError
        self._buffer += data

    def until(self, mark: bytes) -> bytes:
        """What comes before `mark`."""
        while mark not in self._buffer:
            self._fill()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._buffer) < size:
            self._fill()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def patience(self, seconds: float = _FOREVER) -> None:
        """How long the client may take from now on."""
        self.sock.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def rest(self, seconds: float) -> None:
        """Wait, unless the client leaves (LeftError)."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                if not self.sock.recv(1, _socket.MSG_PEEK):
                    raise LeftError
                time.sleep(min(left, 0.005))  # a pipelined request lies there
            except TimeoutError:
                pass
        self.patience()

    def close(self) -> None:
        """The end."""
        try:
            self.sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already
        finally:
            self.sock.close()


class Request:
    """One request, read whole, and ways to answer it. `last`: the connection ends with it."""

    def __init__(self, connection: Connection, head: bytes, *, last: bool) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, version = lines[0].split(" ", 2)
        self.path = self.target.partition("?")[0]
        self.headers = [[part.strip() for part in line.split(":", 1)] for line in lines[1:]]
        self.connection = connection
        asked = self.header("connection").lower()
        self.last = last or asked == "close" or (version == "HTTP/1.0" and asked != "keep-alive")
        self.body = self._read_body()

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name), default)

    def _read_body(self) -> bytes:
        if self.header("expect").lower() == "100-continue":
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" not in self.header("transfer-encoding").lower():
            return self.connection.exactly(int(self.header("content-length", "0")))
        body = b""
        while size := int(self.connection.until(b"\r\n").partition(b";")[0], 16):
            body += self.connection.exactly(size)
            self.connection.until(b"\r\n")
        while self.connection.until(b"\r\n"):
            pass
        return body

    def json(self) -> dict[str, object]:
        """The body, which has to be an object in JSON (else ValueError, TypeError)."""
        import json

        found = json.loads(self.body or b"{}")
        if not isinstance(found, dict):
            raise TypeError("the body is no object")
        return found

    def head(self, status: int, kind: str) -> str:
        """The first lines of an answer."""
        keep = "Connection: close" if self.last else "Keep-Alive: timeout=5, max=100"
        return (
            f"HTTP/1.1 {status} {_WORDS.get(status, 'Error')}\r\nServer: llama.cpp\r\n"
            f"Access-Control-Allow-Origin: *\r\n{keep}\r\nContent-Type: {kind}\r\n"
        )

    def answer(self, status: int, body: object, kind: str = JSON, more: str = "") -> None:
        """A whole answer; a body that is no text goes as JSON."""
        if not isinstance(body, str):
            import json

            body = json.dumps(body, separators=(",", ":"))
        data = body.encode()
        head = f"{self.head(status, kind)}{more}Content-Length: {len(data)}\r\n\r\n".encode("latin-1")
        self.connection.send(head if self.method == "HEAD" else head + data)

    def error(self, status: int, message: str, kind: str) -> None:
        """An error in the real shape."""
        self.answer(status, {"error": {"code": status, "message": message, "type": kind}})


def serve(fd: int, route: _Route) -> None:
    """Serve one connection to its end, as cpp-httplib does: so many requests, then it closes."""
    connection = Connection(fd)
    try:
        for left in range(int(number("KEEPALIVE", 100)), 0, -1):
            connection.patience(number("KEEPALIVE_S", 5))
            head = connection.until(b"\r\n\r\n")
            connection.patience()
            request = Request(connection, head, last=left == 1)
            while hanging("all"):
                connection.rest(0.02)
            route(request)
            if request.last:
                break
    except (LeftError, OSError):
        pass
    except (ValueError, IndexError):
        raw(b"fake: a request that makes no sense\n")
    finally:
        connection.close()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    _Route = Callable[[Request], None]
