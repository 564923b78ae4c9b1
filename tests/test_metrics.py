"""What is counted, and that Prometheus can read it."""

from dataclasses import dataclass
from typing import Any

import pytest

from llamad.metrics import MAX_CAUSES, Metrics, ReplicaFigures, ServerFigures
from llamad.servers.state import State
from tests.expositions import Samples, read_exposition, value


def a_metrics() -> Metrics:
    return Metrics("1.2.3", State)


@dataclass
class ARequest:
    """A metrics.Served."""

    key: str | None = "alice"
    status: int = 200
    began: float = 0.0
    first_byte: float | None = 0.02
    bytes_in: int = 100
    bytes_out: int = 1000
    retries: int = 0


def request(metrics: Metrics, server: str | None = "a", *, duration: float = 0.2, **more: Any) -> None:
    metrics.request(server, ARequest(**more), duration)


def read(metrics: Metrics) -> Samples:
    return read_exposition(metrics.exposition())


def test_nothing_counted_is_valid_too() -> None:
    samples = read(a_metrics())
    assert value(samples, "llamad_info", version="1.2.3") == 1
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)


def test_requests_by_server_key_and_status() -> None:
    metrics = a_metrics()
    request(metrics)
    request(metrics)
    request(metrics, status=503, key=None)
    request(metrics, server=None)
    request(metrics, status=0)
    samples = read(metrics)
    name = "llamad_requests_total"
    assert value(samples, name, server="a", key="alice", status="200") == 2
    assert value(samples, name, server="a", key="unknown", status="503") == 1
    assert value(samples, name, server="unknown", key="alice", status="200") == 1
    assert value(samples, name, server="a", key="alice", status="499") == 1


def test_durations_and_times_to_first_byte_are_histograms() -> None:
    metrics = a_metrics()
    request(metrics, duration=0.005, first_byte=None)
    request(metrics, duration=0.3, first_byte=0.011)
    request(metrics, duration=1000.0, first_byte=0.1)
    samples = read(metrics)
    name = "llamad_request_duration_seconds"
    at = {le: value(samples, f"{name}_bucket", server="a", le=le) for le in ("0.005", "0.25", "0.5", "600.0", "+Inf")}
    assert at == {"0.005": 1, "0.25": 1, "0.5": 2, "600.0": 2, "+Inf": 3}
    assert value(samples, f"{name}_count", server="a") == 3
    assert value(samples, f"{name}_sum", server="a") == pytest.approx(1000.305)
    assert value(samples, "llamad_time_to_first_byte_seconds_count", server="a") == 2


def test_bytes_and_retries() -> None:
    metrics = a_metrics()
    request(metrics, retries=1)
    request(metrics)
    samples = read(metrics)
    assert value(samples, "llamad_request_bytes_total", server="a") == 200
    assert value(samples, "llamad_response_bytes_total", server="a") == 2000
    assert value(samples, "llamad_retried_requests_total", server="a") == 1


def test_rejections_exits_and_restarts() -> None:
    metrics = a_metrics()
    metrics.rejected("a", "queue_full")
    metrics.exited("a", "out-of-gpu-memory")
    metrics.exited("a", "out-of-gpu-memory")
    metrics.restarted("a")
    samples = read(metrics)
    assert value(samples, "llamad_rejected_requests_total", server="a", reason="queue_full") == 1
    assert value(samples, "llamad_replica_exits_total", server="a", cause="out-of-gpu-memory") == 2
    assert value(samples, "llamad_replica_restarts_total", server="a") == 1


def test_causes_are_bounded() -> None:
    metrics = a_metrics()
    for number in range(MAX_CAUSES + 10):
        metrics.exited("a", f"cause-{number}")
    metrics.exited("a", "cause-0")
    samples = read(metrics)
    assert value(samples, "llamad_replica_exits_total", server="a", cause="other") == 10
    assert value(samples, "llamad_replica_exits_total", server="a", cause="cause-0") == 2


def test_the_servers_are_read_at_every_scrape() -> None:
    metrics = a_metrics()
    full = ReplicaFigures(
        1, State.READY, 3, slots=4, busy_slots=2, tokens_per_s=12.5, memory_bytes=1 << 30, cpu_seconds=2.5
    )
    metrics.read_servers(
        lambda: [
            ServerFigures("a", 7, [ReplicaFigures(0, State.LOADING), full], is_wanted=True, state="loading", cause="")
        ]
    )
    for _ in range(2):
        samples = read(metrics)
        assert value(samples, "llamad_requests_queued", server="a") == 7
        assert value(samples, "llamad_server_wanted", server="a") == 1
        assert value(samples, "llamad_server_condition", server="a", state="loading", cause="") == 1
        assert value(samples, "llamad_requests_in_flight", server="a", replica="1") == 3
        states = {
            state: value(samples, "llamad_replica_state", server="a", replica="0", state=state) for state in State
        }
        assert states == {state: float(state is State.LOADING) for state in State}
        one = {"server": "a", "replica": "1"}
        assert value(samples, "llamad_replica_slots", **one) == 4
        assert value(samples, "llamad_replica_busy_slots", **one) == 2
        assert value(samples, "llamad_replica_tokens_per_second", **one) == 12.5
        assert value(samples, "llamad_replica_memory_bytes", **one) == 1 << 30
        assert value(samples, "llamad_replica_cpu_seconds_total", **one) == 2.5
        assert value(samples, "llamad_replica_slots", server="a", replica="0") is None


def test_a_server_that_is_gone_leaves_no_series() -> None:
    metrics = a_metrics()
    for server in ("a", "b"):
        request(metrics, server=server)
        metrics.rejected(server, "queue_full")
        metrics.exited(server, "exit")
        metrics.restarted(server)
    metrics.forget(["a", "never-there"])
    servers = {dict(labels).get("server") for _, labels in read(metrics)}
    assert servers == {None, "b"}


def test_names_with_quotes_stay_valid() -> None:
    metrics = a_metrics()
    metrics.exited('a"\\\n', "exit")
    assert value(read(metrics), "llamad_replica_exits_total", server='a"\\\n', cause="exit") == 1
