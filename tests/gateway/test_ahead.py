"""Clients that send ahead of the answers, or do not read them: what they are given, and what they cannot take."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from llamad.gateway.client import Client
from llamad.gateway.shared import Limits
from llamad.gateway.types import Answer
from llamad.host.address import UnixAddress
from tests.gateway.gate import BOUND, Gate, Rules, a_gate, get, post
from tests.gateway.origin import STREAM_HEAD, Origin, Seen, chunk, plain

IMPATIENT = Limits(stall_timeout=0.1, body_timeout=0.1, sweep=0.02, max_body=1 << 20, bodies=3 << 20)
LARGE = b"y" * 200_000


@pytest.fixture
async def impatient(origin: Origin) -> AsyncIterator[Gate]:
    """A gateway that soon gives up."""
    async with a_gate(Rules([UnixAddress(origin.path)]), IMPATIENT) as one:
        yield one


@contextmanager
def a_slow_reader(gate: Gate) -> Iterator[socket.socket]:
    """A client that reads by hand, and whose kernel keeps little for it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", gate.port))
        sock.settimeout(0)
        yield sock


def read_some(sock: socket.socket) -> bytes:
    """What is there."""
    try:
        return sock.recv(1 << 16)
    except BlockingIOError:
        return b""


async def test_empty_lines_cost_nobody_else_time(gate: Gate) -> None:
    flood, honest = await gate.wire(), await gate.wire()
    flood.send(b"\r\n" * 3_000_000)
    began = time.perf_counter()
    honest.send(get("/health"))
    assert (await honest.reply()).status == 200
    flood.send(get("/health"))
    assert (await flood.reply()).status == 200
    assert time.perf_counter() - began < 0.7


async def test_who_does_not_read_is_answered_no_further(gate: Gate) -> None:
    """Its next requests wait until it reads."""

    async def handle() -> Answer:
        return Answer(200, LARGE)

    gate.rules.local = handle
    with a_slow_reader(gate) as sock:
        sock.sendall(get("/local") * 100)
        (client,) = await some_clients(gate)
        await gate.until(lambda: client.writing_paused)
        begun = gate.rules.begun
        for _ in range(100):
            await asyncio.sleep(0)
        assert gate.rules.begun == begun < 100
        answers = 0
        async with asyncio.timeout(4 * BOUND):
            while answers < 100 * len(LARGE):
                answers += read_some(sock).count(b"y")
                await asyncio.sleep(0)
    assert gate.rules.begun == 100


@pytest.mark.parametrize("cut", [None, 20])
async def test_what_comes_while_a_request_waits_its_turn_does_not_harm_it(
    gate: Gate, origin: Origin, cut: int | None
) -> None:
    third = post(b"3")
    with socket.create_connection(("127.0.0.1", gate.port)) as sock:

        async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(plain(200, seen.body))
            if seen.body == b"1":
                sock.sendall(third[:cut])  # reaches the gateway together with the first answer

        origin.behave = behave
        sock.sendall(post(b"1") + post(b"2"))
        await gate.until(lambda: len(gate.rules.records) >= 2)
        if cut is not None:
            sock.sendall(third[cut:])
        await gate.until(lambda: len(gate.rules.records) == 3)
    assert [seen.body for seen in origin.requests] == [b"1", b"2", b"3"]
    assert [one.status for one in gate.rules.records] == [200, 200, 200]


async def test_who_half_closes_and_does_not_read_is_dropped(impatient: Gate, origin: Origin) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while not writer.is_closing():
            writer.write(chunk(b"x" * 2000))
            await asyncio.sleep(0)

    origin.behave = behave
    with a_slow_reader(impatient) as sock:
        sock.sendall(post())
        (client,) = await some_clients(impatient)
        await impatient.until(lambda: client._transport.get_write_buffer_size() > 20_000)
        sock.shutdown(socket.SHUT_WR)
        await impatient.until(lambda: not impatient.server.connections)


async def some_clients(gate: Gate) -> list[Client]:
    await gate.until(lambda: gate.server.connections > 0)
    return [one for one in gate.server._shared.clients if isinstance(one, Client)]


async def test_who_leaves_behind_what_was_not_read_is_noticed(impatient: Gate, origin: Origin) -> None:
    working = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        working.set()
        await writer.wait_closed()

    origin.behave = behave
    wire = await impatient.wire()
    wire.send(post(b"1"))
    await working.wait()
    wire.send(post(LARGE))
    await wire.writer.drain()
    await wire.close()
    await impatient.until(lambda: impatient.rules.held == 0)
    assert [one.error for one in impatient.rules.records] == ["client-left"]


async def test_what_was_sent_ahead_of_the_last_answer_does_not_cost_it(origin: Origin) -> None:
    """Nobody looks at it any more, but it is read: closing with bytes unread would reset the connection."""
    answer, go_on = b"z" * 3_000_000, asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(plain(200, answer))

    origin.behave = behave
    async with a_gate(Rules([UnixAddress(origin.path)]), Limits()) as gate:
        with a_slow_reader(gate) as sock:
            sock.sendall(post(b"1", "Connection: close"))
            (client,) = await some_clients(gate)
            loop = asyncio.get_running_loop()
            sending = asyncio.ensure_future(loop.sock_sendall(sock, LARGE))
            await gate.until(lambda: len(client.buffer) > 1 << 16)
            go_on.set()
            got = 0
            async with asyncio.timeout(BOUND):
                while piece := await loop.sock_recv(sock, 1 << 16):
                    got += piece.count(b"z")
                    if sending.done() and got > len(answer) // 2:
                        with contextlib.suppress(OSError):
                            sock.shutdown(socket.SHUT_WR)
            await sending
    assert got == len(answer)


async def test_bodies_count_for_as_long_as_they_are_kept(impatient: Gate, origin: Origin) -> None:
    """The limit on all bodies together holds for requests that wait, too."""
    gate, body = impatient, b"x" * (1 << 20)
    gate.rules.full = True
    wires = [await gate.wire() for _ in range(4)]
    for number, wire in enumerate(wires[:3], 1):
        wire.send(post(body))
        await gate.until(lambda number=number: len(gate.rules.waiting) == number)  # type: ignore[misc]
    wires[3].send(post(body))
    assert (await wires[3].reply()).status == 503
    gate.rules.full = False
    while gate.rules.waiting:
        gate.rules.admit()
    assert [(await wire.reply()).status for wire in wires[:3]] == [200, 200, 200]
    assert gate.server._shared.body_bytes == 0


async def test_a_stop_that_cuts_a_stream_says_so(gate: Gate, origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await writer.wait_closed()

    origin.behave = behave
    streaming, waiting = await gate.wire(), await gate.wire()
    streaming.send(post())
    await streaming.reader.readuntil(b"data: 1\n\n\r\n")
    gate.rules.full = True
    waiting.send(post())
    await gate.until(lambda: len(gate.rules.waiting) == 1)
    await gate.server.drain(0.01)
    rest = await streaming.ended()
    assert b"event: error" in rest
    assert b"llamad is stopping" in rest
    refused = await waiting.reply()
    assert (refused.status, refused.header("retry-after")) == (503, "1")
    assert {one.error for one in gate.rules.records} == {"stopping"}
    assert "2 requests still run" in caplog.text


async def test_a_request_that_kills_is_sent_once_more_and_no_more(gate: Gate, origin: Origin) -> None:
    both = asyncio.Barrier(2)

    async def warm(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await both.wait()
        writer.write(plain())

    origin.behave = warm
    await asyncio.gather(gate.ask(post()), gate.ask(post()))
    origin.requests.clear()

    async def die(seen: Seen, writer: asyncio.StreamWriter) -> None:
        raise EOFError

    origin.behave = die
    assert (await gate.ask(post(b"poison"))).status == 502
    # over a kept connection, which may have been closed while idle; over a new one; and the one retry
    assert len(origin.requests) == 3
