"""The gateway as a whole: the real policy on the real data path."""

import asyncio
import json
import os
import zlib
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from llamad.config.model import GatewayConfig, QueueConfig
from llamad.gateway.gateway import Gateway, inherit
from llamad.gateway.keys import NO_KEYS, Keys
from llamad.host.address import TcpAddress, UnixAddress
from llamad.metrics import Metrics
from llamad.servers.state import State
from tests.gateway.fleets import SmallFleet, servers, until
from tests.gateway.gate import Reply, Wire, get, post
from tests.gateway.origin import Origin
from tests.gateway.test_decoding import gzipped

HERE = TcpAddress("127.0.0.1", 0)
MINE = Keys({sha256(b"sk-mine").digest(): "me"})


class Front:
    """A gateway over one server, and a client of it."""

    def __init__(self, gateway: Gateway, fleet: SmallFleet, metrics: Metrics, settings: GatewayConfig) -> None:
        self.gateway = gateway
        self.fleet = fleet
        self.metrics = metrics
        self.settings = settings
        self._wires: list[Wire] = []

    async def wire(self) -> Wire:
        """A new connection."""
        (sockets,) = self.gateway._server.sockets.values()
        wire = Wire(*await asyncio.open_connection("127.0.0.1", sockets[0].getsockname()[1]))
        self._wires.append(wire)
        return wire

    async def ask(self, data: bytes) -> Reply:
        """One answer, on a new connection."""
        wire = await self.wire()
        wire.send(data)
        return await wire.reply()

    async def there(self, count: int) -> None:
        """Return once so many requests run or wait."""
        traffic = self.fleet.traffic("one")
        await until(lambda: traffic.total + traffic.queued >= count)

    async def close(self) -> None:
        """Every connection."""
        for wire in self._wires:
            await wire.close()


@pytest.fixture
async def front(origin: Origin) -> AsyncIterator[Front]:
    fleet = SmallFleet(servers("one", max_concurrent=1))
    key = fleet.up("one")
    fleet.board.update(key, address=UnixAddress(origin.path))
    settings = GatewayConfig(listen=(HERE,), hosts=("gate",), queue=QueueConfig(size=1))
    metrics = Metrics("test", list(State))
    gateway = Gateway(fleet, settings, NO_KEYS, metrics, external_key=lambda _: None, report=lambda _: None)
    async with gateway:
        await gateway.apply(settings, NO_KEYS)
        one = Front(gateway, fleet, metrics, settings)
        yield one
        await one.close()


async def test_request_reaches_the_server_it_names_and_is_counted(front: Front, origin: Origin) -> None:
    assert (await front.ask(post(b'{"model": "one"}'))).status == 200
    assert (await front.ask(post(b'{"model": "two"}'))).status == 404
    assert (await front.ask(get("/servers/one/props?a=b"))).status == 200
    assert [seen.target for seen in origin.requests] == ["/v1/chat/completions", "/props?a=b"]
    assert b'llamad_requests_total{key="unknown",server="one",status="200"} 2.0' in front.metrics.exposition()
    assert (await front.ask(get("/metrics"))).status == 200
    assert front.fleet.traffic("one").idle


async def test_new_keys_hold_for_heads_that_were_let_in_before(front: Front) -> None:
    """What was decided of a head is kept only as long as the configuration."""
    request = post(b'{"model": "one"}', "Authorization: Bearer sk-mine")
    wire = await front.wire()
    for keys, status in ((NO_KEYS, 200), (MINE, 200), (Keys({b"x": "other"}), 401), (MINE, 200)):
        await front.gateway.apply(front.settings, keys)
        for _ in range(2):
            if wire.reader.at_eof():
                wire = await front.wire()
            wire.send(request)
            assert (await wire.reply()).status == status


async def test_origins_of_a_new_configuration_hold_for_heads_that_came_before(front: Front) -> None:
    request = post(b'{"model": "one"}', "Origin: https://a")
    assert (await front.ask(request)).header("access-control-allow-origin") is None
    await front.gateway.apply(front.settings.model_copy(update={"cors_origins": ("https://a",)}), NO_KEYS)
    assert (await front.ask(request)).header("access-control-allow-origin") == "https://a"


async def test_limit_of_a_new_configuration_holds(front: Front) -> None:
    await front.gateway.apply(front.settings.model_copy(update={"max_body": 10}), NO_KEYS)
    assert (await front.ask(post(b'{"model": "one"}'))).status == 413


def test_connections_are_as_many_as_the_configuration_and_the_descriptors_allow(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamad.gateway.gateway.own_limit", lambda: 10_000)
    few = front.settings.model_copy(update={"max_connections": 100})
    assert front.gateway._limits(few).connections == 100
    many = front.gateway._limits(front.settings.model_copy(update={"max_connections": 16384}))
    assert 4000 < many.connections < 5000, "each may need a second descriptor, for its server"
    assert many.idle_upstreams == many.connections // 8


async def test_requests_wait_for_a_place_and_are_refused_where_too_many_do(front: Front, origin: Origin) -> None:
    go_on = asyncio.Event()
    answer = origin.behave

    async def behave(seen: object, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await answer(seen, writer)  # type: ignore[arg-type]

    origin.behave = behave
    wires = [await front.wire() for _ in range(3)]
    for number, wire in enumerate(wires):
        wire.send(post(b'{"model": "one"}'))
        await front.there(min(number + 1, 2))
    refused = await wires[2].reply()
    assert refused.status == 503
    assert refused.header("retry-after")
    go_on.set()
    assert [(await wire.reply()).status for wire in wires[:2]] == [200, 200]
    assert front.fleet.traffic("one").idle


async def test_bug_on_the_way_costs_one_request_and_no_lease(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("llamad.gateway.relay.client_head", lambda *_, **__: 1 / 0)
        assert (await front.ask(post(b'{"model": "one"}'))).status == 502
    assert front.fleet.traffic("one").idle
    assert (await front.ask(post(b'{"model": "one"}'))).status == 200


async def test_gateway_drains_and_hands_its_sockets_on(front: Front) -> None:
    handed = {name: [os.dup(one) for one in found] for name, found in front.gateway.descriptors.items()}
    await asyncio.wait_for(front.gateway.drain(60), 30)
    assert front.gateway.stuck(asyncio.get_running_loop().time()) is None
    inherited = inherit(handed, [HERE])
    assert not handed
    with inherited[HERE][0] as sock:
        assert sock.getsockname()[1]


# --- compressed bodies ---


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/servers/one/v1/chat/completions", "/servers/one/props"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_body_reaches_the_server_as_it_was_meant(
    front: Front, origin: Origin, path: str, coding: str
) -> None:
    body = b'{"model": "one", "prompt": "' + b"x" * 3_000_000 + b'"}'
    sent = gzipped(body) if coding == "gzip" else zlib.compress(body)
    assert (await front.ask(post(sent, f"Content-Encoding: {coding}", path=path))).status == 200
    (seen,) = origin.requests
    assert seen.body == body
    assert seen.header("content-encoding") is None
    assert seen.header("content-length") == str(len(body))
    assert front.gateway._server._shared.body_bytes == 0


@pytest.mark.parametrize(
    ("coding", "body", "status", "word"),
    [
        ("gzip", gzipped(bytes(8 << 20)), 413, "gateway.max_body"),
        ("gzip", b"{}", 400, "Content-Encoding"),
        ("zstd", b"(\xb5/\xfd", 415, "Content-Encoding 'zstd'"),
        ("gzip", gzipped(b"{"), 400, "not JSON"),
    ],
)
async def test_compressed_body_that_cannot_be_taken(
    front: Front, origin: Origin, coding: str, body: bytes, status: int, word: str
) -> None:
    await front.gateway.apply(front.settings.model_copy(update={"max_body": 1 << 20}), NO_KEYS)
    reply = await front.ask(post(body, f"Content-Encoding: {coding}"))
    assert reply.status == status
    assert word in reply.error
    assert not origin.requests
    assert front.gateway._server._shared.body_bytes == 0


async def test_client_that_leaves_while_its_body_is_undone_leaves_nothing(front: Front) -> None:
    wire = await front.wire()
    wire.send(post(gzipped(bytes(30 << 20)), "Content-Encoding: gzip"))
    shared = front.gateway._server._shared
    await until(lambda: shared.body_bytes)
    await wire.close()
    await until(lambda: not shared.clients)
    assert shared.body_bytes == 0


# --- errors in the shape of the API that is spoken ---


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (post(b'{"model": "two"}', path="/v1/messages"), "not_found_error"),
        (post(b"{", path="/servers/two/v1/messages"), "not_found_error"),
        (post(b"{", path="/v1/messages/count_tokens"), "invalid_request_error"),
        (post(b"{}", "anthropic-version: 2023-06-01", path="/v1/v1/messages"), "not_found_error"),
        (get("/v1/models/x", "anthropic-version: 2023-06-01"), "not_found_error"),
        (post(b"x" * 100, path="/v1/messages"), "request_too_large"),
    ],
)
async def test_errors_of_anthropics_api_have_its_shape(front: Front, data: bytes, kind: str) -> None:
    await front.gateway.apply(front.settings.model_copy(update={"max_body": 50}), NO_KEYS)
    document = json.loads((await front.ask(data)).body)
    assert (document["type"], document["error"]["type"]) == ("error", kind)


async def test_a_missing_key_is_told_in_anthropics_shape(front: Front) -> None:
    await front.gateway.apply(front.settings, MINE)
    document = json.loads((await front.ask(post(b"{}", path="/v1/messages"))).body)
    assert document["error"]["type"] == "authentication_error"
    for line in ("x-api-key: sk-mine", "api-key: sk-mine", "Authorization: sk-mine"):
        assert (await front.ask(post(b'{"model": "one"}', line, path="/v1/messages"))).status == 200


async def test_a_dead_server_is_told_in_anthropics_shape(front: Front, origin: Origin) -> None:
    async def die(seen: object, writer: asyncio.StreamWriter) -> None:
        raise EOFError

    origin.behave = die
    reply = await front.ask(post(b'{"model": "one"}', path="/v1/messages"))
    assert (reply.status, json.loads(reply.body)["error"]["type"]) == (502, "api_error")


async def test_a_connection_is_said_to_be_kept_as_long_as_it_is(front: Front) -> None:
    assert (await front.ask(get("/health"))).header("keep-alive") == "timeout=75"
    assert (await front.ask(post(b'{"model": "one"}'))).header("keep-alive") == "timeout=75"
    assert (await front.ask(get("/health", "Connection: close"))).header("keep-alive") is None
