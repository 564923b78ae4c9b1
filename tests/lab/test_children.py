"""A server that dies, hangs or cannot start: it is named, backed off, restored, and its journal tells the story."""

import pytest

from tests.lab.guest import Guest, any_server, fake_server
from tests.lab.installed import FAKE
from tests.lab.machine import until

pytestmark = pytest.mark.lab

QUICK = {
    "restart": {"initial_delay": "200ms", "max_delay": "1s", "retry_failed_every": "2s"},
    "health": {"interval": "1s", "timeout": "300ms", "failures": 2, "hang_timeout": "6s"},
}


def story(guest: Guest, server: str) -> str:
    """What `journalctl -u llamad LLAMAD_SERVER=x` tells, in a person's words."""
    return guest.messages(f"LLAMAD_SERVER={server}")


@pytest.mark.parametrize(("name", "words"), [("KILL", "SIGKILL"), ("SEGV", "segmentation fault")])
def test_a_server_that_dies_is_back(guest: Guest, name: str, words: str) -> None:
    guest.configure({"one": any_server(guest, **QUICK)})
    guest.start()
    pid = guest.replica("one")["pid"]
    guest.signal(name, pid)
    after = guest.wait_for("one", lambda one: one["state"] == "ready" and one["pid"] != pid, "is back")
    assert after["restarts"] == 1
    assert f"SIG{name}" in after["last_exit"]
    assert words in story(guest, "one")
    assert guest.ask("one")["choices"]


def test_a_server_that_stands_still_is_replaced(guest: Guest) -> None:
    guest.configure({"one": any_server(guest, **QUICK, stop={"term_timeout": "1s"})})
    guest.start()
    pid = guest.replica("one")["pid"]
    guest.signal("STOP", pid)
    guest.wait_for("one", lambda one: one["state"] == "unresponsive", "is found out")
    after = guest.wait_for("one", lambda one: one["state"] == "ready" and one["pid"] != pid, "is back")
    assert after["restarts"] == 1
    assert guest.code("kill", "-0", str(pid)) != 0
    assert "unresponsive" in story(guest, "one") or "answer" in story(guest, "one")


def test_a_model_that_is_removed_is_named_and_picked_up_when_it_is_back(guest: Guest) -> None:
    guest.run("cp", "/srv/models/tiny.gguf", "/srv/models/fleeting.gguf")
    guest.configure({"one": fake_server(model="/srv/models/fleeting.gguf", **QUICK)})
    guest.start()
    guest.run("mv", "/srv/models/fleeting.gguf", "/srv/models/away.gguf")
    guest.signal("KILL", guest.replica("one")["pid"])
    failed = guest.wait_for("one", lambda one: one["state"] == "failed", "has failed")
    assert "/srv/models/fleeting.gguf" in failed["last_error"]
    assert "/srv/models/fleeting.gguf" in story(guest, "one")
    assert "one failed" in guest.show("StatusText")
    guest.run("mv", "/srv/models/away.gguf", "/srv/models/fleeting.gguf")
    guest.wait_ready("one")


def test_a_taken_port_is_named_and_waited_for(guest: Guest) -> None:
    hold = "import socket, sys; s = socket.create_server(('127.0.0.1', 9301)); print(1, flush=True); sys.stdin.read()"
    with guest.machine.background("python3", "-c", hold) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        guest.configure({"one": any_server(guest, port=9301, **QUICK)})
        guest.start()
        trouble = guest.wait_for("one", lambda one: one["last_error"], "is in trouble")
        assert "9301" in trouble["last_error"]
        assert "9301" in story(guest, "one")
    guest.wait_ready("one")


def test_a_server_that_dies_again_and_again_is_given_up_with_its_last_words(guest: Guest) -> None:
    restart = {"initial_delay": "50ms", "max_delay": "100ms", "max_retries": 2}
    guest.configure({"one": fake_server(FAKE_FAIL="cuda-oom", restart=restart), "two": fake_server()})
    guest.start()
    failed = guest.wait_for("one", lambda one: one["state"] == "failed", "has failed")
    assert "memory" in failed["last_error"]
    assert failed["hint"]
    assert "cudaMalloc failed: out of memory" in story(guest, "one")
    assert guest.server("two")["state"] == "ready"


def test_a_binary_that_is_missing_is_named(guest: Guest) -> None:
    guest.configure({"one": {**fake_server(), "llama_server": f"{FAKE}-missing"}})
    guest.start()
    assert f"{FAKE}-missing" in guest.replica("one")["last_error"]
    assert guest.show("ActiveState") == "active"


def test_without_a_llama_server_it_runs_says_so_and_starts_once_there_is_one(guest: Guest) -> None:
    """As on a Debian 13, which has no llama-server to install."""
    program = "/usr/local/bin/a-llama-server"
    guest.machine.remove(program)
    guest.configure({"one": {**fake_server(), "llama_server": "a-llama-server"}})
    guest.start()
    failed = guest.wait_for("one", lambda one: one["state"] == "failed", "has failed")
    assert "a-llama-server is not in PATH" in failed["last_error"]
    assert "install llama.cpp" in failed["hint"]
    try:
        guest.run("cp", FAKE, program)
        guest.wait_ready("one")
    finally:
        guest.machine.remove(program)


def test_a_flooding_server_is_cut_with_a_count_and_the_others_are_not(guest: Guest) -> None:
    guest.configure({"loud": fake_server(FAKE_FLOOD_ONCE=20000), "quiet": fake_server()})
    guest.start()
    until(lambda: guest.journal("LLAMAD_SERVER=loud", "LLAMAD_EVENT=log-flood"), "the count is told", limit=30)
    loud = guest.journal("LLAMAD_SERVER=loud")
    assert len(loud) < 10000
    assert "model loaded" in story(guest, "quiet")
    guest.run("llamad", "restart", "--wait", "quiet")
    assert story(guest, "quiet").count("model loaded") == 2
