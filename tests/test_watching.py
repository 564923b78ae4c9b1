"""llamad over fake servers that are slow, stuck, asleep, or go on by themselves: who is ended, and what clients get."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.builders import fake_binary
from tests.contract.server import Engine, Server
from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

SHORT = {"interval": "1s", "timeout": "500ms", "hang_timeout": "3s", "failures": 2}


@contextmanager
def serving(**server: Any) -> Iterator[tuple[Llamad, int]]:
    """A llamad with one server `a`, ready, and its gateway's port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with a_llamad() as llamad:
        llamad.configure({"a": {"health": SHORT, **server}}, gateway={"listen": f"127.0.0.1:{port}"})
        llamad.start()
        llamad.wait_for("a")
        yield llamad, port


def ask(port: int, *, seconds: float = 30, **more: Any) -> tuple[int, Any]:
    """Status and document of a completion."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        body = {"model": "a", "messages": [{"role": "user", "content": "x"}], **more}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_prompt_whose_batches_take_longer_than_the_hang_timeout_is_answered() -> None:
    """The counters stand still for a batch, but the processor works."""
    slow = {"FAKE_BATCHES": "2", "FAKE_BATCH_S": "3"}
    with serving(env=slow, health={**SHORT, "hang_timeout": "1s"}) as (llamad, port):
        assert ask(port)[0] == 200
        seen = llamad.status("a")
        assert (seen["state"], seen["restarts"]) == ("ready", 0)
        assert not llamad.events("hung")


def test_a_request_whose_server_was_ended_as_hung_is_told_so_and_not_sent_to_another() -> None:
    with serving(env={"FAKE_HANG": "decode"}, replicas=2) as (llamad, port):
        status, document = ask(port)
        assert status == 504
        assert "hung: a slot made no progress for" in document["error"]["message"]
        assert "does not repeat it" in document["error"]["message"]
        (one,) = llamad.client.get("status", server="a")["servers"]
        assert min(replica["restarts"] for replica in one["replicas"]) == 0, "the other one was left alone"


def test_requests_that_are_swallowed_have_the_server_replaced() -> None:
    with serving(env={"FAKE_HANG": "swallow"}) as (llamad, port):
        status, document = ask(port)
        assert status == 504
        assert "no slot works on it; nor did it answer one of llamad's own" in document["error"]["message"]
        wait_until(lambda: llamad.status("a").get("restarts") == 1)
        assert "a request got no byte" in llamad.status("a")["last_exit"]


def test_a_server_whose_every_answer_is_an_error_is_replaced_though_it_ignores_sigterm() -> None:
    with serving(env={"FAKE_STATUS": "500", "FAKE_IGNORE_TERM": "1"}) as (llamad, port):
        for _ in range(3):
            assert ask(port)[0] == 500
        wait_until(lambda: llamad.status("a").get("restarts", 0) >= 1, seconds=15)
        assert "every answer is an error" in llamad.status("a")["last_exit"]
        assert "Compute error." in llamad.status("a")["last_exit"]


def test_errors_that_a_client_provokes_end_nothing() -> None:
    with serving() as (llamad, port):
        for _ in range(5):
            assert ask(port, messages=3)[0] == 400
        assert llamad.status("a")["restarts"] == 0


def test_a_sleeping_server_is_ready_shown_asleep_and_wakes_for_a_request() -> None:
    with serving(args={"sleep_idle_seconds": 2}) as (llamad, port):
        wait_until(lambda: llamad.status("a").get("asleep"), seconds=20)
        assert llamad.status("a")["state"] == "ready"
        assert ask(port)[0] == 200
        wait_until(lambda: llamad.status("a").get("asleep"), seconds=20)
        assert len(llamad.events("waking up")) == 1, "only the request woke it"
        assert llamad.status("a")["restarts"] == 0


def test_a_conversation_that_goes_on_without_its_client_counts_as_load() -> None:
    slow = {"FAKE_CHUNK_DELAY": "0.1", "FAKE_CHUNKS": "900"}
    with serving(env=slow, replicas=2, args={"parallel": 1}) as (llamad, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            body = json.dumps({"model": "a", "stream": True, "max_tokens": 900, "messages": []}).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Conversation-Id: c\r\n" \
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"  # fmt: skip
            client.sendall(head.encode() + body)
            assert client.recv(100)
        assert llamad.status("a")["in_flight"] == 1
        (busy,) = [one for one in _replicas(llamad) if one["in_flight"]]
        for _ in range(2):
            assert ask(port, max_tokens=1)[0] == 200, "it went to the idle one"
        (still,) = [one for one in _replicas(llamad) if one["in_flight"]]
        assert still["index"] == busy["index"]


def _replicas(llamad: Llamad) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = llamad.client.get("status", server="a")["servers"][0]["replicas"]
    return found


def test_a_client_of_the_servers_own_port_keeps_it_from_being_stopped_as_idle() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        own = one.getsockname()[1]
    env = {"FAKE_CHUNK_DELAY": "0.1", "FAKE_CHUNKS": "60"}
    with _on_demand(env, own) as llamad:
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(ask(own, max_tokens=60)[0]))
        asking.start()
        wait_until(lambda: llamad.status("a").get("in_flight") == 1)
        asking.join(30)
        assert answers == [200]
        wait_until(lambda: llamad.status("a").get("state") == "stopped", seconds=15)


@contextmanager
def _on_demand(env: dict[str, str], port: int) -> Iterator[Llamad]:
    with a_llamad() as llamad:
        server = {"health": SHORT, "env": env, "port": port, "start": "on-demand", "idle_timeout": "2s"}
        llamad.configure({"a": server})
        llamad.start()
        wait_until(lambda: llamad.status("a"))
        llamad.client.post("servers", "a", "start", wait=True)
        yield llamad


@pytest.mark.parametrize("slots", ["", "1"], ids=["slots", "an empty list"])
def test_a_foreign_server_gets_requests_whatever_it_says_of_its_slots(slots: str) -> None:
    with a_llamad() as llamad, socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        port, there = one.getsockname()[1], other.getsockname()[1]
        one.close()
        other.close()
        engine = Engine("fake", fake_binary(llamad.folder), llamad.model)
        with Server(engine, port=there, env={"FAKE_NO_SLOTS": slots}):
            config = {
                "gateway": {"listen": f"127.0.0.1:{port}"},
                "servers": {"a": {"url": f"http://127.0.0.1:{there}"}},
            }
            llamad.write(json.dumps(config))
            llamad.start()
            llamad.wait_for("a")
            assert ask(port)[0] == 200


def test_a_flood_of_empty_lines_costs_its_neighbour_nothing() -> None:
    """llamad was held up for most of a second a turn, took the neighbour for silent, and ended it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with a_llamad() as llamad:
        servers: dict[str, dict[str, Any]] = {
            "a": {"health": SHORT},
            "flood": {"health": SHORT, "env": {"FAKE_FLOOD": "empty"}},
        }
        llamad.configure(servers, gateway={"listen": f"127.0.0.1:{port}"})
        llamad.start()
        for name in servers:
            llamad.wait_for(name)
        began = time.monotonic()
        took: list[float] = []
        while time.monotonic() - began < 8:
            before = time.monotonic()
            assert ask(port)[0] == 200
            took.append(time.monotonic() - before)
        for name in servers:
            assert (llamad.status(name)["state"], llamad.status(name)["restarts"]) == ("ready", 0)
        assert not llamad.events("does not answer")
        assert sorted(took)[len(took) // 2] < 0.5


def test_a_stop_of_llamad_itself_is_no_silence_of_its_servers() -> None:
    """Nor is what comes right after it: a server that was stopped with it needs a moment more."""
    with serving() as (llamad, port):
        pid = llamad.status("a")["pid"]
        os.kill(pid, signal.SIGSTOP)
        llamad.send(signal.SIGSTOP)
        time.sleep(4)  # longer than the hang timeout: nothing can be waited for meanwhile
        llamad.send(signal.SIGCONT)
        time.sleep(1.2)
        os.kill(pid, signal.SIGCONT)
        assert ask(port)[0] == 200
        assert llamad.status("a")["restarts"] == 0
