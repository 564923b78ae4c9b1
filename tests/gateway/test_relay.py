"""Requests on their way through the gateway, over real sockets: what reaches whom."""

import asyncio
import json

import pytest

from llamad.gateway.types import Answer
from tests.gateway.gate import Gate, get, post
from tests.gateway.origin import STREAM_HEAD, Origin, Seen, answering, chunk, plain


async def test_request_is_passed_on_and_its_answer_back(gate: Gate, origin: Origin) -> None:
    reply = await gate.ask(post(b'{"model": "x"}'))
    assert reply.status == 200
    assert json.loads(reply.body)["body"] == '{"model": "x"}'
    assert reply.header("content-type") == "application/json"
    assert origin.requests[0].header("content-type") == "application/json"
    (record,) = gate.rules.records
    assert (record.status, record.server, record.replica, record.bytes_in) == (200, "one", 0, 14)
    assert record.first_byte is not None
    assert reply.body in record.tail


async def test_what_concerns_the_connection_or_the_client_ends_here(gate: Gate, origin: Origin) -> None:
    lines = [
        "Connection: keep-alive, X-Mine",
        "X-Mine: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Upgrade: h2c",
        "Authorization: Bearer secret",
        "x-api-key: secret",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Forwarded-For: 10.0.0.9",
    ]
    origin.behave = answering(
        plain(
            200, b"{}", b"Connection: keep-alive, X-Theirs", b"X-Theirs: 1", b"Access-Control-Allow-Origin: *", b"A: b"
        )
    )
    reply = await gate.ask(post(b"{}", *lines))
    (seen,) = origin.requests
    names = {name for name, _ in seen.headers}
    assert not names & {"connection", "x-mine", "keep-alive", "te", "upgrade", "authorization", "x-api-key"}
    assert seen.header("traceparent") == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert seen.header("x-forwarded-for") == "10.0.0.9, 127.0.0.1"
    assert (seen.header("x-forwarded-proto"), seen.header("x-forwarded-host")) == ("http", "gate")
    assert seen.header("host") == "localhost"
    assert reply.header("a") == "b"
    assert not {name for name, _ in reply.headers} & {"connection", "x-theirs", "access-control-allow-origin"}


async def test_request_id_is_kept_where_it_is_sane(gate: Gate, origin: Origin) -> None:
    kept = await gate.ask(post(b"{}", "X-Request-Id: mine-1"))
    made = await gate.ask(post(b"{}", "X-Request-Id: <script>"))
    ids = [seen.header("x-request-id") for seen in origin.requests]
    assert ids == [kept.header("x-request-id"), made.header("x-request-id")]
    assert ids[0] == "mine-1"
    assert ids[1] != "<script>"
    assert ids[1]


async def test_external_server_is_given_its_own_key(gate: Gate, origin: Origin) -> None:
    gate.rules.authorization = b"Bearer theirs"
    await gate.ask(post(b"{}", "Authorization: Bearer mine"))
    assert origin.requests[0].header("authorization") == "Bearer theirs"


async def test_cors_headers_are_added(gate: Gate) -> None:
    gate.rules.cors_headers = [(b"access-control-allow-origin", b"https://a")]
    for request in (post(), get("/health")):
        reply = await gate.ask(request)
        assert reply.header("access-control-allow-origin") == "https://a"


async def test_connections_are_kept_and_used_again_on_both_sides(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire()
    for number in range(3):
        wire.send(post(b'{"n": %d}' % number))
        assert (await wire.reply()).status == 200
    assert origin.connections == 1
    assert len(origin.requests) == 3


async def test_unix_clients_are_served(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire(unix=True)
    wire.send(post())
    assert (await wire.reply()).status == 200
    assert origin.requests[0].header("x-forwarded-for") == "unix"


async def test_requests_sent_ahead_are_answered_in_order_one_at_a_time(gate: Gate, origin: Origin) -> None:
    at_once = 0

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once
        at_once += 1
        assert at_once == 1
        await asyncio.sleep(0)
        writer.write(plain(200, seen.body))
        at_once -= 1

    origin.behave = behave
    wire = await gate.wire()
    wire.send(b"".join(post(b"%d" % number) for number in range(20)) + get("/health") + post(b"last"))
    bodies = [(await wire.reply()).body for _ in range(22)]
    assert bodies == [b"%d" % number for number in range(20)] + [b"fine", b"last"]


async def test_more_sent_ahead_than_is_kept_is_read_later(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire()
    many, body = 40, b"x" * 10_000
    wire.send(post(body) * many)
    for _ in range(many):
        assert (await wire.reply()).status == 200
    assert [len(seen.body) for seen in origin.requests] == [10_000] * many


async def test_head_has_no_body_and_options_is_passed_on(gate: Gate, origin: Origin) -> None:
    origin.behave = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    wire = await gate.wire()
    wire.send(get(method="HEAD"))
    reply = await wire.reply(to_head=True)
    assert reply.header("content-length") == "5"
    wire.send(get("/health", method="HEAD"))
    reply = await wire.reply(to_head=True)
    assert (reply.status, reply.header("content-length")) == (200, "4")
    origin.behave = answering(b"HTTP/1.1 204 No Content\r\n\r\n")
    wire.send(get("*", method="OPTIONS"))
    reply = await wire.reply()
    assert (reply.status, reply.header("content-length")) == (204, None)
    assert [(seen.method, seen.target) for seen in origin.requests] == [("HEAD", "/props"), ("OPTIONS", "*")]


async def test_bodies_are_sent_with_a_length(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire()
    wire.send(
        post(b"", "Transfer-Encoding: chunked", length=False) + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    )
    assert json.loads((await wire.reply()).body)["body"] == "abcde"
    wire.send(post(b"x" * 300_000))
    assert (await wire.reply()).status == 200
    wire.send(post(b""))
    assert (await wire.reply()).status == 200
    assert [seen.header("content-length") for seen in origin.requests] == ["5", "300000", "0"]
    assert [seen.header("transfer-encoding") for seen in origin.requests] == [None] * 3
    assert [seen.header("trailer") for seen in origin.requests] == [None] * 3


async def test_expectation_is_met_when_the_body_is_wanted(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire()
    wire.send(post(b"hello", "Expect: 100-continue")[:-5])
    assert (await wire.head())[0] == 100
    wire.send(b"hello")
    assert (await wire.reply()).status == 200
    assert origin.requests[0].header("expect") is None


async def test_body_that_nobody_wants_is_not_asked_for(gate: Gate, origin: Origin) -> None:
    gate.rules.key = b"right"
    wire = await gate.wire()
    wire.send(post(b"hello", "Expect: 100-continue")[:-5])
    reply = await wire.reply()
    assert (reply.status, reply.header("connection")) == (401, "close")
    assert await wire.ended() == b""
    assert not origin.requests


async def test_refused_request_whose_body_came_does_not_end_the_connection(gate: Gate) -> None:
    wire = await gate.wire()
    wire.send(post(b"hello", path="/nothing") + get("/health"))
    assert (await wire.reply()).status == 404
    assert (await wire.reply()).body == b"fine"


async def test_local_answer_is_waited_for_and_dropped_when_the_client_leaves(gate: Gate) -> None:
    came = asyncio.get_running_loop().create_future()
    gate.rules.local = lambda: came
    wire = await gate.wire()
    wire.send(get("/local"))
    left = await gate.wire()
    left.send(get("/local"))
    await gate.until(lambda: gate.rules.begun == 2)
    await left.close()
    await gate.until(lambda: len(gate.rules.records) == 1)
    assert (gate.rules.records[0].error, gate.rules.records[0].status) == ("client-left", 499)


async def test_local_answer_is_written(gate: Gate) -> None:
    async def handle() -> Answer:
        await asyncio.sleep(0)
        return Answer(200, b"local")

    gate.rules.local = handle
    assert (await gate.ask(get("/local"))).body == b"local"


async def test_local_answer_that_fails_is_a_500(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    async def handle() -> Answer:
        raise ValueError("a bug")

    gate.rules.local = handle
    wire = await gate.wire()
    wire.send(get("/local"))
    assert (await wire.reply()).status == 500
    assert "a bug" in caplog.text
    wire.send(get("/health"))
    assert (await wire.reply()).status == 200


# --- streams ---


async def test_each_chunk_is_passed_on_when_it_comes(gate: Gate, origin: Origin) -> None:
    go = asyncio.Semaphore(0)

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for number in range(5):
            writer.write(chunk(b"data: %d\n\n" % number))
            await go.acquire()
        writer.write(b"0\r\n\r\n")

    origin.behave = behave
    wire = await gate.wire()
    wire.send(post())
    assert (await wire.head())[0] == 200
    for number in range(5):
        async with asyncio.timeout(30):
            assert await wire.reader.readuntil(b"\n\n\r\n") == chunk(b"data: %d\n\n" % number)
        go.release()
    assert await wire.reader.readexactly(5) == b"0\r\n\r\n"
    await gate.until(lambda: len(gate.rules.records) == 1)
    wire.send(post())
    go.release()
    assert (await wire.head())[0] == 200
    for _ in range(4):
        go.release()
    await wire.reader.readuntil(b"0\r\n\r\n")
    assert origin.connections == 1


async def test_old_clients_get_no_chunks(gate: Gate, origin: Origin) -> None:
    origin.behave = answering(STREAM_HEAD, chunk(b"a"), chunk(b"bc") + b"0\r\nTrailer: x\r\n\r\n")
    wire = await gate.wire()
    wire.send(b"POST /v1/x HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    reply = await wire.reply()
    assert (reply.body, reply.header("transfer-encoding"), reply.header("connection")) == (b"abc", None, "close")


async def test_answer_that_ends_with_the_connection_ends_ours(gate: Gate, origin: Origin) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        raise EOFError

    origin.behave = behave
    reply = await gate.ask(post())
    assert (reply.body, reply.header("connection")) == (b"all of it", "close")
    assert gate.rules.records[0].error is None


async def test_interim_answers_are_not_passed_on(gate: Gate, origin: Origin) -> None:
    origin.behave = answering(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n", b"\r\n" + plain()
    )
    reply = await gate.ask(post())
    assert (reply.status, reply.header("link")) == (200, None)


async def test_surplus_after_an_answer_reaches_nobody(gate: Gate, origin: Origin) -> None:
    origin.behave = answering(plain(200, b"mine") + plain(200, b"injected"))
    wire = await gate.wire()
    for _ in range(3):
        wire.send(post())
        assert (await wire.reply()).body == b"mine"
    assert origin.connections == 3


@pytest.mark.parametrize("answer", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"])
async def test_body_where_none_may_be_reaches_nobody(gate: Gate, origin: Origin, answer: bytes) -> None:
    injected = plain(200, b"injected")
    origin.behave = answering(answer + b"\r\nContent-Length: %d\r\n\r\n" % len(injected) + injected)
    wire = await gate.wire()
    wire.send(post() + get("/health"))
    assert (await wire.reply()).body == b""
    assert (await wire.reply()).body == b"fine"


async def test_bytes_on_an_idle_connection_reach_nobody(gate: Gate, origin: Origin) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(plain(200, b"mine"))

    origin.behave = behave
    wire = await gate.wire()
    wire.send(post())
    assert (await wire.reply()).body == b"mine"
    writers[0].write(plain(200, b"injected"))
    await gate.until(lambda: origin.connections == 1 and writers[0].transport.is_closing())
    wire.send(post())
    assert (await wire.reply()).body == b"mine"
