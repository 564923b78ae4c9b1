"""Requests that do not use a model: they start nothing, wait for nobody, and count as no use."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from llamad.config.model import GatewayConfig
from llamad.gateway.gateway import Gateway
from llamad.gateway.keys import NO_KEYS
from llamad.host.address import TcpAddress, UnixAddress
from llamad.metrics import Metrics
from llamad.servers.board import Failure
from llamad.servers.state import State
from tests.folders import short_folder
from tests.gateway.fleets import SmallFleet, servers, until
from tests.gateway.gate import Reply, Wire
from tests.gateway.origin import Origin, Seen, plain


class Pair:
    """A gateway over `one`, which has two replicas, and `cold`, which is stopped and started on demand."""

    def __init__(self, fleet: SmallFleet, port: int, origins: list[Origin]) -> None:
        self.fleet = fleet
        self.origins = origins
        self._port = port

    async def ask(self, method: str, path: str, body: bytes | None = None, lines: str = "") -> Reply:
        """One answer, on a connection of its own."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self._port))
        wire.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}{length}\r\n".encode() + (body or b""))
        try:
            return await wire.reply(to_head=method == "HEAD")
        finally:
            await wire.close()

    def seen(self) -> list[list[str]]:
        """What each replica was asked."""
        return [[f"{one.method} {one.target}" for one in origin.requests] for origin in self.origins]

    def say(self, *answers: Callable[[Seen], bytes]) -> None:
        """What the replicas answer."""
        for origin, answer in zip(self.origins, answers, strict=True):

            async def behave(
                seen: Seen, writer: asyncio.StreamWriter, answer: Callable[[Seen], bytes] = answer
            ) -> None:
                writer.write(answer(seen))

            origin.behave = behave


def says(status: int, body: object = None) -> Callable[[Seen], bytes]:
    data = b"" if body is None else json.dumps(body).encode()
    return lambda _: plain(status, data)


@pytest.fixture
async def pair(_no_task_left: None) -> AsyncIterator[Pair]:
    configs = {**servers("one", replicas=2), **servers("cold", start="on-demand", aliases=("c",))}
    fleet = SmallFleet(configs)
    settings = GatewayConfig(listen=(TcpAddress("127.0.0.1", 0),))
    gateway = Gateway(
        fleet,
        settings,
        NO_KEYS,
        Metrics("test", list(State)),
        external_key=lambda _: None,
        report=lambda _: None,
    )
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(short_folder())
        origins = [await stack.enter_async_context(Origin(folder / f"{number}.sock")) for number in range(2)]
        for index, origin in enumerate(origins):
            fleet.board.update(fleet.up("one", index), address=UnixAddress(origin.path))
        await stack.enter_async_context(gateway)
        await gateway.apply(settings, NO_KEYS)
        (sockets,) = gateway._server.sockets.values()
        yield Pair(fleet, sockets[0].getsockname()[1], origins)


PASSIVE = [
    ("GET", "/servers/cold/sw.js"),
    ("GET", "/servers/cold/favicon.ico"),
    ("GET", "/servers/cold/health"),
    ("GET", "/servers/cold/metrics"),
    ("GET", "/servers/c/slots"),
    ("GET", "/props?model=cold"),
    ("GET", "/slots?model=c"),
    ("HEAD", "/servers/cold/"),
    ("GET", "/servers/cold/"),
    ("GET", "/servers/cold/lora-adapters"),
    ("GET", "/servers/cold/v1/stream?conv_id=x"),
    ("DELETE", "/servers/cold/v1/stream?conv_id=x"),
    ("POST", "/servers/cold/props"),
    ("POST", "/servers/cold/slots/0?action=erase"),
    ("POST", "/lora-adapters?model=cold"),
]


@pytest.mark.parametrize(("method", "path"), PASSIVE)
async def test_a_passive_request_does_not_start_a_server(pair: Pair, method: str, path: str) -> None:
    before = pair.fleet.traffic("cold").last_used
    reply = await pair.ask(method, path, b"{}" if method == "POST" else None)
    assert reply.status == 503
    assert reply.header("retry-after")
    assert method == "HEAD" or "cold starts with a request" in reply.error
    assert not pair.fleet.asked
    assert pair.fleet.traffic("cold").last_used == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/v1/chat/completions", 404),
        ("POST", "/v1/images/generations", 404),
        ("POST", "/servers/cold/v1/v1/chat/completions", 404),
        ("POST", "/servers/cold/v1/images/generations", 404),
        ("GET", "/servers/cold/v1/chat/completions", 405),
        ("POST", "/servers/cold/", 405),
        ("PUT", "/servers/cold/v1/completions", 405),
    ],
)
async def test_an_impossible_request_does_not_start_a_server(pair: Pair, method: str, path: str, status: int) -> None:
    assert (await pair.ask(method, path, b'{"model": "cold"}')).status == status
    assert not pair.fleet.asked


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/servers/cold/v1/chat/completions"])
async def test_a_request_without_a_body_does_not_start_a_server(pair: Pair, path: str) -> None:
    assert (await pair.ask("POST", path)).status == 400
    assert not pair.fleet.asked


async def test_a_browser_is_shown_a_page_that_can_start_the_server(pair: Pair) -> None:
    reply = await pair.ask("GET", "/servers/cold/", lines="Accept: text/html,*/*\r\n")
    assert reply.status == 503
    assert reply.header("content-type") == "text/html; charset=utf-8"
    assert b"Start it" in reply.body
    assert b'fetch("tokenize"' in reply.body
    assert not pair.fleet.asked
    pair.fleet.move(pair.fleet.add("cold"), State.STARTING)
    reply = await pair.ask("GET", "/servers/cold/", lines="Accept: text/html,*/*\r\n")
    assert b"Start it" not in reply.body
    assert b'http-equiv="refresh"' in reply.body
    reply = await pair.ask("GET", "/servers/cold/props", lines="Accept: text/html,*/*\r\n")
    assert reply.header("content-type") == "application/json"


async def test_the_models_of_a_stopped_server_are_told_without_it(pair: Pair) -> None:
    listed = json.loads((await pair.ask("GET", "/servers/c/v1/models")).body)
    assert listed["data"][0]["id"] == "cold"
    assert not pair.fleet.asked


async def test_a_server_that_loads_or_failed_is_told_as_it_is(pair: Pair) -> None:
    key = pair.fleet.add("cold")
    pair.fleet.move(key, State.STARTING)
    pair.fleet.move(key, State.LOADING)
    assert "cold is loading" in (await pair.ask("GET", "/servers/cold/health")).error
    pair.fleet.fail(key, Failure("oom", "no memory"))
    assert "cold is failed" in (await pair.ask("GET", "/servers/cold/health")).error


async def test_a_request_that_uses_the_model_starts_it(pair: Pair) -> None:
    pair.fleet.may_start.set()
    task = asyncio.create_task(pair.ask("POST", "/servers/cold/tokenize", b"{}"))
    await until(lambda: pair.fleet.asked)
    assert pair.fleet.asked == ["cold"]
    pair.fleet.board.remove(pair.fleet.board.of("cold")[0].key)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_passive_requests_are_no_use_and_wait_for_nobody(pair: Pair) -> None:
    """A health check every 2 s does not keep a model; a full server still says how it is."""
    traffic = pair.fleet.traffic("one")
    for one in pair.fleet.board.of("one"):
        traffic.begin(one.key)
    before = traffic.last_used
    for path in ("/servers/one/health", "/servers/one/slots", "/props?model=one", "/servers/one/"):
        assert (await pair.ask("GET", path)).status == 200
    assert traffic.last_used == before
    assert traffic.total == 2
    assert [len(asked) for asked in pair.seen()] == [4, 0]


async def test_a_sleeping_server_is_not_woken_by_being_looked_at(pair: Pair) -> None:
    for one in pair.fleet.board.of("one"):
        pair.fleet.board.update(one.key, asleep=True)
    for path in ("/servers/one/slots", "/lora-adapters?model=one"):
        reply = await pair.ask("GET", path)
        assert reply.status == 503
        assert "one is asleep" in reply.error
    for path in ("/servers/one/health", "/servers/one/props", "/servers/one/metrics", "/servers/one/v1/models"):
        assert (await pair.ask("GET", path)).status == 200
    assert not any("slots" in one for asked in pair.seen() for one in asked)


async def test_a_replica_is_named_by_its_number(pair: Pair) -> None:
    assert (await pair.ask("GET", "/servers/one/slots?replica=1")).status == 200
    assert (await pair.ask("POST", "/servers/one/slots/0?action=erase&replica=1", b"{}")).status == 200
    assert pair.seen() == [[], ["GET /slots?replica=1", "POST /slots/0?action=erase&replica=1"]]
    assert (await pair.ask("GET", "/servers/one/slots?replica=2")).status == 404


async def test_a_slot_is_one_replicas_and_has_to_be_told_whose(pair: Pair) -> None:
    reply = await pair.ask("POST", "/servers/one/slots/0?action=save", b"{}")
    assert reply.status == 400
    assert "?replica=N (ready: 0, 1)" in reply.error
    assert pair.seen() == [[], []]


async def test_a_passive_request_whose_replica_dies_is_not_sent_elsewhere(pair: Pair) -> None:
    def die(_: Seen) -> bytes:
        raise EOFError

    pair.say(die, says(200))
    reply = await pair.ask("GET", "/servers/one/props")
    assert reply.status == 502
    assert pair.seen() == [["GET /props"], []]


# --- what each process has for itself ---


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/servers/one/lora-adapters", b'[{"id": 0, "scale": 1}]'),
        ("POST", "/lora-adapters?model=one", b"[]"),
        ("POST", "/servers/one/props", b"{}"),
        ("DELETE", "/servers/one/v1/stream?conv_id=c", None),
    ],
)
async def test_what_concerns_every_process_reaches_every_replica(
    pair: Pair, method: str, path: str, body: bytes | None
) -> None:
    pair.say(says(200, {"ok": True}), says(200, {"ok": True}))
    reply = await pair.ask(method, path, body)
    assert (reply.status, reply.body) == (200, b'{"ok": true}')
    assert [len(origin.requests) for origin in pair.origins] == [1, 1]
    for origin in pair.origins:
        assert origin.requests[0].body == (body or b"")


async def test_one_replica_can_be_chosen_for_what_concerns_each(pair: Pair) -> None:
    assert (await pair.ask("POST", "/servers/one/props?replica=1", b"{}")).status == 200
    assert [len(origin.requests) for origin in pair.origins] == [0, 1]


async def test_a_replica_that_does_not_take_it_is_named(pair: Pair) -> None:
    pair.say(says(200), says(400, {"error": "no such adapter"}))
    reply = await pair.ask("POST", "/servers/one/lora-adapters", b"[]")
    assert reply.status == 502
    assert "replica 1 did not, with 400" in reply.error
    pair.say(says(501, {"a": 1}), says(501, {"a": 1}))
    assert (await pair.ask("POST", "/servers/one/props", b"{}")).status == 501


async def test_a_replica_that_cannot_be_asked_is_named(pair: Pair) -> None:
    pair.say(says(200), lambda _: b"nonsense\r\n\r\n")
    reply = await pair.ask("POST", "/servers/one/props", b"{}")
    assert reply.status == 502
    assert "replica 1 of one" in reply.error


async def test_a_conversation_is_looked_up_in_every_replica(pair: Pair) -> None:
    pair.say(says(200, [{"conversation_id": "a"}]), says(200, [{"conversation_id": "b"}, 7]))
    reply = await pair.ask("POST", "/servers/one/v1/streams/lookup", b'{"conversation_ids": ["a", "b"]}')
    assert [one["conversation_id"] for one in json.loads(reply.body)] == ["a", "b"]


UNKNOWN = {"success": False, "message": "no active completion for this id"}
OFF = {"success": False, "message": "reasoning control not enabled for this completion"}


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        ((404, {}), (200, {"done": True}), {"done": True}),
        ((200, UNKNOWN), (200, {"success": True}), {"success": True}),
        ((200, {"success": True}), (200, UNKNOWN), {"success": True}),
        ((200, UNKNOWN), (200, OFF), OFF),
        ((200, UNKNOWN), (200, UNKNOWN), UNKNOWN),
        ((200, [1]), (200, OFF), OFF),
    ],
)
async def test_a_control_is_answered_by_the_replica_that_has_the_answer_it_is_for(
    pair: Pair, first: tuple[int, Any], second: tuple[int, Any], best: object
) -> None:
    pair.say(says(*first), says(*second))
    reply = await pair.ask("POST", "/servers/one/v1/chat/completions/control", b'{"id": "x"}')
    assert (reply.status, json.loads(reply.body)) == (200, best)


def a_stream(*began: float) -> Callable[[Seen], bytes]:
    """Has conversations that began then."""

    def answer(seen: Seen) -> bytes:
        if seen.target == "/v1/streams/lookup":
            asked = json.loads(seen.body)["conversation_ids"]
            return plain(200, json.dumps([{"conversation_id": asked[0], "started_at": one} for one in began]).encode())
        return plain(200, b"the stream")

    return answer


@pytest.mark.parametrize(("first", "second", "expected"), [((5,), (), 0), ((), (5,), 1), ((7,), (2, 8), 1)])
async def test_a_stream_is_resumed_where_it_is(
    pair: Pair, first: tuple[int, ...], second: tuple[int, ...], expected: int
) -> None:
    pair.say(a_stream(*first), a_stream(*second))
    reply = await pair.ask("GET", "/servers/one/v1/stream?conv_id=a%3A%3Aone&from=3")
    assert (reply.status, reply.body) == (200, b"the stream")
    assert pair.seen()[expected][-1] == "GET /v1/stream?conv_id=a%3A%3Aone&from=3"
    assert json.loads(pair.origins[0].requests[0].body) == {"conversation_ids": ["a::one"]}
    assert pair.fleet.traffic("one").total == 0


async def test_a_stream_that_nobody_has_is_404(pair: Pair) -> None:
    pair.say(a_stream(), says(404))
    assert (await pair.ask("GET", "/servers/one/v1/stream?conv_id=x")).status == 404
