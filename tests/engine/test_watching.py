"""A real engine that is slow, or asleep, under a real llamad."""

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Llamad

pytestmark = pytest.mark.engine

Start = Callable[[dict[str, dict[str, Any]]], Llamad]


def ask(llamad: Llamad, words: int, *, seconds: float) -> dict[str, Any]:
    """The answer of `a` to a prompt of about so many words (each about three tokens)."""
    content = " ".join(f"word{number}" for number in range(words))
    body = {"model": "a", "max_tokens": 2, "messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{llamad.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def test_a_batch_that_takes_many_times_the_hang_timeout_is_answered(start: Start, model: Path) -> None:
    """As 7,900 tokens on one thread under the default of a minute: the counters of the slot stand still all along."""
    health = {"interval": "1s", "timeout": "1s", "hang_timeout": "1s"}
    llamad = start({"a": {"model": str(model), "args": {"threads": 1, "parallel": 1}, "health": health}})
    llamad.until("a", lambda replica: bool(replica["state"] == "ready"))
    began = time.monotonic()
    answer = ask(llamad, 450, seconds=300)
    assert answer["usage"]["prompt_tokens"] > 900
    assert time.monotonic() - began > 3, "this machine is too fast for the test: a longer prompt"
    seen = llamad.replica("a")
    assert (seen["state"], seen["restarts"]) == ("ready", 0)


def test_one_that_sleeps_when_idle_sleeps_and_wakes_for_a_request(start: Start, model: Path) -> None:
    health = {"interval": "1s"}
    llamad = start({"a": {"model": str(model), "args": {"sleep_idle_seconds": 5}, "health": health}})
    llamad.until("a", lambda replica: bool(replica["asleep"]))
    assert llamad.replica("a")["state"] == "ready"
    began = time.monotonic()
    while time.monotonic() - began < 4:  # it keeps asleep while it is watched
        assert llamad.replica("a")["asleep"]
        time.sleep(0.2)
    assert ask(llamad, 3, seconds=60)["usage"]["completion_tokens"]
    assert not llamad.until("a", lambda replica: not replica["asleep"])["restarts"]
    llamad.until("a", lambda replica: bool(replica["asleep"]))
