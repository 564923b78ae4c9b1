"""What clients write ends no server, fails none, raises no alarm and is shown to no other client.

The real engine has the same test in tests/engine; tests/contract holds the fake to how the real one logs.
"""

import http.client
import json
import os
import signal
from contextlib import closing
from typing import Any

import pytest

from tests import client_words
from tests.contract.server import free_port
from tests.llamads import Llamad, a_llamad
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

SECRET = "the words of another client"


def started(one: Llamad, *, log: dict[str, str] | None = None, **server: Any) -> int:
    """Start it with the server `a`, ready; returns the gateway's port. It logs every request, in JSON."""
    port = free_port()
    gateway = {"listen": f"127.0.0.1:{port}", "access_log": "all"}
    one.configure({"a": {"gpus": "all", **server}}, gateway=gateway, log={"format": "json", **(log or {})})
    one.start()
    one.wait_for("a")
    return port


def ask(port: int, body: object) -> tuple[int, str]:
    """Status and text of the answer to a chat completion."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def records(one: Llamad) -> list[dict[str, Any]]:
    """What it logged."""
    return [json.loads(line) for line in one.log.split("\n") if line]


def test_no_text_of_a_client_ends_a_server_or_raises_an_alarm() -> None:
    with a_llamad() as one:
        port = started(one)
        before = one.status("a")
        for field in client_words.FIELDS:
            for text in client_words.TEXTS:
                assert ask(port, client_words.request(field, text))[0] in (200, 400, 500)
        assert ask(port, {"messages": [{"role": "user", "content": "hi"}]})[0] == 200
        after = one.status("a")
        assert (after["pid"], after["restarts"], after["state"]) == (before["pid"], 0, "ready")
        lines = [record for record in records(one) if record.get("server") == "a" and "event" not in record]
        assert len(lines) > 100, "the texts did not come through"  # of a flood the log shows a part
        assert {record["level"] for record in lines} == {"info"}
        assert all(record["message"].replace("\t", " ").isprintable() for record in lines)
        assert not any("restart" in str(record.get("event")) for record in records(one))


def test_a_crash_is_not_explained_by_a_client_and_its_words_stay_with_the_operator() -> None:
    with a_llamad() as one:
        port = started(one, restart={"initial_delay": 9, "max_delay": 9, "max_retries": 0, "retry_failed_every": 60})
        claim = f"CUDA error: no kernel image is available for execution on the device: {SECRET}"
        for text in (f"x\n{claim}", f"x\n/b/x.cpp:3: {SECRET}"):
            ask(port, client_words.request("grammar", text))
        os.kill(one.status("a")["pid"], signal.SIGABRT)
        down = one.wait_for("a", "failed")
        assert down["cause"] in ("aborted", "gpu-error")
        assert SECRET in down["last_error"]
        assert down["retry_in_s"] <= 60
        status, answer = ask(port, {"messages": [{"role": "user", "content": "hi"}]})
        assert status == 503
        assert "killed by SIGABRT" in answer
        assert SECRET not in answer


def test_requests_are_logged_whatever_the_level_and_engines_have_their_own() -> None:
    with a_llamad() as one:
        port = started(one, log={"level": "warning"})
        assert ask(port, {"messages": [{"role": "user", "content": "hi"}]})[0] == 200
        wait_until(lambda: any(record.get("event") == "request" for record in records(one)))
        assert {record.get("event") for record in records(one)} == {"request"}
    with a_llamad() as one:
        started(one, log={"level": "error", "engine_level": "info"})
        assert {record["server"] for record in records(one)} == {"a"}
        assert any("model loaded" in record["message"] for record in records(one))
