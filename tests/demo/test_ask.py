"""One question, and every way it may go wrong."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llamad.demo.ask import ask
from llamad.errors import LlamadError


def an_event(**keys: object) -> bytes:
    return b"data: " + json.dumps(keys).encode() + b"\n\n"


def a_piece(text: str | None) -> bytes:
    return an_event(choices=[{"delta": {"content": text} if text is not None else {"role": "assistant"}}])


END = b"data: [DONE]\n\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    status = 200
    body = b""
    asked: dict[str, object]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.asked = {"path": self.path, **json.loads(self.rfile.read(length))}
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(body: bytes, status: int = 200) -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.status, server.body = status, body
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ignore(_piece: str) -> None:
    """Show nothing."""


def ask_it(server: _Server, show: Callable[[str], None] = ignore) -> object:
    return ask(server.server_port, "Why?", show, max_tokens=7, timeout=5)


def test_pieces_are_shown_as_they_come_and_figures_are_the_servers() -> None:
    shown: list[str] = []
    figures = {"predicted_n": 2, "predicted_per_second": 84.5}
    body = a_piece(None) + a_piece("Be") + a_piece("cause.") + an_event(choices=[], timings=figures) + END
    with serving(body) as server:
        answer = ask(server.server_port, "Why?", shown.append, max_tokens=7, timeout=5)
    assert shown == ["Be", "cause."]
    assert (answer.text, answer.tokens, answer.tokens_per_s) == ("Because.", 2, 84.5)
    assert server.asked["path"] == "/v1/chat/completions"
    assert server.asked["messages"] == [{"role": "user", "content": "Why?"}]
    assert (server.asked["stream"], server.asked["max_tokens"]) == (True, 7)


def test_figures_may_be_absent() -> None:
    with serving(a_piece("x") + END) as server:
        answer = ask(server.server_port, "Why?", ignore, max_tokens=7, timeout=5)
    assert (answer.tokens, answer.tokens_per_s) == (None, None)


def test_a_refusal_says_why() -> None:
    with (
        serving(b'{"error": {"message": "no such model"}}', 404) as server,
        pytest.raises(LlamadError, match=r"^the question was answered with 404: no such model$"),
    ):
        ask_it(server)


def test_a_refusal_in_no_known_shape_is_shown_as_it_is() -> None:
    with (
        serving(b"<h1>oh</h1>", 502) as server,
        pytest.raises(LlamadError, match=r"^the question was answered with 502: <h1>oh</h1>$"),
    ):
        ask_it(server)


def test_an_error_event_ends_it() -> None:
    with (
        serving(a_piece("Be") + an_event(error={"message": "the server ended"})) as server,
        pytest.raises(LlamadError, match=r"^the answer broke off: the server ended$"),
    ):
        ask_it(server)


def test_a_silent_end_is_no_answer() -> None:
    with (
        serving(a_piece("Be")) as server,
        pytest.raises(LlamadError, match=r"^the answer broke off before its end$"),
    ):
        ask_it(server)


def test_nobody_there() -> None:
    with serving(b"") as server:
        port = server.server_port
    with pytest.raises(LlamadError, match=r"^the question got no answer: ConnectionRefusedError"):
        ask(port, "Why?", ignore, max_tokens=7, timeout=5)
