"""What a client may take, and what happens to one that takes more."""

import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from llamad.gateway.shared import Limits
from llamad.gateway.types import Answer
from llamad.host.address import UnixAddress
from tests.gateway.gate import BOUND, Gate, Rules, a_gate, get, post
from tests.gateway.origin import STREAM_HEAD, Origin, Seen, chunk, plain

SOON = 0.05
QUICK = Limits(
    max_body=1000,
    bodies=1500,
    head_timeout=SOON,
    body_timeout=SOON,
    idle_timeout=SOON,
    stall_timeout=SOON,
    linger=SOON,
    sweep=0.01,
)


@pytest.fixture
async def quick(origin: Origin) -> AsyncIterator[Gate]:
    """A gateway without patience."""
    async with a_gate(Rules([UnixAddress(origin.path)]), QUICK) as one:
        yield one


async def test_connection_without_a_request_is_closed(quick: Gate) -> None:
    wire = await quick.wire()
    assert await wire.ended() == b""
    assert quick.rules.begun == 0


async def test_idle_connection_is_closed(quick: Gate) -> None:
    wire = await quick.wire()
    wire.send(get("/health"))
    assert (await wire.reply()).status == 200
    assert await wire.ended() == b""


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\nGET"])
async def test_slow_head_is_a_408(quick: Gate, sent: bytes) -> None:
    wire = await quick.wire()
    wire.send(sent)
    reply = await wire.reply()
    assert (reply.status, reply.header("connection")) == (408, "close")
    assert await wire.ended() == b""


@pytest.mark.parametrize(
    "body", [post(b"x" * 100)[:-1], post(b"", "Transfer-Encoding: chunked", length=False) + b"5\r\n"]
)
async def test_slow_body_is_a_408(quick: Gate, origin: Origin, body: bytes) -> None:
    wire = await quick.wire()
    wire.send(body)
    assert (await wire.reply()).status == 408
    assert await wire.ended() == b""
    assert not origin.requests


async def test_body_that_goes_on_is_waited_for(origin: Origin) -> None:
    async with a_gate(Rules([UnixAddress(origin.path)]), Limits(body_timeout=10 * SOON, sweep=0.01)) as gate:
        wire = await gate.wire()
        wire.send(post(b"x" * 12)[:-12])
        for _ in range(12):
            await asyncio.sleep(SOON)
            wire.send(b"x")
        assert (await wire.reply()).status == 200


async def test_answer_that_takes_long_is_waited_for(quick: Gate, origin: Origin) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(SOON * 3)
        writer.write(STREAM_HEAD + chunk(b"a"))
        await asyncio.sleep(SOON * 3)
        writer.write(b"0\r\n\r\n")

    origin.behave = behave
    assert (await quick.ask(post())).body == b"a"


async def test_client_that_takes_nothing_is_dropped(quick: Gate, origin: Origin) -> None:
    ended = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 << 20))
        try:
            while True:
                writer.write(b"x" * (1 << 18))
                await writer.drain()
        finally:
            ended.set()

    origin.behave = behave
    wire = await quick.wire()
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire.send(post())
    await quick.until(lambda: len(quick.rules.records) == 1)
    assert quick.rules.records[0].error == "client-left"
    await asyncio.wait_for(ended.wait(), SOON * 100)


async def test_refused_client_that_goes_on_sending_is_dropped(quick: Gate) -> None:
    wire = await quick.wire()
    wire.send(b"nonsense\r\n\r\n")
    assert (await wire.reply()).status == 400
    assert await wire.ended() == b""

    def gone() -> bool:
        wire.writer.write(b"x")
        return quick.server.connections == 0

    await quick.until(gone)


async def test_body_beyond_the_limit_is_a_413_before_it_is_sent(quick: Gate) -> None:
    wire = await quick.wire()
    wire.send(post(b"x" * 1001, "Expect: 100-continue")[:-1001])
    reply = await wire.reply()
    assert (reply.status, reply.header("connection")) == (413, "close")
    assert "1000 bytes" in reply.error
    exact = await quick.ask(post(b"x" * 1000))
    assert exact.status == 200


async def test_chunks_beyond_the_limit_are_a_413(quick: Gate) -> None:
    wire = await quick.wire()
    wire.send(post(b"", "Transfer-Encoding: chunked", length=False) + chunk(b"x" * 600) * 2)
    assert (await wire.reply()).status == 413


async def test_large_upload_that_is_refused_still_reads_why(gate: Gate) -> None:
    wire, piece = await gate.wire(), bytes(1 << 20)
    wire.send(post(b"", f"Content-Length: {65 << 20}", length=False))
    for _ in range(65):
        wire.send(piece)
        await wire.writer.drain()
    assert (await wire.reply()).status == 413
    assert await wire.ended() == b""


async def test_all_bodies_together_have_a_limit(quick: Gate) -> None:
    first, second = await quick.wire(), await quick.wire()
    first.send(post(b"x" * 1000)[:-1])
    await quick.until(lambda: quick.rules.begun == 1)
    second.send(post(b"x" * 1000)[:-1])
    assert (await second.reply()).status == 503
    first.send(b"x")
    assert (await first.reply()).status == 200
    again = await quick.ask(post(b"x" * 1000))
    assert again.status == 200


FEW = Limits(connections=20, linger=SOON, sweep=0.01)


async def test_where_every_connection_has_a_request_one_more_is_told_so_and_the_next_wait(origin: Origin) -> None:
    """Beyond the limit and its sixteenth nobody is taken: they wait in the backlog until somebody has left."""
    go_on = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(plain(200))

    origin.behave = behave
    async with a_gate(Rules([UnixAddress(origin.path)]), FEW) as gate:
        busy = [await gate.wire() for _ in range(20)]
        for wire in busy:
            wire.send(post())
        await gate.until(lambda: len(origin.requests) == 20)
        replies = await asyncio.gather(*(gate.ask(get("/health")) for _ in range(5)))
        assert {reply.status for reply in replies} == {503}
        assert "too many connections" in replies[0].error
        assert gate.server.connections <= 21
        go_on.set()
        assert [(await wire.reply()).status for wire in busy] == [200] * 20
        assert (await gate.ask(get("/health"))).status == 200


async def test_idle_connections_make_room_those_without_a_key_first() -> None:
    rules = Rules(key=b"secret")
    async with a_gate(rules, FEW) as gate:
        known, refused, silent, halfway = [await gate.wire() for _ in range(4)]
        known.send(get("/health", "Authorization: Bearer secret"))
        assert (await known.reply()).status == 200
        refused.send(get("/health", "Authorization: Bearer wrong"))
        assert (await refused.reply()).status == 401
        halfway.send(b"GET /hea")
        many = [await gate.wire() for _ in range(400)]  # oldest first: those of before are long gone
        assert await silent.ended() == b""
        assert await refused.ended() == b""
        assert await halfway.ended() == b""
        assert gate.server.connections <= 21
        many[-1].send(get("/health", "Authorization: Bearer secret"))
        assert (await many[-1].reply()).status == 200
        known.send(get("/health", "Authorization: Bearer secret"))
        assert (await known.reply()).status == 200


async def test_a_lack_of_descriptors_costs_an_idle_connection_and_one_line(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a traceback for each connection that waits, and nobody is let down who has a request."""
    idle = [await gate.wire() for _ in range(10)]
    await gate.until(lambda: gate.server.connections == 10)
    held: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket() for _ in range(5)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 3, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for sock in waiting:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(("127.0.0.1", gate.port))
            sock.send(get("/health", "Connection: close"))
        loop = asyncio.get_running_loop()
        for sock in waiting:
            async with asyncio.timeout(BOUND):
                assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200")
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in waiting:
            sock.close()
    lines = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert len([one for one in lines if "cannot be taken: Too many open files" in one.getMessage()]) == 1
    assert not [one for one in lines if one.exc_info]
    assert sum(wire.reader.at_eof() for wire in idle) <= 5


async def test_slow_clients_do_not_stop_an_honest_one(gate: Gate) -> None:
    slow = [await gate.wire() for _ in range(300)]
    for wire in slow:
        wire.send(b"POST /v1/x HTTP/1.1\r\nHost: gate\r\nX: ")
    for number in range(20):
        for wire in slow[number::20]:
            wire.send(b"y")
        assert json.loads((await gate.ask(post(b"%d" % number))).body)["body"] == str(number)
    assert gate.server.connections >= 300


async def test_server_that_closes_soon_is_not_asked_on_an_old_connection(gate: Gate, origin: Origin) -> None:
    """A connection that has been idle for longer than cpp-httplib keeps one is not used again."""
    loop = asyncio.get_running_loop()
    wire = await gate.wire()
    wire.send(post())
    assert (await wire.reply()).status == 200
    shared = gate.server._shared
    shared.upstreams.sweep(loop.time() + 3)
    assert shared.upstreams._pools
    shared.upstreams.sweep(loop.time() + 5)
    await gate.until(lambda: not shared.upstreams._pools[gate.rules.addresses[0]].open)
    shared.upstreams.sweep(loop.time())
    assert not shared.upstreams._pools


@pytest.fixture
async def ending(origin: Origin) -> AsyncIterator[Gate]:
    """A gateway that does not wait long for what may be on its way when it ends."""
    async with a_gate(Rules([UnixAddress(origin.path)]), Limits(last_request=4 * SOON, sweep=0.01)) as one:
        yield one


async def test_drain_lets_requests_end_and_takes_no_new_ones(ending: Gate, origin: Origin) -> None:
    gate = ending
    working, go_on = asyncio.Event(), asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        working.set()
        await go_on.wait()
        writer.write(plain(200, b"in time"))

    origin.behave = behave
    busy, idle = await gate.wire(), await gate.wire()
    idle.send(get("/health"))
    assert (await idle.reply()).status == 200
    busy.send(post())
    await working.wait()
    port = gate.port
    drained = asyncio.ensure_future(gate.server.drain(60))
    assert await idle.ended() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert not drained.done()
    go_on.set()
    reply = await busy.reply()
    assert (reply.body, reply.header("connection")) == (b"in time", "close")
    await asyncio.wait_for(drained, BOUND)


async def test_request_on_its_way_at_the_end_is_answered(ending: Gate, origin: Origin) -> None:
    gate = ending
    fresh, used, streaming = await gate.wire(), await gate.wire(), await gate.wire()
    go_on = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await go_on.wait()
        writer.write(b"0\r\n\r\n")

    origin.behave = behave
    used.send(get("/health"))
    assert (await used.reply()).status == 200
    streaming.send(post())
    await streaming.reader.readuntil(b"data: 1\n\n\r\n")  # its head said that the connection is kept
    drained = asyncio.ensure_future(gate.server.drain(60))
    await asyncio.sleep(0)
    for wire in (fresh, used):
        wire.send(get("/health"))
        reply = await wire.reply()
        assert (reply.status, reply.header("connection")) == (200, "close")
    go_on.set()
    await streaming.reader.readuntil(b"0\r\n\r\n")
    streaming.send(get("/health"))
    assert (await streaming.reply()).status == 200
    await asyncio.wait_for(drained, BOUND)


async def test_drain_has_an_end(gate: Gate) -> None:
    waits = asyncio.get_running_loop().create_future()

    async def handle() -> Answer:
        await waits
        raise NotImplementedError

    gate.rules.local = handle
    wire = await gate.wire()
    wire.send(get("/local"))
    await gate.until(lambda: gate.rules.begun == 1)
    await gate.server.drain(0.01)
    assert gate.server.connections == 1


async def test_gateway_says_when_it_does_not_look_after_its_connections(gate: Gate) -> None:
    now = asyncio.get_running_loop().time()
    assert gate.server.stuck(now) is None
    assert "20 s" in (gate.server.stuck(now + 20) or "")
