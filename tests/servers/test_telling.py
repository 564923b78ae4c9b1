"""How a replica's events are logged."""

import logging

import pytest

from llamad.servers.board import ReplicaKey
from llamad.servers.telling import tell


@pytest.mark.parametrize(("index", "words"), [(0, "ready after 5s"), (2, "replica 2 ready after 5s")])
def test_the_server_is_a_field_and_a_further_replica_a_word(
    index: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        key = ReplicaKey("qwen", index)
        tell(logging.getLogger("x"), logging.INFO, key, "ready after %s", "5s", event="ready", cause="c")
    (record,) = caplog.records
    assert record.getMessage() == words
    fields = {name: record.__dict__[name] for name in ("server", "replica", "event", "cause")}
    assert fields == {"server": "qwen", "replica": index, "event": "ready", "cause": "c"}
