"""Answers' heads as values."""

from typing import Any

import pytest

from llamad.gateway.answers import client_head, own_answer, read_answer
from llamad.gateway.fields import MalformedError
from llamad.gateway.types import Answer
from tests.gateway.fleets import a_request

KEPT = b"keep-alive: timeout=75"
OK = b"HTTP/1.1 200 OK\r\nServer: x"


def headed(block: bytes, **how: Any) -> list[bytes]:
    return client_head(*read_answer(block), a_request(), **{"cors": [], "keep_alive": 75, **how}).split(b"\r\n")


def test_answer_is_written_anew() -> None:
    lines = headed(OK + b"\r\nConnection: X\r\nX: y\r\nKeep-Alive: timeout=5\r\nContent-Length: 5")
    assert lines == [b"HTTP/1.1 200 OK", b"server: x", b"x-request-id: r-1", b"content-length: 5", KEPT, b"", b""]
    with_cors = headed(OK, cors=[(b"vary", b"origin")], keep_alive=0)
    assert with_cors == [OK[:15], b"server: x", b"vary: origin", b"x-request-id: r-1", b"connection: close", b"", b""]


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_frames_none(status: int) -> None:
    lines = headed(b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked" % status)
    assert lines == [b"HTTP/1.1 %d X" % status, b"x-request-id: r-1", KEPT, b"", b""]


def test_answer_without_a_reason_has_none() -> None:
    assert headed(b"HTTP/1.0 404")[0] == b"HTTP/1.1 404 "


def test_old_and_closing_servers_are_not_kept() -> None:
    assert read_answer(OK)[0].keep_alive
    assert not read_answer(OK + b"\r\nConnection: Close")[0].keep_alive
    assert not read_answer(b"HTTP/1.0 200 OK")[0].keep_alive


@pytest.mark.parametrize("odd", [b"content-Length: 5", b"Content-Length:5"])
def test_odd_lengths_are_read_each_time(odd: bytes) -> None:
    for _ in range(2):
        assert read_answer(OK + b"\r\n" + odd)[1] == 5
    assert read_answer(OK)[1] is None


def test_what_is_remembered_lets_no_second_framing_pass() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
    assert read_answer(chunked)[0].chunked
    for block in (chunked + b"\r\nContent-Length: 5", chunked.replace(b"1.1", b"1.0"), chunked + b", gzip"):
        with pytest.raises(MalformedError):
            read_answer(block)
    assert read_answer(OK + b"\r\nContent-Length: 5")[1] == 5
    with pytest.raises(MalformedError):
        read_answer(OK + b"\r\nContent-Length: 5\r\nContent-Length: 6")


@pytest.mark.parametrize("first", [b"HTTP/1.1 099 X", b"HTTP/1.2 200 OK", b"HTTP/1.1  200", b"200 OK", b""])
def test_nonsense_is_no_answer(first: bytes) -> None:
    with pytest.raises(MalformedError) as refused:
        read_answer(first)
    assert refused.value.status == 502


def test_own_answer_is_whole() -> None:
    answer = Answer(404, b"{}", headers=[(b"a", b"b")])
    written = own_answer(answer, a_request(), cors=[(b"vary", b"origin")], keep_alive=0)
    head, body = written.split(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 404 Not Found"
    assert lines[1].startswith(b"date: ")
    rest = {b"x-request-id: r-1", b"a: b", b"vary: origin", b"content-type: application/json", b"content-length: 2"}
    assert {*lines[2:]} == {*rest, b"connection: close"}
    assert body == b"{}"


def test_own_answer_has_no_body_where_none_may_be() -> None:
    assert own_answer(Answer(200, b"{}"), a_request("HEAD"), cors=[], keep_alive=75).endswith(
        b": 2\r\n" + KEPT + b"\r\n\r\n"
    )
    nothing = own_answer(Answer(204), a_request(), cors=[], keep_alive=75)
    assert b"content-length" not in nothing
    assert own_answer(Answer(799, b"x"), a_request(), cors=[], keep_alive=75).startswith(b"HTTP/1.1 799 Unknown\r\n")


def test_a_stream_is_not_to_be_collected_by_a_proxy() -> None:
    head = OK + b"\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"
    for block in (head, head + b"\r\nX-Accel-Buffering: yes"):
        assert [line for line in headed(block) if b"accel" in line] == [b"x-accel-buffering: no"]
    assert not any(b"accel" in line for line in headed(OK + b"\r\nContent-Type: application/json"))
