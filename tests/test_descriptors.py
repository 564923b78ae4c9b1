"""File descriptors under attack: clients without a key have them all, and no model pays for it."""

import http.client
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon
HEALTH = {"interval": "1s", "timeout": "1s", "hang_timeout": "2s", "failures": 2}


@pytest.fixture
def many() -> Iterator[None]:
    """This process may hold more connections than the llamad that it attacks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def a_small_llamad(limit: str, gateway: Path) -> Iterator[Llamad]:
    with a_llamad() as one:
        (one.folder / "keys").write_text("ann:k\n")
        listen = {"listen": f"unix:{gateway}", "api_keys_file": "keys"}
        one.configure({"a": {"health": HEALTH}, "b": {"health": HEALTH}}, gateway=listen)
        one.descriptors = limit
        one.start()
        for name in ("a", "b"):
            one.wait_for(name)
        yield one


class Crowd:
    """Connections that are opened and never used, the oldest of `size` closed for each new one."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.held: deque[socket.socket] = deque()

    def push(self, count: int) -> None:
        """Open `count` more, as far as it goes."""
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            self.held.append(sock)
            with suppress(OSError):  # there may be no room in the backlog: that is what is asked for
                sock.connect(str(self.path))
            if len(self.held) > self.size:
                self.held.popleft().close()

    def leave(self) -> None:
        for sock in self.held:
            sock.close()


def status_of(path: Path) -> int:
    """What a client with a key is answered; it is let in within five seconds."""
    connection = http.client.HTTPConnection("llamad")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(str(path))
        body = '{"model": "a", "messages": []}'
        connection.request("POST", "/v1/chat/completions", body, {"Authorization": "Bearer k"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("limit", ["256:512", "1024:1024"])
def test_clients_that_take_every_descriptor_cost_no_model(tmp_path: Path, limit: str) -> None:
    """1,100 idle connections without a key made a probe that could not be sent a hung server, and a killed child was
    noticed after 28 s.
    """
    gateway = Path(f"/tmp/llamad-{os.getpid()}-{limit.replace(':', '-')}.sock")
    with a_small_llamad(limit, gateway) as one:
        pids = {name: one.status(name)["pid"] for name in ("a", "b")}
        crowd = Crowd(gateway, 1100)
        try:
            until, asked = time.monotonic() + 6, 0
            while time.monotonic() < until:
                crowd.push(100)
                assert status_of(gateway) == 200
                asked += 1
            assert asked > 10
            assert {name: one.status(name)["pid"] for name in pids} == pids
            os.kill(pids["b"], signal.SIGKILL)
            wait_until(lambda: one.status("b").get("pid") not in (None, pids["b"]), seconds=3)
            crowd.push(100)
            assert one.wait_for("b")["restarts"] == 1
            assert one.client.post("reload", wait=True)["steps"]
            assert one.wait_for("a")["pid"] == pids["a"]
        finally:
            crowd.leave()
        assert one.end() == 0
        assert len(one.log.splitlines()) < 200
        assert "Traceback" not in one.log
        assert one.events("idle ones are closed")


def test_children_get_the_limit_that_llamad_had(tmp_path: Path) -> None:
    """A program that uses select(2) breaks with more than 1,024."""
    with a_small_llamad("300:2000", tmp_path / "g") as one:
        assert one.process is not None
        for pid, soft in ((one.process.pid, "2000"), (one.status("a")["pid"], "300")):
            lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
            assert next(line for line in lines if line.startswith("Max open files")).split()[3:5] == [soft, "2000"]
        assert one.end() == 0
