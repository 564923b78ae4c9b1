"""The policy as the data path sees it: keys, routes, local answers, records; over a small fleet and a fake prober."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import GatewayConfig, ServerConfig
from llamad.errors import LlamadError
from llamad.gateway import types
from llamad.gateway.asking import MOST_META
from llamad.gateway.keys import NO_KEYS, Keys, parse_keys
from llamad.gateway.line import Grant
from llamad.gateway.policy import Policy
from llamad.gateway.types import Answer, Local, Refusal, RequestHead, ToServer
from llamad.host.address import Address
from llamad.host.logrecord import fields_of
from llamad.metrics import Metrics
from llamad.servers.board import Failure
from llamad.servers.probe import ProbeAnswer, ProbeError
from llamad.servers.state import State
from tests.expositions import read_exposition, value
from tests.gateway.fleets import SmallFleet, a_head, servers
from tests.gateway.test_merge import LLAMA

MODELS = {"data": [{"id": "x", "meta": {"n_params": 134515008, "n_ctx_train": 2048}}]}
PROPS = {"default_generation_settings": {"n_ctx": 4096}}


class Probes:
    """Answers as a llama-server does; `silent` addresses never answer, `answers` may be changed."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {
            "/v1/models": (200, MODELS), "/props": (200, PROPS), "/metrics": (200, LLAMA)
        }  # fmt: skip
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.asked: list[tuple[str, str, str | None]] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, address: Address, path: str, *, timeout: float, key: str | None = None) -> ProbeAnswer:
        self.asked.append((str(address), path, key))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(60 if str(address) in self.silent else 0)
        finally:
            self.at_once -= 1
        if str(address) in self.broken:
            raise ProbeError("closed the connection")
        status, body = self.answers[path]
        return ProbeAnswer(status, (body if isinstance(body, str) else json.dumps(body)).encode())


def routed(policy: Policy, head: RequestHead, body: bytes = b"") -> types.Route:
    """Where a request goes, asked as the data path asks."""
    return policy.route(head, policy.reader(head), body)


class Gate:
    """A policy and all that is around it."""

    def __init__(self, fleet: SmallFleet, policy: Policy, probes: Probes, metrics: Metrics) -> None:
        self.fleet = fleet
        self.policy = policy
        self.probes = probes
        self.metrics = metrics

    async def get(self, path: str, query: str = "") -> Answer:
        """What a client gets for a GET that the gateway answers itself."""
        route = routed(self.policy, a_head("GET", path, query))
        if isinstance(route, Local):
            answer = await route.handle()
            assert isinstance(answer, Answer)
            return answer
        assert isinstance(route, Answer), route
        return route

    async def json(self, path: str) -> Any:
        return json.loads((await self.get(path)).body)


@asynccontextmanager
async def gate(
    configs: Mapping[str, ServerConfig],
    *,
    keys: Keys = NO_KEYS,
    secrets: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Gate]:
    def external_key(config: ServerConfig) -> str | None:
        if config.api_key_credential is None:
            return None
        if secrets is None:
            raise LlamadError("the credential is not there", hint="add it")
        return secrets[config.api_key_credential]

    fleet, probes, metrics = SmallFleet(configs), Probes(), Metrics("1.2.3", State)
    async with Policy(
        fleet,
        GatewayConfig(**settings),
        keys,
        metrics,
        external_key=external_key,
        prober=probes,
    ) as policy:
        yield Gate(fleet, policy, probes, metrics)


def some_keys() -> Keys:
    return parse_keys(b"alice:sk-alice\nbob:sk-bob\n", Path("/keys"))[0]


# --- keys ---


async def test_without_keys_everybody_may() -> None:
    async with gate(servers("a")) as here:
        assert here.policy.authorize(a_head()) is None
        assert here.policy.authorize(a_head(authorization="Bearer anything")) is None


async def test_who_has_a_key_is_known_by_its_name() -> None:
    async with gate(servers("a"), keys=some_keys()) as here:
        assert here.policy.authorize(a_head(authorization="Bearer sk-alice")) == "alice"
        assert here.policy.authorize(a_head(x_api_key="sk-bob")) == "bob"


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/metrics", "/ready", "/v1/models", "/servers/a/props", "/servers/x/"]
)
async def test_who_has_none_gets_401_in_openais_shape(path: str) -> None:
    async with gate(servers("a"), keys=some_keys()) as here:
        answer = here.policy.authorize(a_head("GET", path, authorization="Bearer sk-mallory"))
        assert isinstance(answer, Answer)
        assert answer.status == 401
        assert dict(answer.headers)[b"www-authenticate"].startswith(b"Bearer")
        error = json.loads(answer.body)["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert "sk-mallory" not in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("OPTIONS", "/v1/chat/completions")])
async def test_health_and_a_browsers_question_need_no_key(method: str, path: str) -> None:
    async with gate(servers("a"), keys=some_keys()) as here:
        assert here.policy.authorize(a_head(method, path)) is None
        assert isinstance(routed(here.policy, a_head(method, path)), Answer)


async def test_a_reload_changes_keys_origins_queue_and_log(caplog: pytest.LogCaptureFixture) -> None:
    async with gate(servers("a"), keys=some_keys()) as here:
        page = a_head(origin="http://page")
        assert here.policy.cors(page) == []
        new = GatewayConfig(cors_origins=("http://page",), access_log="off", queue={"size": 0})
        here.policy.apply(new, NO_KEYS)
        assert here.policy.authorize(a_head()) is None
        assert (b"access-control-allow-origin", b"http://page") in here.policy.cors(page)
        here.fleet.move(here.fleet.add("a"), State.LOADING)
        outcome = here.policy.admission.ask("a", None, lambda _: None)
        assert isinstance(outcome, Refusal)
        assert outcome.kind == "queue_full"
        exchange = here.policy.begin(a_head(), "r-1", "::1")
        exchange.status = 500
        here.policy.finished(exchange)
        assert not caplog.records


# --- routes ---


async def test_the_whole_way_of_a_request() -> None:
    async with gate(servers("a", "b")) as here:
        policy: types.Policy = here.policy
        here.fleet.up("b")
        head = a_head(authorization="Bearer x")
        exchange = policy.begin(head, "r-1", "10.0.0.1")
        reader = policy.reader(head)
        assert reader is not None
        assert policy.authorize(head, unix=False) is None
        route = policy.route(head, reader, b'{"model": "b"}')
        assert route == ToServer("b", "/v1/chat/completions")
        lease = policy.admission.ask("b", None, lambda _: None)
        assert isinstance(lease, Grant)
        exchange.server, exchange.status = "b", 200
        lease.release()
        policy.finished(exchange)
        samples = read_exposition(here.metrics.exposition())
        assert value(samples, "llamad_requests_total", server="b", key="unknown", status="200") == 1


async def test_routes_follow_a_reload() -> None:
    async with gate(servers("a")) as here:
        here.fleet.configs = servers("new", "other")
        assert routed(here.policy, a_head(), b'{"model": "new"}') == ToServer("new", "/v1/chat/completions")
        gone = routed(here.policy, a_head(), b'{"model": "a"}')
        assert isinstance(gone, Answer)
        assert gone.status == 404


async def test_options_are_answered_here() -> None:
    async with gate(servers("a"), cors_origins=("*",)) as here:
        asked = {"origin": "http://x", "access_control_request_method": "POST"}
        answer = routed(here.policy, a_head("OPTIONS", **asked))
        assert isinstance(answer, Answer)
        assert answer.status == 204
        assert not here.policy.reader(a_head("OPTIONS"))


async def test_an_external_server_gets_its_own_key_and_others_none() -> None:
    outside = servers("ext", url="http://there:1", api_key_credential="theirs")
    async with gate({**servers("a"), **outside}, secrets={"theirs": "sk-theirs"}) as here:
        route = routed(here.policy, a_head(), b'{"model": "ext"}')
        assert isinstance(route, ToServer)
        assert route.authorization == b"Bearer sk-theirs"
        here.fleet.up("ext")
        page, props = (routed(here.policy, a_head("GET", f"/servers/ext/{path}")) for path in ("x.js", "props"))
        assert isinstance(page, ToServer)
        assert isinstance(props, ToServer)
        assert (page.authorization, props.authorization) == (None, b"Bearer sk-theirs")
        assert routed(here.policy, a_head(), b'{"model": "a"}') == ToServer("a", "/v1/chat/completions")


async def test_an_external_key_that_cannot_be_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with gate(servers("ext", url="http://there:1", api_key_credential="theirs")) as here:
        for _ in range(3):
            assert routed(here.policy, a_head(), b"{}") == ToServer("ext", "/v1/chat/completions")
    (record,) = caplog.records
    assert fields_of(record)["server"] == "ext"


async def test_errors_have_openais_shape() -> None:
    async with gate({}) as here:
        answer = here.policy.error(400, "bad", headers=[(b"a", b"b")])
        assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
        assert answer.headers == [(b"a", b"b")]


# --- records ---


async def test_a_request_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llamad.access")
    async with gate(servers("a"), access_log="all") as here:
        exchange = here.policy.begin(a_head(), "r-1", "10.0.0.1")
        exchange.server, exchange.key, exchange.status = "a", "alice", 200
        exchange.began -= 0.3
        exchange.first_byte = exchange.began + 0.02
        exchange.bytes_in, exchange.bytes_out, exchange.retries = 7, 11, 1
        here.policy.finished(exchange)
        samples = read_exposition(here.metrics.exposition())
        assert value(samples, "llamad_request_duration_seconds_bucket", server="a", le="0.5") == 1
        assert value(samples, "llamad_time_to_first_byte_seconds_bucket", server="a", le="0.025") == 1
        assert value(samples, "llamad_response_bytes_total", server="a") == 11
        assert value(samples, "llamad_retried_requests_total", server="a") == 1
    (record,) = caplog.records
    duration = fields_of(record)["duration_ms"]
    assert isinstance(duration, float)
    assert 300 <= duration < 500
    assert fields_of(record)["peer"] == "10.0.0.1"


async def test_rejections_exits_and_live_figures_are_counted() -> None:
    async with gate(servers("a")) as here:
        key = here.fleet.up("a")
        assert isinstance(here.policy.admission.ask("a", None, lambda _: None), Grant)
        here.policy.admission.ask("a", None, lambda _: None)
        samples = read_exposition(here.metrics.exposition())
        assert value(samples, "llamad_requests_in_flight", server="a", replica="0") == 1
        assert value(samples, "llamad_requests_queued", server="a") == 1
        here.fleet.move(key, State.FAILED, last_error=Failure("oom", "no memory"))
        samples = read_exposition(here.metrics.exposition())
        assert value(samples, "llamad_rejected_requests_total", server="a", reason="oom") == 1
        assert value(samples, "llamad_replica_exits_total", server="a", cause="oom") == 1
        assert value(samples, "llamad_requests_queued", server="a") == 0


async def test_a_server_that_is_gone_leaves_no_series_behind() -> None:
    async with gate(servers("a", "b")) as here:
        exchanges = [here.policy.begin(a_head(), "r-1", "x") for _ in range(2)]
        for exchange in exchanges:
            exchange.server, exchange.status = "a", 200
        here.policy.finished(exchanges[0])
        here.fleet.move(here.fleet.add("a"), State.LOADING)
        here.policy.admission.ask("a", None, lambda _: None)
        here.fleet.configs = servers("b")
        routed(here.policy, a_head(), b"{}")
        here.policy.admission.ask("b", None, lambda _: None)
        here.policy.finished(exchanges[1])
        named = {dict(labels).get("server") for _, labels in read_exposition(here.metrics.exposition())}
        assert "a" not in named
        assert "unknown" in named


# --- what the gateway answers itself ---


async def test_the_index_says_what_this_is() -> None:
    async with gate({}) as here:
        assert (await here.json("/"))["name"] == "llamad"
        assert await here.json("/health") == {"status": "ok"}


async def test_ready_is_about_llamad_whatever_its_servers_do() -> None:
    """A balancer asks whether to send requests here; one of many servers that failed is no reason not to."""
    async with gate(servers("a", "b")) as here:
        here.fleet.up("a")
        here.fleet.fail(here.fleet.add("b"), Failure("oom", "no memory"))
        assert await here.json("/ready") == {"status": "ok"}
        here.policy.leave()
        for query in ("", "model=a"):
            answer = await here.get("/ready", query)
            assert answer.status == 503
            assert "stopping" in json.loads(answer.body)["error"]["message"]
        assert (await here.get("/health")).status == 200


async def test_ready_of_one_server_says_what_it_lacks() -> None:
    configs = {**servers("a", aliases=("x",)), **servers("b", start="on-demand"), **servers("c")}
    async with gate(configs) as here:
        here.fleet.stopped = {"b"}
        key = here.fleet.add("a")
        here.fleet.move(key, State.STARTING)
        here.fleet.move(key, State.LOADING, load_progress=0.42)
        answer = await here.get("/ready", "model=x")
        assert answer.status == 503
        document = json.loads(answer.body)
        assert document["error"]["message"] == "a is loading 42 %"
        assert document["error"]["code"] == "not_ready"
        assert document["servers"]["a"]["state"] == "loading"
        here.fleet.fail(key, Failure("oom", "no memory", "less"))
        document = json.loads((await here.get("/ready", "model=a")).body)
        assert document["error"]["message"] == "a is failed: no memory (less)"
        assert document["servers"]["a"]["cause"] == "oom"
        here.fleet.ready(key)
        assert json.loads((await here.get("/ready", "model=a")).body) == {"status": "ok", "state": "ready"}
        assert json.loads((await here.get("/ready", "model=b")).body)["state"] == "stopped"
        assert (await here.get("/ready", "model=nope")).status == 404
        assert (await here.get("/ready", "model=a&model=b")).status == 400


async def test_the_models_of_all_servers() -> None:
    configs = {**servers("a", aliases=("default",), args={"ctx-size": 8192}), **servers("b", args={"x": 1, "-c": 512})}
    async with gate(configs) as here:
        here.fleet.up("a")
        listed = await here.json("/v1/models")
        assert listed["object"] == "list"
        a, alias, b = listed["data"]
        assert {**alias, "id": "a"} == a
        assert alias["id"] == "default"
        assert isinstance(a.pop("created"), int)
        assert a == {
            "id": "a",
            "object": "model",
            "owned_by": "llamad",
            "aliases": ["default"],
            "state": "ready",
            "start": "always",
            "replicas": {"ready": 1, "configured": 1},
            "context": 4096,
            "context_length": 4096,
            "max_model_len": 4096,
            "meta": MODELS["data"][0]["meta"],
        }
        assert (b["state"], b["context"], b["meta"]) == ("starting", 512, None)
        assert (await here.json("/v1/models/default"))["id"] == "a"
        assert (await here.json("/models/b"))["id"] == "b"


async def test_a_server_is_asked_what_it_is_once_a_life() -> None:
    async with gate(servers("a")) as here:
        key = here.fleet.up("a")
        await here.json("/v1/models")
        await here.json("/v1/models/a")
        assert [path for _, path, _ in here.probes.asked] == ["/v1/models", "/props"]
        here.fleet.move(key, State.BACKOFF)
        await asyncio.sleep(0.001)  # two lives differ by when they became ready
        here.fleet.ready(key)
        await here.json("/v1/models")
        assert len(here.probes.asked) == 4


async def test_what_is_known_of_lives_long_gone_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamad.gateway.asking.MAX_REPORTS", 1)
    async with gate(servers("a", "b")) as here:
        here.fleet.up("a")
        here.fleet.up("b", 1)
        for _ in range(2):
            assert [entry["context"] for entry in (await here.json("/v1/models"))["data"]] == [4096, 4096]
        assert len(here.probes.asked) == 8


@pytest.mark.parametrize(
    ("models", "props"),
    [
        ("not json", "{}"),
        ([], []),
        ({"data": []}, {"default_generation_settings": []}),
        ({"data": ["x"]}, {"default_generation_settings": {"n_ctx": "many"}}),
        ({"data": [{"meta": None}]}, None),
    ],
)
async def test_a_server_that_says_nonsense_of_itself_is_listed_all_the_same(models: Any, props: Any) -> None:
    async with gate(servers("a", args={"ctx_size": 0})) as here:
        here.fleet.up("a")
        here.probes.answers |= {"/v1/models": (200, models), "/props": (200, props)}
        (entry,) = (await here.json("/v1/models"))["data"]
        assert (entry["state"], entry["context"], entry["meta"]) == ("ready", None, None)


async def test_what_a_server_says_of_itself_cannot_spoil_the_list() -> None:
    """Whatever comes of a server that somebody else runs, the others' clients can read it."""
    wrong = {"deep": [[]], "long": "x" * 300, "large": 10**400, "inf": float("inf"), "y" * 300: 1}
    many = {f"n{i}": i for i in range(1000)}
    async with gate(servers("a", args={"ctx_size": 0})) as here:
        here.fleet.up("a")
        models = json.dumps({"data": [{"meta": {**wrong, "none": None, "ftype": "Q4", **many}}]})
        here.probes.answers["/v1/models"] = (200, models.replace("Infinity", "1e999"))
        here.probes.answers["/props"] = (200, {"default_generation_settings": {"n_ctx": 10**300}})
        (entry,) = (await here.json("/v1/models"))["data"]
        assert entry["context"] is None
        assert entry["meta"] == {"none": None, "ftype": "Q4", **{f"n{i}": i for i in range(MOST_META - 2)}}


async def test_a_server_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamad.gateway.asking.ASK_TIMEOUT", 0.02)
    async with gate(servers("a", "b")) as here:
        here.fleet.up("a", 0)
        here.fleet.up("b", 1)
        here.probes.silent = {"127.0.0.1:9000"}
        a, b = (await here.json("/v1/models"))["data"]
        assert (a["context"], b["context"]) == (None, 4096)


async def test_a_model_that_a_reload_takes_away_meanwhile_is_404() -> None:
    async with gate(servers("a")) as here:
        route = routed(here.policy, a_head("GET", "/v1/models/a"))
        assert isinstance(route, Local)
        here.fleet.configs = servers("b")
        answer = await route.handle()
        assert isinstance(answer, Answer)
        assert answer.status == 404


async def test_metrics_do_not_ask_the_servers_unless_told_to() -> None:
    async with gate(servers("a")) as here:
        here.fleet.up("a")
        for query in ("", "servers=0", "xservers=1"):
            answer = await here.get("/metrics", query)
            assert answer.content_type.startswith(b"text/plain; version=0.0.4")
            read_exposition(answer.body)
        assert here.probes.asked == []


@pytest.mark.parametrize("query", ["servers=1", "a=b&servers=true"])
async def test_every_ready_replicas_own_metrics(query: str) -> None:
    async with gate(servers("a", "b", "c", replicas=2)) as here:
        here.fleet.up("a", 0)
        here.fleet.up("a", 1)
        here.fleet.up("a", 1, generation=1)
        here.fleet.up("b", 2)
        here.fleet.up("b", 3)
        here.fleet.add("c")
        here.probes.broken = {"127.0.0.1:9003"}
        samples = read_exposition((await here.get("/metrics", query)).body)
        name = "llamacpp:prompt_tokens_total"
        assert value(samples, name, server="a", replica="0") == 17
        assert value(samples, name, server="a", replica="1") == 17
        assert value(samples, name, server="b", replica="3") is None
        up = {dict(labels)["replica"]: got for (what, labels), got in samples.items() if what == "llamad_scrape_up"}
        assert up == {"0": 1, "1": 1, "2": 1, "3": 0}
        assert len(here.probes.asked) == 4


async def test_a_server_without_metrics_is_shown_as_such() -> None:
    async with gate(servers("a")) as here:
        here.fleet.up("a")
        here.probes.answers["/metrics"] = (501, {"error": "no metrics"})
        samples = read_exposition((await here.get("/metrics", "servers=1")).body)
        assert value(samples, "llamad_scrape_up", server="a", replica="0") == 0


async def test_without_a_ready_server_a_scrape_of_servers_is_valid() -> None:
    async with gate(servers("a")) as here:
        read_exposition((await here.get("/metrics", "servers=1")).body)


async def test_not_all_are_asked_at_once_and_an_external_one_with_its_key() -> None:
    configs = {**servers("a", replicas=40), **servers("ext", url="http://there:1", api_key_credential="k")}
    async with gate(configs, secrets={"k": "sk-k"}) as here:
        for index in range(40):
            here.fleet.up("a", index)
        here.fleet.up("ext", 41)
        await here.get("/metrics", "servers=1")
        assert here.probes.most_at_once == 16
        assert {(path, key) for _, path, key in here.probes.asked} == {("/metrics", None), ("/metrics", "sk-k")}
