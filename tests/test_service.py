"""`llamad run` as a service: what systemd is told, and what it keeps for the next llamad."""

import fcntl
import http.client
import os
import signal
import socket
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llamad.control.client import RefusedError
from llamad.errors import ExitCode
from llamad.host.pidfd import open_pidfd
from llamad.reap import comes_back
from tests.llamads import Llamad, a_llamad
from tests.service_manager import ServiceManager, service_manager
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with service_manager() as one:
        yield one


@pytest.fixture
def llamad(manager: ServiceManager) -> Iterator[Llamad]:
    with a_llamad(manager) as one:
        yield one


def count(manager: ServiceManager, message: str) -> int:
    return sum(one.startswith(message) for one in manager.pump())


def unread(pipe: int) -> int:
    """Bytes that wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_systemd_is_told_the_truth_from_start_to_end(llamad: Llamad, manager: ServiceManager) -> None:
    gate = llamad.folder / "gate"
    llamad.configure({"a": {"env": {"FAKE_LOAD_FILE": str(gate)}}, "bad": {"model": "/nowhere/b.gguf"}})
    llamad.start(WATCHDOG_USEC="100000")
    wait_until(lambda: "loading" in manager.status())
    manager.wait_for("EXTEND_TIMEOUT_USEC=")
    manager.wait_for("WATCHDOG=1")
    assert count(manager, "READY=1") == 0
    gate.touch()
    manager.wait_for("READY=1")
    wait_until(lambda: manager.status() == "1/2 ready; bad failed: the model /nowhere/b.gguf is not there")
    assert llamad.client.get("status")["ready"] is True

    pings = count(manager, "WATCHDOG=1")
    wait_until(lambda: count(manager, "WATCHDOG=1") >= pings + 3)

    llamad.send(signal.SIGHUP)
    manager.wait_for("RELOADING=1\nMONOTONIC_USEC=")
    wait_until(lambda: count(manager, "READY=1") == 2)

    llamad.write("servers: [")
    llamad.send(signal.SIGHUP)
    wait_until(lambda: manager.status().startswith("configuration refused: "))
    wait_until(lambda: count(manager, "READY=1") == count(manager, "RELOADING=1") + 1)

    llamad.send(signal.SIGTERM)
    assert llamad.wait() == 0
    assert manager.messages[-1] == "BARRIER=1"
    after = manager.messages[manager.messages.index("STOPPING=1") :]
    assert not any(one.startswith(("READY", "RELOADING")) for one in after)
    assert any(one.startswith("EXTEND_TIMEOUT_USEC=") for one in after)
    assert any(one.startswith("STATUS=stopping: no request runs; configuration refused: ") for one in after)
    assert len(llamad.events("info    llamad: stopping: no request runs")) == 1
    assert manager.stored == {}


def test_a_broken_file_at_the_start_is_no_ready(llamad: Llamad, manager: ServiceManager) -> None:
    llamad.write("servers: [")
    llamad.start()
    assert llamad.wait() == ExitCode.CONFIG
    assert count(manager, "READY=1") == 0


def test_a_crash_of_llamad_costs_no_model(llamad: Llamad, manager: ServiceManager) -> None:
    llamad.configure({"a": {"env": {"FAKE_FLOOD": "40"}}, "b": {}, "s": {}})
    llamad.start()
    manager.wait_for("READY=1")
    llamad.client.post("servers", "s", "stop", wait=True)
    first = {name: llamad.status(name) for name in ("a", "b")}
    manager.pump()
    assert len(manager.stored) == 6

    llamad.end(signal.SIGKILL)
    (log,) = manager.stored["log-a-0-0"]
    before = unread(log)
    wait_until(lambda: unread(log) > before + 200)  # the flood goes on while nobody reads
    foreign = socket.socket(socket.AF_UNIX)
    manager.stored["pid-x-0-0"] = [os.dup(foreign.fileno())]
    manager.stored["something"] = [os.dup(foreign.fileno())]
    foreign.close()
    llamad.start()
    again = {name: llamad.wait_for(name) for name in ("a", "b")}
    for name, one in again.items():
        assert one["pid"] == first[name]["pid"]
        assert one["restarts"] == 0
        assert one["uptime_s"] > first[name]["uptime_s"]
    numbers = [
        int(line["text"].rpartition(" ")[2])
        for line in llamad.client.lines("servers", "a", "logs")
        if "line " in line["text"]
    ]
    assert len(numbers) >= 4, "what was written meanwhile is read"
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert llamad.status("s")["wanted"] == "stopped"
    wait_until(lambda: manager.pump() and "pid-x-0-0" not in manager.stored)
    assert len(llamad.events("pid-x-0-0")) == 1
    assert len(llamad.events("'something'")) == 1

    llamad.end(signal.SIGKILL)
    llamad.configure({"a": {}, "b": {}, "c": {}})  # edited while nobody looked: applied as a reload
    llamad.start()
    llamad.wait_for("c")
    assert llamad.wait_for("b")["pid"] == first["b"]["pid"]
    wait_until(lambda: llamad.status("a").get("pid") not in (None, first["a"]["pid"]))
    a = llamad.wait_for("a")["pid"]
    os.kill(first["b"]["pid"], signal.SIGKILL)  # not its child: noticed all the same
    wait_until(lambda: llamad.status("b").get("pid") not in (None, first["b"]["pid"]))
    b = llamad.wait_for("b")
    wait_until(lambda: manager.pump() and "pid-b-0-0" not in manager.stored)

    llamad.end(signal.SIGKILL)
    llamad.write("servers: [")
    llamad.start()
    assert [llamad.wait_for("a")["pid"], llamad.wait_for("b")["pid"]] == [a, b["pid"]]
    assert "llamad.yaml:1:1" in llamad.client.get("status")["config"]["error"]

    llamad.end(signal.SIGKILL)
    llamad.write("")  # a mistake, and not a wish, at a restart too
    llamad.start()
    assert [llamad.wait_for("a")["pid"], llamad.wait_for("b")["pid"]] == [a, b["pid"]]
    assert "the file is empty" in llamad.client.get("status")["config"]["error"]
    assert llamad.end() == 0
    assert manager.stored == {}


def test_words_of_clients_from_before_a_crash_of_llamad_decide_nothing_after_it(
    llamad: Llamad, manager: ServiceManager
) -> None:
    """What a ready server wrote while nobody read it is read by the next llamad."""
    says = "x\\nwarning: no usable GPU found\\nerror: invalid argument: --x\\n0.1 E no kernel image is available\\n"
    llamad.configure({"a": {"gpus": "all", "env": {"FAKE_FLOOD": "40", "FAKE_FLOOD_TEXT": says}}})
    llamad.start()
    manager.wait_for("READY=1")
    pid = llamad.status("a")["pid"]
    llamad.end(signal.SIGKILL)
    (log,) = manager.stored["log-a-0-0"]
    before = unread(log)
    wait_until(lambda: unread(log) > before + 500)
    llamad.start()
    assert llamad.wait_for("a")["pid"] == pid
    os.kill(pid, signal.SIGABRT)
    wait_until(lambda: llamad.status("a").get("pid") not in (None, pid))
    llamad.wait_for("a")
    assert not llamad.events("gpu-missing")
    assert not llamad.events("invalid argument (")
    assert not llamad.events("not built for this GPU")
    assert llamad.end() == 0


def test_a_restart_without_the_program_costs_no_model(llamad: Llamad) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    llamad.end(signal.SIGKILL)
    away = llamad.binary.with_suffix(".away")
    llamad.binary.rename(away)  # a package is being upgraded
    llamad.start()
    seen = llamad.wait_for("a")
    assert seen["pid"] == pid
    assert seen["notice"].startswith("it goes on, but could not be started again: ")
    away.rename(llamad.binary)
    llamad.client.post("reload")
    wait_until(lambda: llamad.status("a").get("notice") is None)
    assert llamad.wait_for("a")["pid"] == pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: llamad.status("a").get("pid") not in (None, pid))
    assert llamad.end() == 0


def test_a_restart_without_the_keys_costs_no_model_and_lets_nobody_in(llamad: Llamad, manager: ServiceManager) -> None:
    keys, path = llamad.folder / "keys", llamad.folder / "g"
    keys.write_text("ann:k\n")
    llamad.configure({"a": {}}, gateway={"listen": f"unix:{path}", "api_keys_file": "keys"})

    def status_of(key: str) -> int:
        connection = http.client.HTTPConnection("llamad")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        status = connection.getresponse().status
        connection.close()
        return status

    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    assert [status_of("k"), status_of("nonsense")] == [200, 401]
    for damage in (lambda: keys.write_text("nonsense\n"), keys.unlink):
        llamad.end(signal.SIGKILL)
        damage()
        llamad.start()
        assert llamad.wait_for("a")["pid"] == pid
        wait_until(lambda: f"{keys}" in manager.status())
        assert [status_of("k"), status_of("nonsense"), status_of("")] == [401, 401, 401]
    keys.write_text("ann:new\n")  # saved is enough
    wait_until(lambda: [status_of("k"), status_of("new")] == [401, 200])
    assert llamad.events("gateway: the API keys changed: +ann")
    keys.write_text("bob:other\n")
    assert llamad.client.get("plan")["settings"] == ["gateway: the API keys changed: +bob -ann"]
    wait_until(lambda: [status_of("new"), status_of("other")] == [401, 200])
    keys.write_text("nonsense\n")
    wait_until(lambda: f"{keys}:1:1" in manager.status())
    assert status_of("other") == 200
    keys.write_text("bob:third\n")
    wait_until(lambda: [status_of("other"), status_of("third")] == [401, 200])
    assert f"{keys}" not in manager.status()
    assert llamad.wait_for("a")["pid"] == pid
    assert llamad.end() == 0


def test_an_upgrade_that_could_not_keep_the_servers_is_refused(llamad: Llamad) -> None:
    """Without its mark `llamad reap` would end them."""
    llamad.configure({"a": {}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    (llamad.runtime / "keep").symlink_to("/nowhere/keep")
    with pytest.raises(RefusedError, match=r"cannot write .*/keep: No such file or directory \(nothing was ended\)"):
        llamad.client.post("upgrade")
    assert llamad.status("a")["pid"] == pid
    (llamad.runtime / "stopping").symlink_to("/nowhere/stopping")
    assert llamad.end() == 0
    assert llamad.events(f"cannot write {llamad.runtime}/stopping: No such file or directory")
    assert "Traceback" not in llamad.log


def test_an_upgrade_leaves_the_servers_to_the_next_llamad(llamad: Llamad, manager: ServiceManager) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    llamad.client.post("upgrade")
    assert llamad.wait() == 0
    assert (llamad.runtime / "keep").exists()
    assert count(manager, "STOPPING=1") == 0
    llamad.start()
    assert llamad.wait_for("a")["pid"] == pid
    assert llamad.end() == 0


FAULTS = {
    "a part beside the fleet": "from llamad.reporter import Reporter as One; name = 'line'",
    "the life of the daemon": "from llamad.daemon import Daemon as One; name = '_live'",
    "what keeps the gateway at the configuration": "from llamad.front import Front as One; name = '_store'",
    "a task of the gateway": "from llamad.gateway.admission import Queues as One; name = '_ensure_ready'",
}
"""What is broken, and where: a method that raises once the file `fault` is there."""
BROKEN = """
import inspect, os
{where}
usual = getattr(One, name)
def raise_it():
    if os.path.exists({flag!r}):
        raise KeyError("a fault")
def broken(*args):
    raise_it()
    return usual(*args)
async def broken_task(*args):
    raise_it()
    return await usual(*args)
setattr(One, name, broken_task if inspect.iscoroutinefunction(usual) else broken)
"""


def with_fault(llamad: Llamad, where: str) -> dict[str, str]:
    """The environment in which llamad's code is broken at that place, once `fault` is there."""
    code = BROKEN.format(where=FAULTS[where], flag=str(llamad.folder / "fault"))
    (llamad.folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{llamad.folder}:{Path(__file__).parents[1]}"}


def ask(path: Path, model: str) -> None:
    """A request by the gateway's unix socket; whatever becomes of it."""
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
        sock.settimeout(10)
        sock.connect(str(path))
        body = f'{{"model":"{model}","prompt":"x"}}'
        sock.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        sock.recv(1)


@pytest.mark.parametrize("where", FAULTS)
def test_a_llamad_that_ends_by_its_own_bug_leaves_its_servers_to_the_next(
    where: str, llamad: Llamad, manager: ServiceManager
) -> None:
    """As a crash does: with a status that systemd restarts after, nothing stopped, everything in the store."""
    gateway = llamad.folder / "g"
    llamad.configure({"a": {}, "d": {"start": "on-demand"}}, gateway={"listen": f"unix:{gateway}"})
    fault = llamad.folder / "fault"
    if where == "the life of the daemon":  # it is in it from the start on: an earlier one has left the server
        llamad.start()
        pid = llamad.wait_for("a")["pid"]
        llamad.end(signal.SIGKILL)
        fault.touch()
        llamad.start(**with_fault(llamad, where))
    else:
        llamad.start(**with_fault(llamad, where))
        manager.wait_for("READY=1")
        pid = llamad.wait_for("a")["pid"]
        fault.touch()
        if where == "a task of the gateway":
            ask(gateway, "d")
        else:
            llamad.send(signal.SIGHUP)  # STATUS is told anew
    assert llamad.wait() == ExitCode.SOFTWARE
    assert "KeyError: 'a fault'" in llamad.log
    assert manager.status() == "a bug in llamad: the servers go on"
    assert count(manager, "STOPPING=1") == 0
    assert {"pid-a-0-0", "log-a-0-0"} <= manager.stored.keys()
    assert comes_back(
        {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "70"}, keep=False, stopping=False
    )
    fault.unlink()
    llamad.start()
    assert llamad.wait_for("a")["pid"] == pid
    assert llamad.end() == 0


def test_a_strict_start_that_takes_servers_over_ends_none_of_them(llamad: Llamad, manager: ServiceManager) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    llamad.end(signal.SIGKILL)
    llamad.configure({"a": {}, "b": {"model": "/nowhere/b.gguf"}}, startup="strict")
    llamad.start()
    manager.wait_for("READY=1")
    wait_until(lambda: "b failed: the model /nowhere/b.gguf is not there" in manager.status())
    assert llamad.wait_for("a")["pid"] == pid
    assert llamad.end() == 0


def test_a_strict_start_that_fails_tells_systemd_that_it_ends(llamad: Llamad, manager: ServiceManager) -> None:
    """Its servers may take their time to end: more than a start may."""
    llamad.configure({"a": {}, "b": {"model": "/nowhere/b.gguf"}}, startup="strict")
    llamad.start()
    assert llamad.wait() == ExitCode.UNAVAILABLE
    assert count(manager, "READY=1") == 0
    assert count(manager, "STOPPING=1") == 1
    assert manager.stored == {}


def test_a_bug_that_meets_a_llamad_on_its_way_out_ends_its_servers(llamad: Llamad, manager: ServiceManager) -> None:
    """systemd does not start it again then, and nobody would take them over."""
    llamad.configure({"a": {"env": {"FAKE_IGNORE_TERM": "1"}, "stop": {"term_timeout": "1s"}}})
    llamad.start(**with_fault(llamad, "a part beside the fleet"))
    manager.wait_for("READY=1")
    llamad.wait_for("a")
    (llamad.folder / "fault").touch()
    assert llamad.end() == ExitCode.SOFTWARE
    assert manager.stored == {}


def test_a_stop_goes_before_an_upgrade_that_waits_for_requests(llamad: Llamad, manager: ServiceManager) -> None:
    """After a stop nobody starts llamad again, so that no server may stay."""
    gateway = llamad.folder / "g"
    slow = {"env": {"FAKE_CHUNKS": "1000", "FAKE_CHUNK_DELAY": "0.1"}, "stop": {"drain_timeout": "5s"}}
    llamad.configure({"a": slow}, gateway={"listen": f"unix:{gateway}"})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(gateway))
        body = '{"model":"a","prompt":"x","stream":true,"max_tokens":1000}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body.encode())
        assert sock.recv(1)
        llamad.client.post("upgrade")
        assert (llamad.runtime / "keep").exists()
        llamad.send(signal.SIGTERM)
        assert llamad.wait() == 0
    assert not (llamad.runtime / "keep").exists()
    assert not [name for name in manager.stored if name.startswith("pid-")]
    wait_until(lambda: open_pidfd(pid) is None)


def test_a_start_ends_what_systemd_did_not_keep(llamad: Llamad, manager: ServiceManager) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    pid = llamad.wait_for("a")["pid"]
    llamad.end(signal.SIGKILL)
    manager.pump()
    for fd in manager.stored.pop("log-a-0-0"):
        os.close(fd)
    llamad.start()
    assert llamad.wait_for("a")["pid"] != pid
    assert llamad.events(f"a-0-0 of an earlier llamad still runs as pid {pid}: ending it")
    assert llamad.end() == 0


def test_what_was_stopped_stays_stopped_over_a_crash_and_not_over_a_restart(llamad: Llamad) -> None:
    llamad.configure({"a": {}})
    llamad.start()
    llamad.wait_for("a")
    llamad.client.post("servers", "a", "stop", wait=True)
    llamad.end(signal.SIGKILL)
    llamad.start()
    wait_until(lambda: llamad.status("a").get("wanted") == "stopped")
    assert llamad.end() == 0
    llamad.start()
    assert llamad.wait_for("a")["wanted"] == "running"
    assert llamad.end() == 0
