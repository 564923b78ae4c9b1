"""All servers in one line."""

from typing import Any

import pytest

from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.state import State
from llamad.servers.summary import status_line


def seen(state: State, **figures: Any) -> Replica:
    return Replica(ReplicaKey("a", 0), state, **figures)


READY = seen(State.READY)
CORRUPT = Failure("model-corrupt", "corrupt GGUF")


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ([], "0/1 ready; a starting"),
        ([READY], "1/1 ready"),
        ([READY, seen(State.LOADING, load_progress=0.62)], "0/1 ready; a loading 62 %"),
        ([seen(State.LOADING)], "0/1 ready; a loading"),
        ([seen(State.FAILED, last_error=CORRUPT), READY], "0/1 ready; a failed: corrupt GGUF"),
        ([seen(State.BACKOFF, last_error=CORRUPT), seen(State.STARTING)], "0/1 ready; a backoff: corrupt GGUF"),
        ([seen(State.FAILED)], "0/1 ready; a failed"),
        ([seen(State.DRAINING), READY], "0/1 ready; a draining"),
        ([seen(State.UNRESPONSIVE), seen(State.STARTING)], "0/1 ready; a unresponsive"),
    ],
)
def test_one_server(replicas: list[Replica], words: str) -> None:
    assert status_line({"a": replicas}, {"a": True}) == words


def test_none_is_configured() -> None:
    assert status_line({}, {}) == "no servers configured"


def test_those_not_meant_to_run_are_a_count() -> None:
    assert status_line({"a": [READY]}, {"a": True, "b": False, "c": False}) == "1/1 ready; 2 stopped"


def test_the_line_stays_short() -> None:
    line = status_line({}, {f"s{i}": True for i in range(200)})
    assert line.startswith("0/200 ready; s0 starting; ")
    assert line.endswith("s7 starting; and 192 more")
