"""Clients that wait, leave, or do not keep up."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from llamad.gateway.shared import Limits
from llamad.gateway.types import Refusal
from llamad.host.address import UnixAddress
from tests.gateway.gate import BOUND, Gate, Rules, a_gate, get, post
from tests.gateway.memory import Line
from tests.gateway.origin import EVENT, STREAM_HEAD, Origin, Seen, chunk, plain


async def test_request_that_waits_is_answered_when_it_is_let_in(gate: Gate) -> None:
    gate.rules.full = True
    wire = await gate.wire()
    wire.send(post())
    await gate.until(lambda: len(gate.rules.waiting) == 1)
    gate.rules.admit()
    assert (await wire.reply()).status == 200
    assert gate.rules.records[0].queued_s >= 0


async def test_client_that_leaves_the_queue_gives_its_place_back(gate: Gate, origin: Origin) -> None:
    gate.rules.full = True
    wire = await gate.wire()
    wire.send(post())
    await gate.until(lambda: len(gate.rules.waiting) == 1)
    await wire.close()
    await gate.until(lambda: not gate.rules.waiting)
    assert gate.rules.records[0].error == "client-left"
    assert not origin.requests


async def test_refusal_is_told_with_the_time_to_wait(gate: Gate) -> None:
    gate.rules.refusal = Refusal(503, "overloaded", "the queue is full", retry_after=7)
    wire = await gate.wire()
    wire.send(post())
    reply = await wire.reply()
    assert (reply.status, reply.header("retry-after")) == (503, "7")
    assert reply.error == "the queue is full"
    wire.send(get("/health"))
    assert (await wire.reply()).status == 200


async def test_request_that_waited_may_be_refused_in_the_end(gate: Gate) -> None:
    gate.rules.full = True
    wire = await gate.wire()
    wire.send(post())
    await gate.until(lambda: len(gate.rules.waiting) == 1)
    gate.rules.waiting.pop().decided(Refusal(503, "timeout", "it did not come up"))
    assert (await wire.reply()).error == "it did not come up"


async def test_server_is_held_back_from_the_first_byte_where_the_client_is_behind_already() -> None:
    line = Line(answer=b"").start()
    assert line.upstream is not None
    await line.send(post())
    line.client.pause_writing()
    line.upstream.data_received(plain(200, b"hello")[:-1])
    paused = [line.up.paused]
    line.upstream.data_received(b"o")
    assert [*paused, line.up.paused] == [True, False], "a connection that is kept is read"
    line.client.resume_writing()
    assert bytes(line.down.out).endswith(b"hello")


@pytest.mark.parametrize("started", [False, True])
async def test_client_that_leaves_ends_the_work_for_it(gate: Gate, origin: Origin, *, started: bool) -> None:
    working = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if started:
            writer.write(STREAM_HEAD + chunk(EVENT))
        working.set()
        await asyncio.Event().wait()

    origin.behave = behave
    wire = await gate.wire()
    wire.send(post())
    await working.wait()
    if started:
        await wire.head()
    await wire.close()
    await gate.until(lambda: origin.left == 1)
    assert gate.rules.records[0].error == "client-left"
    assert gate.rules.records[0].status == (200 if started else 499)


@pytest.fixture
def full(origin: Origin) -> Iterator[socket.socket]:
    """A server in `origin`'s place that lets nobody else wait for a connection."""
    origin.path.unlink()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(origin.path))
        server.listen(0)
        first.connect(str(origin.path))
        yield server


async def test_client_that_leaves_while_connecting_leaves_nothing(gate: Gate, full: socket.socket) -> None:
    wire = await gate.wire()
    wire.send(post())
    await gate.until(lambda: gate.rules.held == 1)
    await wire.close()
    await gate.until(lambda: gate.rules.held == 0)
    assert gate.rules.asked == [(False, None)]


async def test_server_that_takes_connections_slowly_is_waited_for(gate: Gate, full: socket.socket) -> None:
    wire = await gate.wire()
    wire.send(post())
    await gate.until(lambda: gate.rules.held == 1)
    full.settimeout(5)
    with full.accept()[0]:
        second, _ = await asyncio.to_thread(full.accept)
        with second:
            second.settimeout(5)
            assert await asyncio.to_thread(second.recv, 1 << 16), "the request: before it nothing is an answer"
            second.sendall(plain(200, b"at last"))
            assert (await wire.reply()).body == b"at last"


async def test_server_is_held_back_while_the_client_does_not_read(gate: Gate, origin: Origin) -> None:
    big = 12 << 20
    written = 0
    held_back = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % big)
        for _ in range(big >> 16):
            writer.write(b"x" * (1 << 16))
            drained = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait((drained,), timeout=0.1))[0]:
                held_back.set()
            await drained
            written += 1 << 16
        held_back.set()  # or never: what was written tells

    origin.behave = behave
    wire = await gate.wire()
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    wire.send(post())
    await asyncio.wait_for(held_back.wait(), BOUND)
    assert written < big - (2 << 20)
    reply = await wire.reply()
    assert len(reply.body) == big
    wire.send(post())
    assert len((await wire.reply()).body) == big
    assert origin.connections == 1


QUICK = Limits(half_closed=0.05, sweep=0.01)
AFTER = [b"", post(b"again"), post(b"again")[:-3]]
"""What a client sent ahead of its end: nothing, a whole request, one that never becomes whole."""


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("ahead", AFTER)
@pytest.mark.parametrize("waits", [0.0, 0.3])
async def test_client_that_closes_its_sending_side_gets_its_answer(
    origin: Origin, *, unix: bool, ahead: bytes, waits: float
) -> None:
    """`nc -N`, and some proxies: the end of what is sent was taken for the client's leaving."""

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(waits)
        writer.write(plain(200, seen.body))

    origin.behave = behave
    async with a_gate(Rules([UnixAddress(origin.path)]), QUICK) as gate:
        wire = await gate.wire(unix=unix)
        wire.send(post(b"once") + ahead)
        wire.writer.write_eof()
        got = await wire.ended()
        answers = [one for one in got.split(b"HTTP/1.1 ") if one and not one.startswith(b"100 ")]
        expected = [b"once", b"again"][: 1 + (ahead == AFTER[1])]
        assert [one.partition(b"\r\n\r\n")[2] for one in answers] == expected
        assert not waits or b"100 Continue" in got


@pytest.mark.parametrize("unix", [False, True])
async def test_client_that_closes_its_sending_side_gets_a_stream_to_its_end(origin: Origin, *, unix: bool) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT))
        await asyncio.sleep(0.3)
        for part in (chunk(EVENT[:5]), chunk(EVENT[5:]), b"0\r\n\r\n"):
            writer.write(part)
            await asyncio.sleep(0.1)

    origin.behave = behave
    async with a_gate(Rules([UnixAddress(origin.path)]), QUICK) as gate:
        wire = await gate.wire(unix=unix)
        wire.send(post())
        wire.writer.write_eof()
        reply = await wire.reply()
        assert reply.complete
        assert reply.body.replace(b":\n\n", b"") == EVENT * 2
        assert b":\n\n" in reply.body


@pytest.mark.parametrize("started", ["nothing", "a head", "an event", "half an event"])
@pytest.mark.parametrize("unix", [False, True])
async def test_client_that_left_is_found_out_soon(origin: Origin, started: str, *, unix: bool) -> None:
    """No GPU works for nobody: over TCP the end of a connection looks like half a close until something is sent."""
    beginning = {"nothing": b"", "a head": STREAM_HEAD, "an event": STREAM_HEAD + chunk(EVENT)}
    working = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning.get(started, STREAM_HEAD + chunk(EVENT[:5])))
        working.set()
        while started in ("a head", "half an event"):  # what comes tells
            await asyncio.sleep(0.05)
            writer.write(chunk(b":"))
        await asyncio.Event().wait()

    origin.behave = behave
    async with a_gate(Rules([UnixAddress(origin.path)]), QUICK) as gate:
        wire = await gate.wire(unix=unix)
        wire.send(post())
        await working.wait()
        if started != "nothing":
            await wire.head()
        began = asyncio.get_running_loop().time()
        await wire.close()
        await gate.until(lambda: origin.left == 1)
        assert asyncio.get_running_loop().time() - began < 2
        assert gate.rules.records[0].error == "client-left"
