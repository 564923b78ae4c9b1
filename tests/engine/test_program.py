"""The embedded engine as a program: what llamad relies on in a llama-server, it does."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamad.config.options import probe_binary
from llamad.demo.engine import _LLAMA_EXAMPLE_SERVER, _address, _parse
from tests.config.test_public_uses import USES
from tests.engine.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.engine


def run(engine: Path, *words: str | Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [engine, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environ or {})},
    )


@contextmanager
def serving(engine: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([engine, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def health(connection: http.client.HTTPConnection, path: str = "/health") -> int:
    """The status of /health (or `path`), 0 while nobody answers."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except OSError:
        return 0
    finally:
        connection.close()
    return answer.status


def until_healthy(connection: http.client.HTTPConnection) -> set[int]:
    seen: set[int] = set()
    deadline = time.monotonic() + 60
    while 200 not in seen:
        assert time.monotonic() < deadline, seen
        seen.add(health(connection))
    return seen


def until_it_ends_in_order(process: subprocess.Popen[bytes], connection: http.client.HTTPConnection) -> None:
    """It is healthy a moment before it has taken over its signals (proc(5), SigCgt), and forgets one that comes before
    its queue runs, which answers /slots.
    """
    bit = 1 << (signal.SIGTERM - 1)
    deadline = time.monotonic() + 60
    while not int(Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1].split()[0], 16) & bit:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert health(connection, "/slots") == 200


def test_its_help_is_llama_servers(engine: Path) -> None:
    options = probe_binary(str(engine), cache=None, environ=os.environ).options
    for key in ("ctx_size", "n-gpu-layers", "--flash-attn", "jinja", "host", "port", "model", "metrics", "slots"):
        assert options.find(key) is not None, key
    assert options.find("made-up") is None


ELSEWHERE = ("CUDA", "--rpc")
"""What needs a GPU, or a build with RPC."""


def test_the_words_of_what_people_use_are_taken(engine: Path) -> None:
    """By llama.cpp's own parser, which says so where a value would not count."""
    for use, words in USES.items():
        if not any(one in words for one in ELSEWHERE):
            ended = run(engine, *(word.replace("~", " ") for word in words.split()), "--version")
            assert ended.returncode == 0, (use, ended.stderr)
            assert "DEPRECATED" not in ended.stderr + ended.stdout, (use, ended.stderr)


def test_an_option_that_is_repeated_counts_once(engine: Path) -> None:
    """Which is why a list becomes one word, or is refused. On a busy machine its logger loses a line now and then."""

    def says_so() -> bool:
        ended = run(engine, "--override-kv", "a=int:1", "--override-kv", "b=int:1", "--version")
        return "only last value will be used" in ended.stderr + ended.stdout

    wait_until(says_so)


def test_an_unknown_option_ends_it_with_1(engine: Path) -> None:
    ended = run(engine, "--made-up")
    assert ended.returncode == 1
    assert ended.stderr == "error: invalid argument: --made-up\n"


def test_a_wrong_value_ends_it_with_1(engine: Path) -> None:
    ended = run(engine, "--ctx-size", "many")
    assert ended.returncode == 1
    assert '"--ctx-size"' in ended.stderr


def test_options_come_from_the_environment_too(engine: Path) -> None:
    ended = run(engine, environ={"LLAMA_ARG_CTX_SIZE": "many"})
    assert ended.returncode == 1
    assert "LLAMA_ARG_CTX_SIZE" in ended.stderr


def test_without_a_model_it_ends_with_1(engine: Path) -> None:
    ended = run(engine, "--port", str(free_port()))
    assert ended.returncode == 1
    assert "no model given" in ended.stderr


@pytest.mark.parametrize("kind", ["missing", "truncated", "other"])
def test_a_model_it_cannot_load_ends_it_with_1_and_the_reason(
    kind: str, engine: Path, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    if kind == "truncated":
        with model.open("rb") as whole:
            file.write_bytes(whole.read(200_000))
    elif kind == "other":
        file.write_text("hello, I am no model")
    ended = run(engine, "--model", file, "--port", str(free_port()))
    reason = {
        "missing": "No such file or directory",
        "truncated": "failed to read key-value pairs",
        "other": "invalid magic characters",
    }
    assert ended.returncode == 1
    assert reason[kind] in ended.stderr
    assert "E srv          init: exiting due to model loading error" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_ends_it_with_1(engine: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(engine, "--model", model, "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert "couldn't bind" in ended.stderr


def test_it_says_that_it_loads_then_serves_then_ends_promptly(engine: Path, model: Path) -> None:
    port = free_port()
    with serving(engine, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--ctx-size", "512") as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        assert 503 in until_healthy(connection)
        until_it_ends_in_order(process, connection)
        began = time.monotonic()
        process.terminate()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 2


def test_it_listens_on_a_unix_socket(engine: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with serving(engine, "--model", model, "--host", path, "--ctx-size", "512") as process:
        connection = UnixConnection(path)
        until_healthy(connection)
        until_it_ends_in_order(process, connection)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert path.exists()  # as the real one leaves it


def test_sigterm_kills_it_while_it_loads(engine: Path, model: Path) -> None:
    port = free_port()
    with serving(engine, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--ctx-size", "512") as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while health(connection) == 0:
            assert process.poll() is None
        process.terminate()
        assert process.wait(30) in (-signal.SIGTERM, 0)  # 0: it was just ready


def test_the_parser_fills_the_parameters_it_is_given(capfd: pytest.CaptureFixture[str]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    library = xllamacpp.xllamacpp.__file__
    words = ["--model", "a b.gguf", "--port", "4711", "--host", "/tmp/x.sock", "--ctx-size", "123", "--no-slots"]
    assert _parse(library, params, words)
    assert (params.model.path, params.port, list(params.hostnames)) == ("a b.gguf", 4711, ["/tmp/x.sock"])
    assert (params.n_ctx, params.endpoint_slots) == (123, False)
    assert params.n_predict == -1
    assert not _parse(library, xllamacpp.CommonParams(), ["--made-up"])
    ctypes.CDLL(None).fflush(None)
    assert "invalid argument: --made-up" in capfd.readouterr().err


def test_the_address_is_that_of_the_parameters() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.n_predict = 77
    assert ctypes.c_int32.from_address(_address(params)).value == 77
    assert params.n_predict == 77
    assert _LLAMA_EXAMPLE_SERVER == 12
