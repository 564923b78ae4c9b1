"""Why a server is as it is: one table, from what is wanted and observed to the words that everybody prints."""

from typing import Any, Literal

import pytest

from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.explain import explain, explain_replica
from llamad.servers.residency import Verdict
from llamad.servers.state import State
from tests.stories import a_server

S = State
NOW = 100.0
BROKEN = Failure("model-corrupt", "corrupt GGUF", "download it again")


def one(state: State, index: int = 0, generation: int = 0, **figures: Any) -> Replica:
    return Replica(ReplicaKey("a", index, generation), state, since=90.0 + index, **figures)


@pytest.mark.parametrize(
    ("replicas", "line"),
    [
        ([], "starting"),
        ([one(S.STOPPED)], "starting"),  # its supervisor has not taken its first step
        ([one(S.STARTING, last_error=BROKEN)], "starting"),
        ([one(S.LOADING)], "loading"),
        ([one(S.LOADING, load_progress=0.421)], "loading 42 %"),
        ([one(S.READY)], "ready"),
        ([one(S.DRAINING)], "draining"),
        ([one(S.STOPPING)], "stopping"),
        ([one(S.UNRESPONSIVE, last_error=BROKEN)], "unresponsive: corrupt GGUF (download it again)"),
        ([one(S.FAILED)], "failed"),
        ([one(S.FAILED, last_error=BROKEN)], "failed: corrupt GGUF (download it again)"),
        (
            [one(S.FAILED, last_error=BROKEN, retry_at=400.0)],
            "failed: corrupt GGUF (download it again); next try in 5m",
        ),
        (
            [one(S.BACKOFF, last_error=BROKEN, retry_at=99.0)],
            "backoff: corrupt GGUF (download it again); next try at once",
        ),
        ([one(S.FAILED, last_error=BROKEN), one(S.LOADING, 1)], "loading"),  # the one nearest to ready speaks
        (
            [one(S.FAILED, last_error=BROKEN, retry_at=400.0), one(S.BACKOFF, 1, last_error=BROKEN, retry_at=130.0)],
            "backoff: corrupt GGUF (download it again); next try in 30s",
        ),
        (
            [one(S.READY, last_error=BROKEN)],
            "ready, but not replaced: corrupt GGUF; the old one goes on (download it again)",
        ),
        ([one(S.READY), one(S.LOADING, 1, load_progress=0.9)], "ready, but replica 1 is loading 90 %"),
        ([one(S.READY), one(S.STARTING, generation=1)], "ready, but the new one is starting"),
        (
            [one(S.READY), one(S.LOADING, 1), one(S.FAILED, 2, last_error=BROKEN, retry_at=400.0)],
            "ready, but replica 2 is failed: corrupt GGUF (download it again); next try in 5m",
        ),
        ([one(S.READY), one(S.READY, 1)], "ready"),
    ],
)
def test_one_that_should_run(replicas: list[Replica], line: str) -> None:
    condition = explain(a_server("a", replicas=3), replicas, running=True)
    assert condition.line(NOW) == line
    assert condition.wanted == "running"
    assert condition.as_wanted is (line == "ready")
    assert condition.serves is line.startswith("ready")


@pytest.mark.parametrize(
    ("config", "order", "line"),
    [
        ({"start": "on-demand"}, "stop", "was stopped by hand (llamad start a)"),
        ({"start": "manual"}, None, "is started by hand only (llamad start a)"),
        ({"start": "on-demand"}, None, "starts with a request"),
        ({}, None, "made way for another, starts with a request"),
    ],
)
def test_one_that_should_not_run(config: dict[str, Any], order: Literal["stop"] | None, line: str) -> None:
    condition = explain(a_server("a", **config), (), running=False, order=order)
    assert (condition.line(NOW), condition.reason(NOW)) == (line, line)
    assert condition.as_wanted
    assert condition.failure is None
    assert not condition.serves
    ends = explain(a_server("a", **config), [one(S.DRAINING)], running=False, order=order)
    assert (ends.wanted, ends.state, ends.line(NOW), ends.as_wanted) == ("stopped", S.DRAINING, line, False)
    assert ends.failure is None


@pytest.mark.parametrize(
    ("room", "line"),
    [
        (
            Verdict(never="b is in the way"),
            "has no room: b is in the way (see memory:, group: and gateway.memory_budget:)",
        ),
        (Verdict(evict=("b",), wait=("c",)), "waits for b, c"),
        (Verdict(), "waits for memory that becomes free"),
    ],
)
def test_one_that_has_no_room(room: Verdict, line: str) -> None:
    condition = explain(a_server(), (), running=True, room=room)
    assert condition.line(NOW) == line
    assert condition.failure is not None
    assert condition.failure.cause == "no-room"
    assert (condition.wanted, condition.state) == ("running", S.STOPPED)
    partly = explain(a_server(replicas=2), [one(S.READY)], running=True, room=room)
    assert partly.line(NOW) == f"ready, but a replica {line}"


def test_the_parts_that_others_print() -> None:
    condition = explain(a_server(), [one(S.FAILED, last_error=BROKEN, retry_at=400.0)], running=True)
    assert condition.short == "failed: corrupt GGUF"
    assert condition.reason(NOW) == "corrupt GGUF (download it again); next try in 5m"
    assert condition.failure == BROKEN
    assert (condition.since, condition.until, condition.retry_in(NOW)) == (90.0, 400.0, 300.0)
    assert condition.retry_in(500.0) == 0.0
    loading = explain_replica(a_server(), one(S.LOADING, load_progress=0.5))
    assert (loading.reason(NOW), loading.retry_in(NOW), loading.failure) == (None, None, None)


def test_clients_are_not_told_what_other_clients_may_have_written() -> None:
    quoted = Failure("crash", "it crashed; its last line: secret", "see the log", public="it crashed")
    for replicas in ([one(S.FAILED, last_error=quoted)], [one(S.READY, last_error=quoted)],
                     [one(S.READY), one(S.FAILED, 1, last_error=quoted)]):  # fmt: skip
        condition = explain(a_server(replicas=2), replicas, running=True)
        assert "secret" in condition.line(NOW)
        assert "secret" not in condition.sentence(NOW)
        assert "it crashed" in condition.sentence(NOW)
    assert explain(a_server(), [one(S.LOADING)], running=True).sentence(NOW) == "a is loading"


def test_a_client_reads_a_sentence() -> None:
    def sentence(*replicas: Replica, **named: Any) -> str:
        return explain(a_server(), replicas, **{"running": True, **named}).sentence(NOW)

    assert sentence(one(S.LOADING, load_progress=0.42)) == "a is loading 42 %"
    assert sentence(one(S.BACKOFF, last_error=BROKEN)) == "a is in backoff: corrupt GGUF (download it again)"
    assert sentence(running=False, order="stop") == "a was stopped by hand (llamad start a)"
    assert sentence(room=Verdict(wait=("b",))) == "a waits for b"
