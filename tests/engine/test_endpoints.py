"""llama-server's endpoints through the gateway: those of one conversation, of each process, of nobody's model."""

import gzip
import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.engine.conftest import PATIENCE, Llamad

pytestmark = pytest.mark.engine

LONG = {
    "messages": [{"role": "user", "content": "Count to 1000."}],
    "max_tokens": 4000,
    "stream": True,
    "ignore_eos": True,
}
Start = Callable[[dict[str, dict[str, Any]]], Llamad]


def ask(
    llamad: Llamad, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """One answer of the gateway."""
    connection = http.client.HTTPConnection("127.0.0.1", llamad.port, timeout=PATIENCE)
    try:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def model_of(llamad: Llamad) -> dict[str, Any]:
    """What the gateway says of its one model; nothing while it does not listen yet."""
    try:
        status, body = ask(llamad, "GET", "/v1/models")
    except ConnectionRefusedError:
        return {"state": None, "replicas": {"ready": 0}}
    assert status == 200
    one: dict[str, Any] = json.loads(body)["data"][0]
    return one


def busy(llamad: Llamad) -> list[bool]:
    """Whether each of two replicas works."""
    out = []
    for index in (0, 1):
        _, body = ask(llamad, "GET", f"/servers/chat/slots?replica={index}")
        out.append(any(slot["is_processing"] for slot in json.loads(body)))
    return out


def leave_an_answer(llamad: Llamad, conversation: str) -> None:
    """Begin a long answer and go away; llama-server goes on with it."""
    connection = http.client.HTTPConnection("127.0.0.1", llamad.port, timeout=PATIENCE)
    connection.request(
        "POST", "/servers/chat/v1/chat/completions", json.dumps(LONG).encode(), {"X-Conversation-Id": conversation}
    )
    assert connection.getresponse().read(20)
    connection.close()


def test_a_conversation_is_found_resumed_and_stopped_whichever_replica_has_it(start: Start, model: Path) -> None:
    llamad = start({"chat": {"model": str(model), "replicas": 2, "args": {"ctx_size": 8192, "parallel": 2}}})
    until(lambda: bool(model_of(llamad)["replicas"]["ready"] == 2))
    for conversation in ("one", "two"):
        leave_an_answer(llamad, conversation)
        status, body = ask(llamad, "POST", "/servers/chat/v1/streams/lookup", {"conversation_ids": [conversation]})
        assert (status, [one["conversation_id"] for one in json.loads(body)]) == (200, [conversation])
        resumed = threading.Thread(target=ask, args=(llamad, "GET", f"/servers/chat/v1/stream?conv_id={conversation}"))
        resumed.start()
        assert any(busy(llamad))
        assert ask(llamad, "DELETE", f"/servers/chat/v1/stream?conv_id={conversation}")[0] == 204
        until(lambda: busy(llamad) == [False, False])
        resumed.join(PATIENCE)
        assert not resumed.is_alive()
    assert ask(llamad, "GET", "/servers/chat/v1/stream?conv_id=one")[0] == 404
    assert ask(llamad, "POST", "/servers/chat/lora-adapters", [])[0] == 200
    assert ask(llamad, "POST", "/servers/chat/slots/0?action=erase")[0] == 400
    control = {"id": "nobody's", "action": "reasoning_end"}
    assert b"no active completion" in ask(llamad, "POST", "/servers/chat/v1/chat/completions/control", control)[1]


def test_what_does_not_use_the_model_does_not_load_it(start: Start, model: Path) -> None:
    llamad = start({"chat": {"model": str(model), "start": "on-demand", "idle_timeout": "1s"}})
    until(lambda: model_of(llamad)["state"] == "stopped")
    for method, path in (
        ("GET", "/servers/chat/sw.js"),
        ("HEAD", "/servers/chat/"),
        ("GET", "/servers/chat/health"),
        ("GET", "/props?model=chat"),
        ("GET", "/slots"),
        ("POST", "/v1/v1/chat/completions"),
        ("POST", "/servers/chat/v1/images/generations"),
    ):
        assert ask(llamad, method, path, b"{}" if method == "POST" else None)[0] in (404, 503)
    assert model_of(llamad)["state"] == "stopped"
    assert ask(llamad, "POST", "/tokenize", {"content": "x"})[0] == 200
    checked = 0
    while model_of(llamad)["state"] == "ready":  # a health check does not keep it
        ask(llamad, "GET", "/servers/chat/health")
        checked += 1
        assert checked < 600
        time.sleep(0.1)
    assert checked


def test_with_keys_a_browser_gets_the_page_and_not_the_api(start: Start, model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("me:sk-mine\n")
    llamad = start({"chat": {"model": str(model)}})
    llamad.until("chat", lambda replica: bool(replica["state"] == "ready"))
    llamad._base["gateway"]["api_keys_file"] = str(keys)
    llamad.write({"chat": {"model": str(model)}})
    until(lambda: ask(llamad, "GET", "/v1/models")[0] == 401)
    zipped = {"Accept-Encoding": "gzip"}
    status, page = ask(llamad, "GET", "/servers/chat/", headers=zipped)
    assert status == 200
    linked = [part.split('"')[0] for part in gzip.decompress(page).decode().split('href="')[1:]]
    assert len(linked) > 5
    for one in [*linked, "sw.js", "_app/version.json"]:
        assert ask(llamad, "GET", f"/servers/chat/{one.removeprefix('./')}", headers=zipped)[0] == 200, one
    for path in ("/servers/chat/props", "/servers/chat/slots", "/servers/chat/v1/models", "/metrics"):
        assert ask(llamad, "GET", path)[0] == 401
        assert ask(llamad, "GET", path, headers={"Authorization": "Bearer sk-mine"})[0] == 200
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{llamad.port}", api_key="no", max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            claude.messages.create(model="chat", max_tokens=1, messages=[{"role": "user", "content": "Hi"}])
        assert caught.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    asked = gzip.compress(b'{"content": "x"}')
    zipped = {"Content-Encoding": "gzip", "api-key": "sk-mine"}
    assert ask(llamad, "POST", "/tokenize", asked, zipped)[0] == 200
