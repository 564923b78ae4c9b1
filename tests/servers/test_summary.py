"""All servers in one line."""

import pytest

from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.explain import Condition, explain
from llamad.servers.state import State
from llamad.servers.summary import status_line
from tests.stories import a_server

READY = Replica(ReplicaKey("a", 0), State.READY)
LOADING = Replica(ReplicaKey("a", 1), State.LOADING, load_progress=0.62)
FAILED = Replica(ReplicaKey("a", 1), State.FAILED, last_error=Failure("x", "corrupt GGUF", "hint"), retry_at=70.0)


def a_condition(*replicas: Replica, name: str = "a", running: bool = True) -> Condition:
    return explain(a_server(name), replicas, running=running)


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ([], "0/1 ready; a starting"),
        ([READY], "1/1 ready"),
        ([LOADING], "0/1 ready; a loading 62 %"),
        ([FAILED], "0/1 ready; a failed: corrupt GGUF"),
        ([READY, LOADING], "1/1 ready; a ready, but replica 1 is loading 62 %"),
        ([READY, FAILED], "1/1 ready; a ready, but replica 1 is failed: corrupt GGUF"),
    ],
)
def test_one_server(replicas: list[Replica], words: str) -> None:
    assert status_line([a_condition(*replicas)]) == words


def test_none_is_configured() -> None:
    assert status_line([]) == "no servers configured"


def test_those_not_meant_to_run_are_a_count() -> None:
    idle = [a_condition(name=name, running=False) for name in ("b", "c")]
    assert status_line([a_condition(READY), *idle]) == "1/1 ready; 2 stopped"


def test_the_line_stays_short() -> None:
    line = status_line([a_condition(name=f"s{i}") for i in range(200)])
    assert line.startswith("0/200 ready; s0 starting; ")
    assert line.endswith("s7 starting; and 192 more")
