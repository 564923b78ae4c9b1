"""A real llamad over the demo's real engine and model, for the tests of this tier."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamad.control.client import Client
from llamad.demo.child import Daemon
from llamad.demo.engine import model_file, write_wrapper
from llamad.errors import UnavailableError
from tests.engine.ports import free_port

PATIENCE = 60.0
"""Seconds; loading takes half of one on an idle machine."""


@pytest.fixture(scope="session")
def model() -> Path:
    """The demo's model."""
    return model_file()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded engine as a program."""
    return write_wrapper(tmp_path_factory.mktemp("engine"))


class Llamad:
    """A running `llamad run` with one `llamad.yaml`, as an operator sees it."""

    def __init__(self, folder: Path, daemon: Daemon, base: dict[str, Any]) -> None:
        self.folder = folder
        self.daemon = daemon
        self.client = Client(daemon.control_socket)
        self._base = base

    @property
    def port(self) -> int:
        """The gateway's."""
        return int(str(self._base["gateway"]["listen"]).rpartition(":")[2])

    def write(self, servers: dict[str, dict[str, Any]]) -> None:
        """Put these servers into the file, in one step."""
        write_config(self.folder, self._base, servers)

    def replica(self, server: str) -> dict[str, Any]:
        """What llamad says of the one replica of a server."""
        document = self.client.get("status")
        one: dict[str, Any] = next(one for one in document["servers"] if one["name"] == server)["replicas"][0]
        return one

    def until(self, server: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return what is said of a server's replica once `condition` holds of it."""
        return until(lambda: self.replica(server), condition, self.daemon.last_lines)


def write_config(folder: Path, base: dict[str, Any], servers: dict[str, dict[str, Any]]) -> None:
    """`folder/llamad.yaml`, replaced as an editor does."""
    fresh = folder / ".llamad.yaml.new"
    fresh.write_text(yaml.safe_dump({**base, "servers": servers}))
    fresh.replace(folder / "llamad.yaml")


def until(
    ask: Callable[[], dict[str, Any]], condition: Callable[[dict[str, Any]], bool], why: Callable[[], str]
) -> dict[str, Any]:
    """Ask until the answer satisfies `condition`, and return it; fail with `why` when that takes too long."""
    deadline = time.monotonic() + PATIENCE
    answer: dict[str, Any] | None = None
    while time.monotonic() < deadline:
        try:
            answer = ask()
        except UnavailableError:
            answer = None
        if answer is not None and condition(answer):
            return answer
        time.sleep(0.02)
    raise AssertionError(f"it never came to that; last seen: {answer}\n{why()}")


@contextmanager
def running(engine: Path, servers: dict[str, dict[str, Any]]) -> Iterator[Llamad]:
    """A llamad that runs these servers, once it can be asked."""
    base = {
        "llama_server": str(engine),
        "log": {"format": "text"},
        "gateway": {"listen": f"127.0.0.1:{free_port()}"},
        "defaults": {
            "args": {"ctx_size": 2048},
            "restart": {"initial_delay": "50ms", "max_delay": "200ms"},
            "stop": {"drain_timeout": "1s", "term_timeout": "5s"},
        },
    }
    with tempfile.TemporaryDirectory(prefix="llamad-", dir="/tmp") as name:
        folder = Path(name)
        write_config(folder, base, servers)
        with Daemon(folder, os.environ) as daemon:
            llamad = Llamad(folder, daemon, base)
            until(lambda: llamad.client.get("status"), lambda _: True, daemon.last_lines)
            yield llamad


@pytest.fixture
def start(engine: Path) -> Iterator[Callable[[dict[str, dict[str, Any]]], Llamad]]:
    """Start a llamad with these servers; it ends with the test."""
    with ExitStack() as stack:
        yield lambda servers: stack.enter_context(running(engine, servers))
