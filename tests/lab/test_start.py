"""Starting and stopping: systemd is told the truth, and nothing is left afterwards."""

import re

import pytest

from tests.lab.guest import Guest, any_server, fake_server
from tests.lab.installed import CLIENT, KEYS, SERVICE
from tests.lab.machine import until

pytestmark = pytest.mark.lab

GO = "/srv/models/go"
_STATUS = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", {port}, timeout=3)
connection.request("GET", "/health")
sys.exit(connection.getresponse().status != {status})
"""


def test_a_fresh_installation_runs_and_says_what_to_do(guest: Guest) -> None:
    guest.start()
    assert guest.show("ActiveState") == "active"
    assert "no servers configured" in guest.show("StatusText")
    assert "add one below servers:" in guest.run("llamad", "status")


def test_the_service_is_active_after_the_model_is_ready_and_not_before(guest: Guest) -> None:
    guest.machine.remove(GO)
    guest.configure({"one": fake_server(FAKE_LOAD_FILE=GO)})
    guest.run("systemctl", "start", "--no-block", SERVICE)
    guest.wait_for("one", lambda replica: replica["state"] == "loading", "loads")
    assert guest.show("ActiveState") == "activating"
    until(lambda: "one" in guest.show("StatusText"), "the status names what loads")
    guest.machine.write(GO, "")
    until(lambda: guest.show("ActiveState") == "active", "the service is active")
    assert guest.replica("one")["state"] == "ready"
    assert guest.show("StatusText").startswith("1/1 ready")


def test_a_completion_through_the_gateway(guest: Guest) -> None:
    guest.configure({"one": any_server(guest, aliases=["default"])})
    guest.start()
    for name in ("one", "default"):
        assert guest.ask(name)["choices"][0]["message"]["content"]


def test_a_load_may_take_longer_than_the_start_timeout(guest: Guest) -> None:
    guest.drop_in(TimeoutStartSec="2s")
    guest.configure({"one": fake_server(FAKE_LOAD_S=5, FAKE_LOAD_LINES=0.5)})
    guest.start()
    assert guest.replica("one")["state"] == "ready"
    assert guest.show("NRestarts") == "0"


@pytest.mark.parametrize("disturbance", ["daemon-reexec", "daemon-reload"])
def test_systemd_may_reload_itself_in_the_middle_of_a_load(guest: Guest, disturbance: str) -> None:
    guest.machine.remove(GO)
    guest.configure({"one": fake_server(FAKE_LOAD_FILE=GO)})
    guest.run("systemctl", "start", "--no-block", SERVICE)
    before = guest.wait_for("one", lambda replica: replica["state"] == "loading", "loads")
    main = guest.main_pid
    guest.run("systemctl", disturbance)
    guest.machine.write(GO, "")
    until(lambda: guest.show("ActiveState") == "active", "the service is active")
    assert guest.main_pid == main
    assert guest.wait_ready("one")["pid"] == before["pid"]
    assert guest.show("NRestarts") == "0"


def test_a_broken_file_at_a_cold_start_fails_at_once_and_for_good(guest: Guest) -> None:
    guest.machine.write("/etc/llamad/conf.d/50-lab.yaml", "servers:\n  one:\n    modle: x.gguf\n")
    assert guest.code("systemctl", "start", SERVICE) != 0
    assert (guest.show("ActiveState"), guest.show("ExecMainStatus"), guest.show("NRestarts")) == ("failed", "78", "0")
    assert re.search(r"/etc/llamad/conf\.d/50-lab\.yaml:3:\d+: .*modle", guest.messages())
    assert guest.processes() == {}


def test_a_strict_start_that_fails_does_so_once(guest: Guest) -> None:
    guest.configure({"bad": fake_server(model="/srv/models/none.gguf"), "good": fake_server()}, startup="strict")
    assert guest.code("systemctl", "start", SERVICE) != 0
    assert (guest.show("ActiveState"), guest.show("ExecMainStatus"), guest.show("NRestarts")) == ("failed", "69", "0")
    assert "startup is strict: bad failed: " in guest.messages()
    assert guest.processes() == {}


def test_a_server_that_cannot_start_does_not_keep_the_others_down(guest: Guest) -> None:
    guest.configure({"bad": fake_server(model="/srv/models/none.gguf"), "good": fake_server()})
    guest.start()
    assert guest.server("bad")["state"] == "failed"
    assert "/srv/models/none.gguf" in guest.replica("bad")["last_error"]
    assert guest.server("good")["state"] == "ready"
    assert "bad failed" in guest.show("StatusText")


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_stop_and_restart_end_every_process(guest: Guest, verb: str) -> None:
    guest.configure({"one": any_server(guest), "two": fake_server(FAKE_GRANDCHILD="setsid", replicas=2)})
    guest.start()
    before = set(guest.processes())
    assert len(before) >= 5
    guest.run("systemctl", verb, SERVICE)
    assert set(guest.processes()) & before == set()
    if verb == "stop":
        assert guest.processes() == {}
        assert guest.show("Result") == "success"
        assert not guest.machine.exists("/run/llamad")


def test_the_socket_unit_starts_the_service_with_the_first_client(guest: Guest) -> None:
    guest.configure({"one": fake_server()})
    guest.run("systemctl", "start", "llamad.socket")
    try:
        assert guest.show("ActiveState") == "inactive"
        assert guest.ask("one")["choices"]
        guest.run("systemctl", "restart", SERVICE)
        assert guest.ask("one")["choices"]
        assert not guest.journal("LLAMAD_EVENT=foreign-fd")
    finally:
        guest.run("systemctl", "stop", "llamad.socket", SERVICE)


def test_the_socket_unit_is_enabled_as_it_says_and_outlives_a_change_of_address(guest: Guest) -> None:
    """`enable --now` failed, clients hung in a socket that nobody took them from, and the way back was barred."""
    guest.configure({"one": fake_server()})
    guest.start()
    unit = guest.run("cat", "/usr/lib/systemd/system/llamad.socket", check=False) or guest.run(
        "cat", "/etc/systemd/system/llamad.socket"
    )
    steps = [line.removeprefix("#   ") for line in unit.splitlines() if line.startswith("#   systemctl ")]
    assert len(steps) == 3
    try:
        for step in steps:
            guest.run(*step.split())
        assert guest.ask("one")["choices"]
        for _ in range(2):
            guest.configure({"one": fake_server()}, gateway={"listen": "127.0.0.1:9000"})
            guest.run("llamad", "reload", "--wait")
            until(lambda: guest.code("python3", "-c", _STATUS.format(port=9000, status=200)) == 0, "9000 answers")
            until(lambda: guest.code("python3", "-c", _STATUS.format(port=8080, status=503)) == 0, "8080 says no")
            assert "llamad.socket listens on 127.0.0.1:8080" in guest.show("StatusText")
            guest.configure({"one": fake_server()})
            guest.run("llamad", "reload", "--wait")
            until(lambda: guest.code("python3", "-c", _STATUS.format(port=8080, status=200)) == 0, "8080 answers again")
            assert guest.ask("one")["choices"]
        guest.run("systemctl", "restart", SERVICE)
        assert guest.ask("one")["choices"]
        assert not guest.journal("LLAMAD_EVENT=foreign-fd")
        assert not guest.journal("LLAMAD_EVENT=listen-failed")
    finally:
        guest.run("systemctl", "disable", "llamad.socket")
        guest.run("systemctl", "stop", "llamad.socket", SERVICE)


def test_a_key_file_that_was_deleted_holds_no_key_and_fails_no_start(guest: Guest) -> None:
    """LoadCredential= alone ends such a start with 243/CREDENTIALS."""
    guest.configure({"one": fake_server()})
    guest.machine.remove(KEYS)
    guest.start()
    assert guest.ask("one")["choices"]
    assert guest.run("llamad", "check")
    guest.run("systemd-tmpfiles", "--create")
    assert guest.run("stat", "-c", "%a %U:%G", KEYS).strip() == "640 root:llamad"
    guest.machine.write(KEYS, "me:secret\n", 0o640)
    guest.run("systemctl", "restart", SERVICE)
    guest.wait_ready("one")
    assert guest.code("python3", CLIENT, "ask", "one", "1") != 0, "a key is asked"


def test_a_notify_socket_that_is_not_there_and_foreign_descriptors_hinder_nobody(guest: Guest) -> None:
    """By hand, as the service's user, with an environment that lies."""
    guest.configure({})
    script = """
        cd /; exec 3</dev/null 4</dev/null
        export NOTIFY_SOCKET=/nowhere LISTEN_FDS=2 LISTEN_FDNAMES=pid-x:whatever LISTEN_PID=$$
        export RUNTIME_DIRECTORY=/tmp/lab-run STATE_DIRECTORY=/tmp/lab-state CACHE_DIRECTORY=/tmp/lab-cache
        exec setpriv --reuid=llamad --regid=llamad --clear-groups llamad run
    """
    with guest.machine.background("sh", "-c", script) as process:
        until(
            lambda: guest.code("llamad", "status", "--socket", "/tmp/lab-run/control.sock") == 0,
            "llamad runs although its environment lies",
        )
        guest.run("pkill", "-TERM", "-u", "llamad")
        assert process.wait(20) == 0
    guest.run("rm", "-rf", "/tmp/lab-run", "/tmp/lab-state", "/tmp/lab-cache")
