"""The access log: which requests, which fields, which tokens."""

import logging

import pytest

from llamad.gateway.access import AccessLog, Mode, tokens
from llamad.gateway.types import Exchange
from llamad.host.logrecord import fields_of
from tests.gateway.fleets import a_head

USAGE = b'data: {"choices":[],"usage":{"completion_tokens":12,"prompt_tokens":5,"total_tokens":17}}\n\ndata: [DONE]\n\n'


def an_exchange(status: int = 200, *, error: str | None = None, path: str = "/v1/chat/completions") -> Exchange:
    head = a_head("POST", path, "key=secret", authorization="Bearer sk-secret")
    exchange = Exchange(head, "r-1", began=100.0, peer="10.0.0.1")
    exchange.key, exchange.server, exchange.replica = "alice", "qwen", 1
    exchange.status, exchange.error, exchange.retries = status, error, 1
    exchange.queued_s, exchange.first_byte = 0.0123, 100.25
    exchange.bytes_in, exchange.bytes_out, exchange.tail = 10, 200, USAGE
    return exchange


def written(caplog: pytest.LogCaptureFixture, mode: Mode, exchange: Exchange) -> list[logging.LogRecord]:
    caplog.set_level(logging.INFO, "llamad.access")
    caplog.clear()
    AccessLog(mode).write(exchange, 101.5)
    return caplog.records


def test_a_record_has_every_field_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = written(caplog, "all", an_exchange(error="upstream-died"))
    assert fields_of(record) == {
        "event": "request",
        "server": "qwen",
        "replica": 1,
        "key": "alice",
        "peer": "10.0.0.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ms": 1500.0,
        "ttfb_ms": 250.0,
        "queued_ms": 12.3,
        "bytes_in": 10,
        "bytes_out": 200,
        "prompt_tokens": 5,
        "completion_tokens": 12,
        "request_id": "r-1",
        "retries": 1,
        "error": "upstream-died",
    }
    assert record.name == "llamad.access"
    assert record.getMessage() == "POST /v1/chat/completions 200 qwen 1500.0ms 10.0.0.1 alice (upstream-died)"
    assert "secret" not in str(vars(record))


def test_what_is_not_there_is_not_written(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(a_head("GET", "/health"), "r-1", began=101.0, peer="unix")
    exchange.status = 200
    (record,) = written(caplog, "all", exchange)
    assert record.getMessage() == "GET /health 200 - 500.0ms unix -"
    assert not {"server", "replica", "key", "ttfb_ms", "prompt_tokens", "error"} & set(fields_of(record))


@pytest.mark.parametrize(
    ("mode", "status", "error", "level"),
    [
        ("all", 200, None, logging.INFO),
        ("all", 404, None, logging.INFO),
        ("errors", 200, None, None),
        ("errors", 404, None, logging.INFO),
        ("errors", 503, None, logging.WARNING),
        ("errors", 200, "upstream-died", logging.WARNING),
        ("errors", 200, "client-left", logging.INFO),
        ("errors", 0, None, logging.INFO),
        ("off", 503, "upstream-died", None),
    ],
)
def test_what_is_written_and_how_loud(
    caplog: pytest.LogCaptureFixture, mode: Mode, status: int, error: str | None, level: int | None
) -> None:
    records = written(caplog, mode, an_exchange(status, error=error))
    assert [record.levelno for record in records] == ([] if level is None else [level])


def test_a_level_that_is_off_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "llamad.access")
    AccessLog("all").write(an_exchange(), 101.0)
    assert not caplog.records


def test_a_long_path_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = written(caplog, "all", an_exchange(path="/" + "x" * 5000))
    assert len(str(fields_of(record)["path"])) == 259


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (USAGE, (5, 12)),
        (b'{"usage": {"input_tokens": 3, "output_tokens": 4}}', (3, 4)),
        (b'"timings":{"prompt_n":7,"prompt_ms":1.5,"predicted_n":8}', (7, 8)),
        (b'"usage":{"prompt_tokens":9,"total_tokens":9}', (9, None)),
        (b'event: message_start ... "output_tokens":1} ... "output_tokens":30}', (None, 30)),
        (b'"content":"\\"completion_tokens\\":99 \\"prompt_tokens\\": 98"', (None, None)),
        (b'"completion_tokens":1234567890123', (None, None)),
        (b"", (None, None)),
    ],
)
def test_tokens_are_read_from_the_end_of_an_answer(tail: bytes, expected: tuple[int | None, int | None]) -> None:
    assert tokens(tail) == expected


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (
            b'"usage":{"completion_tokens":4,"prompt_tokens":31,"total_tokens":35},"timings":{"cache_n":30,"prompt_n":1}',
            (31, 4),
        ),
        (b'"timings":{"cache_n":30,"prompt_n":1,"predicted_n":4}', (31, 4)),
        (b'"timings":{"prompt_n":31,"predicted_n":4}', (31, 4)),
        (b'"usage":{"cache_read_input_tokens":30,"input_tokens":1,"output_tokens":4}', (31, 4)),
        (b'"usage":{"input_tokens":31,"input_tokens_details":{"cached_tokens":30},"output_tokens":4}', (31, 4)),
        (b'"tokens_predicted":4,"tokens_evaluated":31,"timings":{"cache_n":30,"prompt_n":1,"predicted_n":4}', (31, 4)),
        (b'"content":"\\"prompt_tokens\\": 5"', (None, None)),
    ],
)
def test_a_cached_prompt_counts_as_a_whole_in_every_shape(tail: bytes, expected: tuple[int | None, int | None]) -> None:
    """A stream without usage and an answer with timings beside it told only what was not in the cache."""
    assert tokens(tail) == expected
