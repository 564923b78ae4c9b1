"""Clients that wait, leave, or do not keep up."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from llamad.gateway.types import Refusal
from tests.gateway.gate import BOUND, Gate, get, post
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
