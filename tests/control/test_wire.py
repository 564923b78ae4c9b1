"""The contract of `status --json`, and the other shapes."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llamad.config.model import ServerConfig
from llamad.control.wire import (
    ConfigView,
    ServerView,
    devices_document,
    error_document,
    log_document,
    models_document,
    server_document,
    settled_document,
    status_document,
    step_document,
    timestamp,
)
from llamad.errors import ConfigError, LlamadError, NotAllowedError
from llamad.host.address import UnixAddress
from llamad.host.devices import Devices, Gpu, Vendor
from llamad.host.gguf import Header
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.explain import explain
from llamad.servers.models import Kind, ModelFile, Served
from llamad.servers.plan import Action, Step
from llamad.servers.state import State
from llamad.servers.traffic import Traffic

# What scripts rely on: keys may join here, none may go.
CONTRACT = {"version", "ready", "gateway_problem", "config", "servers"}
CONFIG = {"files", "loaded_at", "error"}
SERVER = {"name", "wanted", "state", "aliases", "model", "in_flight", "queued", "replicas"}
SERVER_MORE = {"url", "start", "reason", "notice"}
REPLICA = {
    *("index", "state", "pid", "address", "uptime_s", "restarts"),
    *("last_exit", "last_error", "hint", "memory_bytes", "cpu_s"),
}
REPLICA_MORE = {
    *("generation", "cause", "reason", "retry_in_s", "in_flight", "slots"),
    *("busy_slots", "asleep", "tokens_per_s", "load_progress", "gpus"),
}


def a_view(replica: Replica | None = None, **config: object) -> ServerView:
    """A server `qwen` with one replica."""
    of = ServerConfig.model_validate({"name": "qwen", "model": Path("/m/q.gguf"), **config})
    replicas = [replica or Replica(ReplicaKey("qwen", 0))]
    return ServerView(of, explain(of, replicas, running=True), replicas)


def test_every_key_of_the_contract_is_there_when_nothing_is_known() -> None:
    status = status_document(version="1", ready=False, config=ConfigView(), servers=[a_view()], now=5.0)
    server = status["servers"][0]
    assert set(status) == CONTRACT
    assert set(status["config"]) == CONFIG
    assert set(server) == SERVER | SERVER_MORE
    assert set(server["replicas"][0]) == REPLICA | REPLICA_MORE
    assert json.loads(json.dumps(server["replicas"][0])) == {
        **dict.fromkeys(REPLICA | REPLICA_MORE),
        "asleep": False,
        "index": 0,
        "generation": 0,
        "state": "stopped",
        "restarts": 0,
        "in_flight": 0,
    }


def test_the_example_of_the_contract() -> None:
    key = ReplicaKey("qwen", 0)
    replica = Replica(
        key,
        state=State.READY,
        pid=4711,
        address=UnixAddress(Path("/run/llamad/servers/qwen-0-1.sock")),
        started_at=100.0,
        ready_since=101.0,
        memory_bytes=170000000,
        cpu_seconds=12.34,
    )
    view = a_view(replica, model=Path("/var/lib/llamad/models/q.gguf"), aliases=["default"])
    config = ConfigView((Path("/etc/llamad/llamad.yaml"),), loaded_at=1767225600.0)
    status = status_document(version="0.1.0", ready=True, config=config, servers=[view], now=112.54)
    wanted = {
        "version": "0.1.0",
        "ready": True,
        "config": {"files": ["/etc/llamad/llamad.yaml"], "loaded_at": "2026-01-01T00:00:00Z", "error": None},
    }
    assert {key: status[key] for key in wanted} == wanted  # type: ignore[literal-required]
    server = status["servers"][0]
    replica_document = server["replicas"][0]
    assert {key: value for key, value in server.items() if key in SERVER - {"replicas"}} == {
        "name": "qwen",
        "wanted": "running",
        "state": "ready",
        "aliases": ["default"],
        "model": "/var/lib/llamad/models/q.gguf",
        "in_flight": 0,
        "queued": 0,
    }
    assert {key: value for key, value in replica_document.items() if key in REPLICA} == {
        "index": 0,
        "state": "ready",
        "pid": 4711,
        "address": "unix:/run/llamad/servers/qwen-0-1.sock",
        "uptime_s": 12.5,
        "restarts": 0,
        "last_exit": None,
        "last_error": None,
        "hint": None,
        "memory_bytes": 170000000,
        "cpu_s": 12.3,
    }


def test_a_gateway_that_cannot_listen_is_not_ready() -> None:
    why = "cannot listen on 127.0.0.1:8080: address already in use"
    status = status_document(version="1", ready=True, config=ConfigView(), servers=[], now=0.0, gateway_problem=why)
    assert (status["ready"], status["gateway_problem"]) == (False, why)


def test_why_it_is_as_it_is_is_told_of_the_server_and_of_each_replica() -> None:
    config = ServerConfig(name="qwen", model=Path("/m"), replicas=2)
    broken = Failure("segfault", "it crashed", "update llama.cpp")
    failed = Replica(ReplicaKey("qwen", 1), State.FAILED, last_error=broken, retry_at=20.0)
    replicas = [Replica(ReplicaKey("qwen", 0), State.READY), failed]
    shown = server_document(ServerView(config, explain(config, replicas, running=True), replicas), now=15.0)
    assert (shown["wanted"], shown["state"]) == ("running", "ready")
    assert shown["reason"] == "replica 1 is failed: it crashed (update llama.cpp); next try in 5s"
    reasons = [one["reason"] for one in shown["replicas"]]
    assert reasons == [None, "it crashed (update llama.cpp); next try in 5s"]
    shown = server_document(ServerView(config, explain(config, (), running=False, order="stop")), now=15.0)
    assert (shown["wanted"], shown["state"], shown["reason"]) == (
        "stopped", "stopped", "was stopped by hand (llamad start qwen)",
    )  # fmt: skip


def test_what_failed_is_shown_with_cause_and_hint_and_the_next_try() -> None:
    replica = Replica(
        ReplicaKey("qwen", 0),
        state=State.BACKOFF,
        started_at=1.0,
        restarts=3,
        last_exit="killed by SIGSEGV",
        last_error=Failure("segfault", "it crashed", "update llama.cpp"),
        retry_at=20.25,
        load_progress=0.61849,
        tokens_per_s=41.6666,
    )
    shown = server_document(a_view(replica), now=12.0)["replicas"][0]
    assert (shown["last_error"], shown["hint"], shown["cause"]) == ("it crashed", "update llama.cpp", "segfault")
    assert (shown["last_exit"], shown["restarts"]) == ("killed by SIGSEGV", 3)
    assert shown["retry_in_s"] == 8.2
    assert shown["uptime_s"] is None, "what does not run has no uptime"
    assert shown["load_progress"] == 0.618
    assert shown["tokens_per_s"] == 41.7


def test_a_try_that_is_due_is_due_now_not_in_the_past() -> None:
    replica = Replica(ReplicaKey("qwen", 0), state=State.BACKOFF, retry_at=3.0)
    assert server_document(a_view(replica), now=12.0)["replicas"][0]["retry_in_s"] == 0.0


def test_an_external_server_is_up_since_it_answers() -> None:
    replica = Replica(ReplicaKey("qwen", 0), state=State.READY, ready_since=2.0)
    view = a_view(replica, model=None, url="http://gpu:8080")
    shown = server_document(view, now=12.0)
    assert (shown["model"], shown["url"]) == (None, "http://gpu:8080")
    assert shown["replicas"][0]["uptime_s"] == 10.0


def test_a_model_that_is_fetched_goes_by_its_repository() -> None:
    assert server_document(a_view(model=None, hf_repo="org/name:Q4"), now=0)["model"] == "org/name:Q4"


def test_requests_are_counted_by_server_and_by_replica() -> None:
    traffic = Traffic(lambda: 0.0)
    first, second = ReplicaKey("qwen", 0), ReplicaKey("qwen", 1)
    for key in (first, second, second):
        traffic.begin(key)
    traffic.queued = 7
    config = ServerConfig(name="qwen", model=Path("/m"), replicas=2)
    replicas = [Replica(first), Replica(second)]
    condition = explain(config, replicas, running=True)
    view = ServerView(config, condition, replicas, traffic, notice="a newer binary is there")
    shown = server_document(view, now=0)
    assert (shown["in_flight"], shown["queued"], shown["notice"]) == (3, 7, "a newer binary is there")
    assert [one["in_flight"] for one in shown["replicas"]] == [1, 2]


@pytest.mark.parametrize(
    ("gpus", "shown"), [("all", "all"), ("none", "none"), ([0, 1], [0, 1]), ([[0], ["GPU-1"]], [0]), (None, None)]
)
def test_the_gpus_are_those_of_the_replica(gpus: object, shown: object) -> None:
    assert server_document(a_view(gpus=gpus, replicas=2), now=0)["replicas"][0]["gpus"] == shown


def test_a_replica_that_the_configuration_has_no_gpus_for_any_more_is_shown_all_the_same() -> None:
    leaving = Replica(ReplicaKey("qwen", 2))
    assert server_document(a_view(leaving, gpus=[[0], [1]], replicas=2), now=0)["replicas"][0]["gpus"] is None


@pytest.mark.parametrize(
    ("at", "text"), [(0, "1970-01-01T00:00:00Z"), (1.25, "1970-01-01T00:00:01.250Z"), (1.9999, "1970-01-01T00:00:02Z")]
)
def test_times_are_rfc_3339(at: float, text: str) -> None:
    assert timestamp(at) == text


def test_a_log_line() -> None:
    assert log_document(at=0, level=logging.WARNING, replica=1, text="x", lost=3) == {
        "at": "1970-01-01T00:00:00Z",
        "level": "warning",
        "replica": 1,
        "text": "x",
        "lost": 3,
    }


def test_steps_and_what_became_of_a_server() -> None:
    step = Step(Action.REPLACE, "qwen", ("args.ctx_size 4096 -> 8192",))
    assert step_document(step) == {"action": "replace", "server": "qwen", "reasons": ["args.ctx_size 4096 -> 8192"]}
    assert settled_document("qwen", State.READY, None)["error"] is None
    failed = settled_document("qwen", State.FAILED, Failure("x", "why", "do"))
    assert failed == {"server": "qwen", "state": "failed", "error": "why", "hint": "do"}


def test_an_error_says_what_the_command_ends_with() -> None:
    assert error_document(NotAllowedError("no", hint="ask")) == {
        "error": {"message": "no", "hint": "ask", "exit_code": 77}
    }
    assert error_document(LlamadError("no"))["error"]["exit_code"] == 1
    refused = error_document(ConfigError("no", problems=("a:1:1: b",)))
    assert refused["error"]["problems"] == ["a:1:1: b"]


def test_devices() -> None:
    gpu = Gpu(Vendor.AMD, index=1, pci="0000:03:00.0", memory_total=8, nodes=(Path("/dev/dri/renderD128"),))
    shown = devices_document(Devices((gpu,), ("no /dev/kfd",)), {"/bin/ls": ("Vulkan0",)})
    assert shown["problems"] == ["no /dev/kfd"]
    assert shown["llama_server"] == {"/bin/ls": ["Vulkan0"]}
    assert shown["gpus"] == [
        {
            "index": 1,
            "vendor": "amd",
            "name": None,
            "uuid": None,
            "pci": "0000:03:00.0",
            "driver": None,
            "memory_total_bytes": 8,
            "memory_used_bytes": None,
            "nodes": ["/dev/dri/renderD128"],
        }
    ]


def test_models() -> None:
    header = Header(3, 290, "qwen3", "Qwen3 8B", quantization="Q4_K_M", context_length=40960, chat_template=True)
    parts = (Path("/m/q-00001-of-00002.gguf"), Path("/m/q-00002-of-00002.gguf"))
    good = ModelFile(
        parts[0], "q", Kind.MODEL, 9, parts, header, projectors=(Path("/m/mm.gguf"),), templates=(Path("/m/q.jinja"),)
    )
    bad = ModelFile(Path("/m/x.gguf"), "x", Kind.MODEL, 1, (Path("/m/x.gguf"),), problem="no GGUF")
    serves = Served(("q", "default"), "server", 8192, 4, "/m/q", "Q4_K_M", 8_000_000_000, ("vision",))
    shown = models_document(Path("/m"), [good, bad], {"qwen": serves}, configs={"qwen": a_view(aliases=["x"]).config})
    assert (shown["models_dir"], shown["error"]) == ("/m", None)
    assert shown["files"][0] == {
        "name": "q",
        "path": "/m/q-00001-of-00002.gguf",
        "kind": "model",
        "parts": 2,
        "size_bytes": 9,
        "architecture": "qwen3",
        "title": "Qwen3 8B",
        "quantization": "Q4_K_M",
        "context": 40960,
        "chat_template": True,
        "templates": ["/m/q.jinja"],
        "projectors": ["/m/mm.gguf"],
        "error": None,
    }
    assert set(shown["files"][1]) == set(shown["files"][0])
    assert (shown["files"][1]["error"], shown["files"][1]["chat_template"]) == ("no GGUF", False)
    assert shown["served"] == [
        {
            "server": "qwen",
            "names": ["q", "default"],
            "aliases": ["x"],
            "path": "/m/q",
            "context": 8192,
            "slots": 4,
            "quantization": "Q4_K_M",
            "parameters": 8_000_000_000,
            "modalities": ["vision"],
            "source": "server",
        }
    ]
    assert models_document(Path("/m"), [], {}, configs={}, error="closed")["error"] == "closed"


def test_the_shapes_need_neither_aiohttp_nor_pydantic() -> None:
    script = "import sys, llamad.control.wire; sys.exit({'aiohttp', 'pydantic', 'yaml'} & set(sys.modules) != set())"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_speed_of_work_that_no_look_has_seen_yet_is_not_known() -> None:
    """The last look was at an idle server, and said 0."""
    traffic, key = Traffic(lambda: 0.0), ReplicaKey("qwen", 0)
    idle = Replica(key, state=State.READY, busy_slots=0, tokens_per_s=0.0)
    view = replace(a_view(idle), traffic=traffic)
    assert server_document(view, now=0)["replicas"][0]["tokens_per_s"] == 0.0
    traffic.begin(key)
    assert server_document(view, now=0)["replicas"][0]["tokens_per_s"] is None


def test_one_that_sleeps_is_ready_and_said_to_sleep() -> None:
    replica = Replica(ReplicaKey("qwen", 0), state=State.READY, asleep=True)
    shown = server_document(a_view(replica), now=0)["replicas"][0]
    assert (shown["state"], shown["asleep"]) == ("ready", True)
