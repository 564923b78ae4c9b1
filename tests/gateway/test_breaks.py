"""What goes wrong between the gateway and a server, and what the client sees of it."""

import asyncio
import errno
import json

import pytest

from llamad.gateway.upstream import Pool, Upstream
from llamad.host.address import TcpAddress, UnixAddress
from tests.gateway.gate import Gate, get, post
from tests.gateway.origin import EVENT, STREAM_HEAD, Origin, Seen, answering, chunk, plain


class Dying:
    """Closes the connection instead of answering, so many times; echoes then."""

    def __init__(self, times: int, before: bytes = b"") -> None:
        self.times = times
        self.before = before

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if self.times:
            self.times -= 1
            writer.write(self.before)
            raise EOFError
        writer.write(plain(200, seen.body))


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 O"])
async def test_request_whose_replica_died_is_sent_again_once(gate: Gate, origin: Origin, before: bytes) -> None:
    origin.behave = Dying(1, before)
    reply = await gate.ask(post(b"again"))
    assert (reply.status, reply.body) == (200, b"again")
    (first, second) = gate.rules.asked
    assert first == (False, None)
    assert second[0]
    assert second[1] is not None
    assert gate.rules.records[0].retries == 1


async def test_request_that_kills_twice_is_a_502(gate: Gate, origin: Origin) -> None:
    origin.behave = Dying(2)
    reply = await gate.ask(post())
    assert reply.status == 502
    assert "twice" in reply.error
    assert (gate.rules.records[0].error, gate.rules.records[0].retries) == ("upstream-died", 1)


async def test_what_killed_twice_is_not_tried_a_third_time_by_a_library_that_repeats_it(
    gate: Gate, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.behave = Dying(2)
    assert (await gate.ask(post(b"deadly"))).status == 502
    for _ in range(2):
        reply = await gate.ask(post(b"deadly"))
        assert reply.status == 502
        assert "not tried again so soon" in reply.error
    assert len(gate.rules.asked) == 2
    assert (await gate.ask(post(b"others"))).body == b"others"
    monkeypatch.setattr("llamad.gateway.deadly.REMEMBERED", -1.0)
    for body in (b"one", b"two"):
        origin.behave = Dying(3)
        assert (await gate.ask(post(body))).status == 502
    assert (await gate.ask(post(b"one"))).body == b"one"


async def test_a_kept_connection_that_was_closed_is_no_process_that_was_killed(gate: Gate, origin: Origin) -> None:
    assert (await gate.ask(post(b"x"))).status == 200
    there = list(gate.rules.addresses)
    gate.rules.addresses.insert(0, TcpAddress("127.0.0.1", 1))
    origin.behave = Dying(2)  # the kept connection, and one that is good; then there is nobody
    assert (await gate.ask(post(b"x"))).status == 502
    gate.rules.addresses[:] = there
    assert (await gate.ask(post(b"x"))).body == b"x"


async def test_a_server_that_only_says_that_it_goes_on_holds_nobody_up(gate: Gate, origin: Origin) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * (16 if seen.body == b"few" else 200_000) + plain(200, b"well"))

    origin.behave = behave
    assert (await gate.ask(post(b"few"))).body == b"well"
    reply = await gate.ask(post(b"many"))
    assert reply.status == 502
    assert "goes on" in reply.error


async def test_what_could_not_be_sent_has_killed_nobody(gate: Gate, origin: Origin) -> None:
    there = list(gate.rules.addresses)
    gate.rules.addresses[:] = [TcpAddress("127.0.0.1", 1)]
    assert (await gate.ask(post())).status == 502
    gate.rules.addresses[:] = there
    assert (await gate.ask(post())).status == 200


async def test_replica_that_cannot_be_reached_is_left_for_another(gate: Gate, origin: Origin) -> None:
    gate.rules.addresses.insert(0, UnixAddress(origin.path.with_name("nobody")))
    assert (await gate.ask(post())).status == 200
    gate.rules.addresses[:] = [TcpAddress("127.0.0.1", 1)]
    reply = await gate.ask(post())
    assert reply.status == 502
    assert "127.0.0.1:1" in reply.error


async def test_replica_without_an_address_is_left_for_another(gate: Gate) -> None:
    gate.rules.nowhere = 1
    reply = await gate.ask(post())
    assert reply.status == 200
    assert gate.rules.records[0].retries == 1


async def test_connection_that_was_closed_while_idle_is_not_counted_as_a_death(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire()
    wire.send(post(b"one"))
    assert (await wire.reply()).status == 200
    origin.behave = Dying(1)
    wire.send(post(b"two"))
    assert (await wire.reply()).body == b"two"
    assert gate.rules.asked == [(False, None)] * 2
    assert [record.retries for record in gate.rules.records] == [0, 0]


async def test_stream_that_breaks_off_ends_with_an_error_event(gate: Gate, origin: Origin) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT))
        await writer.drain()
        raise EOFError

    origin.behave = behave
    wire = await gate.wire()
    wire.send(post())
    reply = await wire.reply()
    assert not reply.complete
    first, event = [part for part in reply.body.split(b"\n\n") if part]
    assert first + b"\n\n" == EVENT
    name, data = event.split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["type"] == "upstream_error"
    assert await wire.ended() == b""
    assert gate.rules.records[0].error == "upstream-died"


@pytest.mark.parametrize("cut", range(1, len(chunk(EVENT))))
async def test_stream_that_breaks_off_inside_a_chunk_is_still_well_formed(gate: Gate, origin: Origin, cut: int) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT) + chunk(EVENT)[:cut])
        await writer.drain()
        raise EOFError

    origin.behave = behave
    reply = await gate.ask(post())
    assert reply.body.startswith(EVENT)
    assert b"\n\nevent: error\ndata: {" in reply.body
    assert not reply.complete


async def test_old_clients_see_the_error_event_too(gate: Gate, origin: Origin) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(EVENT))
        await writer.drain()
        raise EOFError

    origin.behave = behave
    reply = await gate.ask(b"POST /v1/x HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    assert b"event: error" in reply.body


@pytest.mark.parametrize("head", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_answer_that_breaks_off_is_cut(gate: Gate, origin: Origin, head: bytes) -> None:
    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n5\r\nab")
        await writer.drain()
        raise EOFError

    origin.behave = behave
    for unix in (False, True):
        wire = await gate.wire(unix=unix)
        wire.send(post())
        reply = await wire.reply()
        assert not reply.complete
    assert [record.error for record in gate.rules.records] == ["upstream-died"] * 2


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5;ext\r\nabcde\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n"])
async def test_malformed_chunks_cut_the_answer(gate: Gate, origin: Origin, broken: bytes) -> None:
    begun = asyncio.Event()

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD.replace(b"event-stream", b"plain") + chunk(b"ok"))
        await begun.wait()
        writer.write(broken)

    origin.behave = behave
    wire = await gate.wire()
    wire.send(post())
    assert (await wire.head())[0] == 200
    begun.set()
    assert b"abcd" not in await wire.ended()
    assert gate.rules.records[0].error == "upstream-died"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 40_000,
    ],
)
async def test_answer_that_makes_no_sense_is_a_502(gate: Gate, origin: Origin, answer: bytes) -> None:
    origin.behave = answering(answer)
    wire = await gate.wire()
    wire.send(post())
    reply = await wire.reply()
    assert reply.status == 502
    assert reply.error
    wire.send(get("/health"))
    assert (await wire.reply()).status == 200


async def test_a_lack_of_descriptors_here_is_no_fault_of_the_server(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again later, by whoever was told so, and no other replica is tried in vain."""

    async def lacks(self: Pool, upstream: Upstream) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Pool, "_open", lacks)
    reply = await gate.ask(post())
    assert (reply.status, reply.header("retry-after")) == (503, "1")
    assert "Too many open files" in reply.error
    assert len(gate.rules.asked) == 1


# --- a process that llamad itself ends


class Doomed:
    """Dies while llamad ends it: its requests were told why."""

    def __init__(self, gate: Gate, before: bytes = b"") -> None:
        self.gate = gate
        self.before = before

    async def __call__(self, _: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(self.before)
        await writer.drain()
        await asyncio.sleep(0.01)  # what was written is on its way
        for lease in self.gate.rules.leases:
            lease.fate = "hung: a slot made no progress for 1m"
        raise EOFError


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 O"])
async def test_request_whose_process_llamad_ended_is_told_why_and_sent_to_no_other(
    gate: Gate, origin: Origin, before: bytes
) -> None:
    """It would take the next process with it, and then the next."""
    origin.behave = Doomed(gate, before)
    reply = await gate.ask(post())
    assert reply.status == 504
    assert "does not repeat it: hung: a slot made no progress for 1m" in reply.error
    assert gate.rules.asked == [(False, None)]
    assert (gate.rules.records[0].error, gate.rules.records[0].retries) == ("upstream-hung", 0)


async def test_request_on_a_kept_connection_is_not_sent_again_either(gate: Gate, origin: Origin) -> None:
    wire = await gate.wire()
    wire.send(post(b"one"))
    assert (await wire.reply()).status == 200
    origin.behave = Doomed(gate)
    wire.send(post(b"two"))
    assert (await wire.reply()).status == 504
    assert len(gate.rules.asked) == 2


async def test_stream_whose_process_llamad_ended_breaks_off_with_the_reason(gate: Gate, origin: Origin) -> None:
    origin.behave = Doomed(gate, STREAM_HEAD + chunk(EVENT))
    wire = await gate.wire()
    wire.send(post())
    body = (await wire.reply()).body
    assert b"event: error" in body
    assert b"a slot made no progress" in body


async def test_what_a_server_answers_is_counted_for_who_watches_it(gate: Gate, origin: Origin) -> None:
    origin.behave = answering(plain(500, b"{}"))
    assert (await gate.ask(post())).status == 500
    assert gate.rules.errors == 1
    assert gate.rules.leases[0].received > 20


@pytest.mark.parametrize(("line", "going_on"), [("X-Conversation-Id: c1", 1), ("X-Other: c1", 0)])
async def test_conversation_goes_on_when_its_client_leaves(
    gate: Gate, origin: Origin, line: str, going_on: int
) -> None:
    reached = asyncio.Event()

    async def never(_: Seen, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await writer.wait_closed()

    origin.behave = never
    wire = await gate.wire()
    wire.send(post(b"{}", line))
    await asyncio.wait_for(reached.wait(), 30)
    await wire.close()
    await gate.until(lambda: not gate.rules.held)
    assert gate.rules.going_on == going_on
