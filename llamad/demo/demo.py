"""`llamad demo`: a small real model on a real llama.cpp engine behind llamad, without configuration, root or GPU.

Everything it writes is in one temporary folder, and everything it starts is below one child process; both are gone
when it ends, however it ends.
"""

import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import yaml

from llamad.config.options import BinaryError, probe_binary
from llamad.control.client import Client, Document
from llamad.demo.ask import ask
from llamad.demo.child import Daemon
from llamad.demo.engine import model_file, write_wrapper
from llamad.demo.screen import Screen
from llamad.errors import LlamadError, UnavailableError
from llamad.host.visible import visible_lines

QUESTION = "What is the capital of France? Answer in one sentence."
SERVER = "demo"
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 30.0
"""Seconds for what llamad does by itself."""
_STARTING = "Starting llamad"
_OPENING = "Opening the gateway"
_LONGEST_FOLDER = 60
"""Bytes; the sockets below it must stay under UNIX_PATH_LIMIT."""


class Interrupted(BaseException):
    """A person, or who started the demo, wants it to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def demo(*, once: bool) -> int:
    """Run the demo until it is interrupted, or with `once` until one question is answered; return the exit status.

    The answer, or what a person may try, goes to standard output, the progress to standard error. Raises LlamadError
    when something fails.
    """
    screen = Screen(sys.stderr)
    up = False
    try:
        with _interruptible(), _folder() as folder:
            port = _free_port()
            _write_config(folder, _engine(folder, screen, os.environ), model_file(), port)
            with Daemon(folder, os.environ) as daemon:
                _wait_ready(daemon, port, screen)
                up = True
                if once:
                    _ask_once(daemon, port, screen)
                else:
                    _invite(daemon, port)
                    _fail(daemon, f"llamad ended by itself with status {daemon.wait()}")
    except Interrupted as interrupted:
        screen.step("The demo has ended, nothing of it is left.")
        return 0 if up and not once else 128 + interrupted.number
    finally:
        screen.clear()
    return 0


def _engine(folder: Path, screen: Screen, environ: Mapping[str, str]) -> Path:
    """The llama-server of PATH where it works, else the embedded one."""
    found = shutil.which("llama-server", path=environ.get("PATH"))
    if found is not None:
        try:
            binary = probe_binary(found, cache=None, environ=environ)
        except BinaryError as error:
            screen.step(f"Not using {found}: {error.message}")
        else:
            screen.step(f"Engine: {binary.path}")
            return binary.path
    wrapper = write_wrapper(folder)
    screen.step("Engine: llama.cpp's server out of the xllamacpp package")
    return wrapper


def _write_config(folder: Path, engine: Path, model: Path, port: int) -> None:
    """The configuration a person would write for this, and short delays for ending."""
    config = {
        "llama_server": str(engine),
        "log": {"format": "text"},
        "gateway": {"listen": f"127.0.0.1:{port}"},
        "servers": {
            SERVER: {
                "model": str(model),
                "aliases": [model.stem],
                "args": {"ctx_size": 4096},
                "stop": {"drain_timeout": 1, "term_timeout": 5},
            }
        },
    }
    (folder / "llamad.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _wait_ready(daemon: Daemon, port: int, screen: Screen) -> None:
    """Return when the gateway takes requests; LlamadError when it never will. How long the model may take is for
    llamad to judge, what llamad itself may take is bounded here.
    """
    began = since = time.monotonic()
    doing = _STARTING
    screen.wait(doing)
    while not _answers(port):
        if (code := daemon.ended()) is not None:
            _fail(daemon, f"llamad ended with status {code} instead of starting")
        replica = _replica(daemon)
        if replica is not None and replica["state"] == "failed":
            _fail(daemon, f"the model's server failed: {replica['last_error']}", replica["hint"])
        before, doing = doing, _STARTING if replica is None else _doing(replica)
        if doing != before:
            since = time.monotonic()
        elif doing in (_STARTING, _OPENING) and time.monotonic() - since > PATIENCE:
            _fail(daemon, f"llamad got no further than this in {PATIENCE:.0f} s: {doing.lower()}")
        screen.wait(doing)
        time.sleep(0.1)
    screen.step(f"Ready after {time.monotonic() - began:.1f} s")


def _doing(replica: Document) -> str:
    match replica["state"]:
        case "backoff":
            return f"The engine ended ({replica['last_error']}) and is started again"
        case "loading":
            return "Loading the model"
        case "ready":
            return _OPENING
        case _:
            return "Starting the engine"


def _replica(daemon: Daemon) -> Document | None:
    """What llamad says of the model's server; None while it cannot be asked yet."""
    try:
        document = Client(daemon.control_socket).get("status")
    except UnavailableError:
        return None
    return next((replica for server in document["servers"] for replica in server["replicas"]), None)


def _answers(port: int) -> bool:
    """Whether the gateway says that the model answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/ready?model={SERVER}")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ask_once(daemon: Daemon, port: int, screen: Screen) -> None:
    screen.step(f"Asking: {QUESTION}")

    def show(piece: str) -> None:
        sys.stdout.write(visible_lines(piece))
        sys.stdout.flush()

    try:
        answer = ask(port, QUESTION, show, max_tokens=64, timeout=120)
    except LlamadError as error:
        _fail(daemon, error.message, error.hint)
    sys.stdout.write("\n")
    sys.stdout.flush()
    if not answer.text:
        _fail(daemon, "the answer was empty")
    if answer.tokens is not None and answer.tokens_per_s is not None:
        screen.step(f"{answer.tokens} tokens at {answer.tokens_per_s:.0f} tokens/s")


def _invite(daemon: Daemon, port: int) -> None:
    """What to try, for a person who has just seen it become ready."""
    url = f"http://127.0.0.1:{port}"
    body = json.dumps({"messages": [{"role": "user", "content": QUESTION}]})
    program = Path(sys.argv[0])
    llamad = shlex.quote(str(program)) if program.name == "llamad" else f"{shlex.quote(sys.executable)} -m llamad"
    print(
        f"\nllamad answers at {url} (for OpenAI clients: {url}/v1). Try:\n\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}\n\n"
        f"  {llamad} status --socket {shlex.quote(str(daemon.control_socket))}\n\n"
        f"In a browser: {url}/servers/{SERVER}/\n"
        "Ctrl-C ends it and removes everything it wrote.",
        flush=True,
    )


def _fail(daemon: Daemon, message: str, hint: str | None = None) -> NoReturn:
    raise LlamadError(f"{message}\nThe end of its log:\n{daemon.last_lines()}\n", hint=hint)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _folder() -> Iterator[Path]:
    """A private folder that is removed at the end, at a path short enough for unix sockets below it."""
    usual = tempfile.gettempdir()
    base = usual if len(os.fsencode(usual)) <= _LONGEST_FOLDER else "/tmp"
    with tempfile.TemporaryDirectory(prefix="llamad-demo-", dir=base, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, the first signal to end raises Interrupted; those after it are ignored, as ending is under way."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for end in _ENDS:
            signal.signal(end, signal.SIG_IGN)
        raise Interrupted(number)

    before = {end: signal.signal(end, interrupt) for end in _ENDS}
    try:
        yield
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)
