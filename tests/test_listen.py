"""What the gateway listens on, changed by a reload: the new is bound before the old is closed, or nothing changes."""

import http.client
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamad.control.client import RefusedError
from llamad.errors import ExitCode
from llamad.gateway.listen import STORED, descriptor_name
from llamad.gateway.socketunit import listens
from llamad.host.address import TcpAddress
from tests.llamads import Llamad, a_llamad
from tests.service_manager import service_manager
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def answers(port: int, path: str = "/health") -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def listening(llamad: Llamad, listen: Any, **server: Any) -> None:
    llamad.configure({"a": server}, gateway={"listen": listen, "insecure": True})


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def llamad(port: int) -> Iterator[Llamad]:
    with a_llamad() as one:
        listening(one, f"127.0.0.1:{port}")
        one.start()
        one.wait_for("a")
        wait_until(lambda: answers(port))
        yield one
        assert one.end() == 0


def test_what_cannot_be_bound_refuses_the_reload_and_closes_nothing(llamad: Llamad, port: int, tmp_path: Path) -> None:
    """`127.0.0.1:80` was accepted, and the gateway was dead."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        (tmp_path / "file").touch()
        for address, why in (
            (taken, "something else listens there"),
            ("192.0.2.1:8080", "this machine does not have that IP address"),
            ("no-such-host.invalid:8080", ""),
            ("unix:/nowhere/at/all", "No such file or directory"),
            (f"unix:{tmp_path}/file", "something else listens there"),
        ):
            for listen in (address, [f"127.0.0.1:{port}", address]):
                listening(llamad, listen)
                for verb in ("plan", "reload"):
                    with pytest.raises(RefusedError) as refused:
                        llamad.client.get(verb) if verb == "plan" else llamad.client.post(verb, wait=True)
                    assert refused.value.exit_code is ExitCode.CONFIG
                    (line,) = refused.value.problems
                    assert line.startswith(f"{llamad.file}:")
                    assert f": cannot listen on {address}: {why}" in line
                    assert "gateway.listen" in line
                assert answers(port)
    listening(llamad, f"127.0.0.1:{port}")
    assert llamad.client.post("reload")["problems"] == []


def test_the_port_stays_while_its_address_changes(llamad: Llamad, port: int) -> None:
    for host in ("0.0.0.0", "127.0.0.1", "localhost", "0.0.0.0"):
        listening(llamad, f"{host}:{port}")
        llamad.client.post("reload", wait=True)
        wait_until(lambda host=host: llamad.events(f"listening on {host}:{port}"))  # type: ignore[misc]
        assert answers(port)
    assert llamad.client.get("status")["config"]["error"] is None


def test_a_reload_that_waits_is_over_when_the_new_port_answers(llamad: Llamad, port: int) -> None:
    for _ in range(5):
        fresh = free_port()
        listening(llamad, [f"127.0.0.1:{port}", f"127.0.0.1:{fresh}"])
        llamad.client.post("reload", wait=True)
        assert answers(fresh)


def test_the_gateway_and_a_server_swap_their_ports(llamad: Llamad, port: int) -> None:
    other = free_port()
    listening(llamad, f"127.0.0.1:{port}", port=other)
    llamad.client.post("reload", wait=True)
    llamad.wait_for("a")
    assert answers(other, "/slots")
    listening(llamad, f"127.0.0.1:{other}", port=port)
    llamad.client.post("reload")
    wait_until(lambda: answers(other, "/v1/models") and answers(port, "/slots"), seconds=20)
    llamad.wait_for("a")


def test_at_a_start_what_cannot_be_bound_is_tried_again(tmp_path: Path, port: int) -> None:
    with a_llamad() as one:
        with socket.create_server(("127.0.0.1", port)):
            listening(one, f"127.0.0.1:{port}")
            one.start()
            one.wait_for("a")
            wait_until(lambda: one.events("something else listens there; trying again"))
            listening(one, f"127.0.0.1:{port}", aliases=["again"])  # nothing new about what does not work yet
            assert one.client.post("reload")["problems"] == []
        wait_until(lambda: answers(port))
        assert one.end() == 0


def test_what_systemd_keeps_of_an_old_address_takes_no_client(port: int) -> None:
    """It is a socket that listens like the one that was closed, and nobody takes its connections."""
    with service_manager() as manager, a_llamad(manager) as one:
        listening(one, f"127.0.0.1:{port}")
        one.start()
        one.wait_for("a")
        name = descriptor_name(TcpAddress("127.0.0.1", port))
        wait_until(lambda: manager.pump() and name in manager.stored)
        for host in ("0.0.0.0", "127.0.0.1", "0.0.0.0"):
            listening(one, f"{host}:{port}")
            one.client.post("reload", wait=True)
            wait_until(lambda host=host: one.events(f"listening on {host}:{port}"))  # type: ignore[misc]
            for _ in range(20):
                assert answers(port)  # whatever systemd has done by now
            one.log_file.write_text("")
        now = descriptor_name(TcpAddress("0.0.0.0", port))

        def kept() -> bool:
            """It keeps the one that listens now."""
            manager.pump()
            stored = {name: fds for name, fds in manager.stored.items() if name.startswith(STORED)}
            return list(stored) == [now] and [listens(fd) for fd in stored[now]] == [True]

        wait_until(kept)
        assert one.end() == 0


def test_a_lame_duck_says_so_and_answers_until_its_time_is_over(port: int) -> None:
    """A stop closed the port at once, and a balancer sent requests into a closed port until its next check."""
    with service_manager() as manager, a_llamad(manager) as one:
        one.configure({"a": {}}, gateway={"listen": f"127.0.0.1:{port}", "lame_duck": "3s"})
        one.start()
        one.wait_for("a")
        wait_until(lambda: answers(port, "/ready"))
        manager.wait_for("READY=1")
        began = time.monotonic()
        one.send(signal.SIGTERM)
        wait_until(lambda: not answers(port, "/ready"))
        assert answers(port, "/v1/models")
        assert answers(port, "/servers/a/props")
        assert one.events("lame duck: /ready says no, and requests are taken for another 3s")
        manager.wait_for("EXTEND_TIMEOUT_USEC=")
        assert one.wait() == 0
        assert time.monotonic() - began >= 3
        assert not answers(port)


def test_an_upgrade_is_no_lame_duck(port: int) -> None:
    """Its successor has the port: clients wait, and need go nowhere else."""
    with service_manager() as manager, a_llamad(manager) as one:
        one.configure({"a": {}}, gateway={"listen": f"127.0.0.1:{port}", "lame_duck": "1h"})
        one.start()
        pid = one.wait_for("a")["pid"]
        wait_until(lambda: answers(port, "/ready"))
        one.client.post("upgrade")
        assert one.wait() == 0
        one.start()
        assert one.wait_for("a")["pid"] == pid
        one.send(signal.SIGKILL)
        one.wait()
