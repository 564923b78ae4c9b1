"""The same texts as in tests/test_client_words.py, on the real engine; and what it says of GPUs that are not there."""

import http.client
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import client_words
from tests.engine.conftest import Llamad
from tests.engine.test_life import has_failed, is_ready

pytestmark = pytest.mark.engine

Start = Callable[[dict[str, dict[str, Any]]], Llamad]
LONGEST = 240.0
"""Seconds for all the requests together; they take a fifth of it on two idle cores."""


def test_no_text_of_a_client_ends_the_real_one(start: Start, model: Path) -> None:
    llamad = start({"a": {"model": str(model)}})
    before = llamad.until("a", is_ready)
    deadline = time.monotonic() + LONGEST
    with closing(http.client.HTTPConnection("127.0.0.1", llamad.port, timeout=60)) as connection:
        for field in client_words.FIELDS:
            for text in client_words.TEXTS:
                body = json.dumps(client_words.request(field, text))
                connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status in (200, 400, 500), (field, text)
                assert time.monotonic() < deadline
    after = llamad.replica("a")
    assert (after["pid"], after["restarts"], after["state"]) == (before["pid"], 0, "ready")
    lines = list(llamad.client.lines("servers", "a", "logs"))
    assert {line["level"] for line in lines} == {"info"}
    assert all(line["text"].replace("\t", " ").isprintable() for line in lines)


def test_gpus_that_are_not_there_are_missed_whatever_the_layers(start: Start, model: Path) -> None:
    """This engine has no GPU backend: without -ngl it would go on, on the CPU, without a word."""
    llamad = start({"a": {"model": str(model), "gpus": "all", "restart": {"max_retries": 0}}})
    assert llamad.until("a", has_failed)["cause"] == "gpu-missing"


def test_an_ordinary_life_raises_no_alarm(start: Start, model: Path) -> None:
    """Its own remarks on keys, CORS and prompts it has seen before are nobody's business."""
    llamad = start({"a": {"model": str(model)}})
    llamad.until("a", is_ready)
    body = json.dumps({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 2})
    for _ in range(3):
        with closing(http.client.HTTPConnection("127.0.0.1", llamad.port, timeout=60)) as connection:
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 200
    lines = list(llamad.client.lines("servers", "a", "logs"))
    assert any("evaluate at least 1 token" in line["text"] for line in lines), "it has got quieter: look again"
    assert any("no API key is set" in line["text"] for line in lines), "it has got quieter: look again"
    assert {line["level"] for line in lines} == {"info"}
