"""What is counted, and how Prometheus gets it: plain numbers, filled by whoever knows, shown by the gateway.

A request costs a few additions on plain numbers; families and labels are made when somebody scrapes. That is safe
because everything here runs on one thread. Labels are bounded: callers pass servers and keys of the configuration only.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
UNKNOWN = "unknown"
"""The server or key of a request that had none."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: from an embedding to a long answer."""
MAX_CAUSES = 64
"""Causes and reasons are short names of ours; past this many something is wrong, and the rest is `other`."""
_LE = [*(str(bound) for bound in BUCKETS), "+Inf"]


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One replica at this moment. `state` is one of the states the metrics were made with."""

    index: int
    state: str
    in_flight: int = 0
    slots: int | None = None
    busy_slots: int | None = None
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """One server at this moment; `replicas` has each index once. `cause` is why it is not as it is wanted, or does not
    run; empty where there is nothing to say.
    """

    name: str
    queued: int
    replicas: Sequence[ReplicaFigures]
    is_wanted: bool
    state: str
    cause: str


class Served(Protocol):
    """A request that is over. Times are seconds of one clock; `first_byte` is None when no server answered, `status` 0
    when its client left before there was one (counted as 499, as nginx does).
    """

    key: str | None
    status: int
    began: float
    first_byte: float | None
    bytes_in: int
    bytes_out: int
    retries: int


class _Histogram:
    """Seconds, in BUCKETS."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        out, sum_so_far = [], 0
        for bound, count in zip(_LE, self.counts, strict=True):
            sum_so_far += count
            out.append((bound, float(sum_so_far)))
        return out


class _Server:
    """What is counted of one server."""

    __slots__ = ("bytes_in", "bytes_out", "duration", "first_byte", "requests", "retried")

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by key and status
        self.duration = _Histogram()
        self.first_byte = _Histogram()
        self.bytes_in = 0
        self.bytes_out = 0
        self.retried = 0


class Metrics:
    """llamad's own metrics, in a registry of their own. `states` are all that a replica may have."""

    def __init__(self, version: str, states: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._version = version
        self._states = tuple(states)
        self._servers: dict[str, _Server] = {}
        self._rejected: Counter[tuple[str, str]] = Counter()
        self._exits: Counter[tuple[str, str]] = Counter()
        self._restarts: Counter[str] = Counter()
        self._reasons: set[str] = set()
        self._read: Callable[[], Iterable[ServerFigures]] = tuple
        self.registry.register(_Families(self._collect))
        ProcessCollector(registry=self.registry)

    def read_servers(self, read: Callable[[], Iterable[ServerFigures]]) -> None:
        """Ask `read` for the servers' figures at every scrape."""
        self._read = read

    def request(self, server: str | None, served: Served, now: float) -> None:
        """A request is over at `now`; `server` is None where it was for none that is configured."""
        name = server or UNKNOWN
        one = self._servers.get(name)
        if one is None:
            one = self._servers[name] = _Server()
        one.requests[served.key or UNKNOWN, served.status or 499] += 1
        began, first_byte = served.began, served.first_byte
        one.duration.observe(now - began)
        if first_byte is not None:
            one.first_byte.observe(first_byte - began)
        one.bytes_in += served.bytes_in
        one.bytes_out += served.bytes_out
        one.retried += served.retries

    def rejected(self, server: str, reason: str) -> None:
        """A request for `server` got no replica."""
        self._rejected[server, self._bounded(reason)] += 1

    def exited(self, server: str, cause: str) -> None:
        """A replica ended or did not start, and was not told to end."""
        self._exits[server, self._bounded(cause)] += 1

    def restarted(self, server: str) -> None:
        """A replica was started again."""
        self._restarts[server] += 1

    def forget(self, servers: Iterable[str]) -> None:
        """These servers are not configured any more: their series end."""
        gone = set(servers)
        for name in gone:
            self._servers.pop(name, None)
            self._restarts.pop(name, None)
        for counter in (self._rejected, self._exits):
            for label in [label for label in counter if label[0] in gone]:
                del counter[label]

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _bounded(self, reason: str) -> str:
        if reason in self._reasons or len(self._reasons) < MAX_CAUSES:
            self._reasons.add(reason)
            return reason
        return "other"

    def _collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("llamad", "llamad's version.", {"version": self._version})
        yield from self._requests()
        yield from self._events()
        yield from _figures(list(self._read()), self._states)

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("llamad_requests", "Requests answered.", labels=["server", "key", "status"])
        duration = HistogramMetricFamily(
            "llamad_request_duration_seconds", "From a request's head to the end of its answer.", labels=["server"]
        )
        first_byte = HistogramMetricFamily(
            "llamad_time_to_first_byte_seconds", "From a request's head to the head of its answer.", labels=["server"]
        )
        taken = CounterMetricFamily("llamad_request_bytes", "Bytes of requests' bodies.", labels=["server"])
        given = CounterMetricFamily("llamad_response_bytes", "Bytes of answers with their heads.", labels=["server"])
        retried = CounterMetricFamily(
            "llamad_retried_requests", "Requests sent again after a replica died on them.", labels=["server"]
        )
        for name, one in self._servers.items():
            for (key, status), count in one.requests.items():
                requests.add_metric([name, key, str(status)], count)
            duration.add_metric([name], one.duration.buckets(), one.duration.total)
            first_byte.add_metric([name], one.first_byte.buckets(), one.first_byte.total)
            taken.add_metric([name], one.bytes_in)
            given.add_metric([name], one.bytes_out)
            retried.add_metric([name], one.retried)
        yield from (requests, duration, first_byte, taken, given, retried)

    def _events(self) -> Iterator[Metric]:
        rejected = CounterMetricFamily(
            "llamad_rejected_requests", "Requests that got no replica.", labels=["server", "reason"]
        )
        for labels, count in self._rejected.items():
            rejected.add_metric(labels, count)
        exits = CounterMetricFamily(
            "llamad_replica_exits", "Replicas that ended or did not start, unasked.", labels=["server", "cause"]
        )
        for labels, count in self._exits.items():
            exits.add_metric(labels, count)
        restarts = CounterMetricFamily("llamad_replica_restarts", "Replicas started again.", labels=["server"])
        for server, count in self._restarts.items():
            restarts.add_metric([server], count)
        yield from (rejected, exits, restarts)


class _Families(Collector):
    """Has a registry ask `read` at every scrape."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def _figures(servers: Sequence[ServerFigures], states: Sequence[str]) -> Iterator[Metric]:
    queued = GaugeMetricFamily("llamad_requests_queued", "Requests that wait for a replica.", labels=["server"])
    wanted = GaugeMetricFamily("llamad_server_wanted", "1 where the server should run now.", labels=["server"])
    condition = GaugeMetricFamily(
        "llamad_server_condition",
        "1 for the state of a server, and for the cause why it is not as it is wanted or does not run.",
        labels=["server", "state", "cause"],
    )
    state = GaugeMetricFamily(
        "llamad_replica_state", "1 for the state a replica is in.", labels=["server", "replica", "state"]
    )
    replica = ["server", "replica"]
    in_flight = GaugeMetricFamily("llamad_requests_in_flight", "Requests a replica works on.", labels=replica)
    slots = GaugeMetricFamily("llamad_replica_slots", "Requests it can work on at once.", labels=replica)
    busy = GaugeMetricFamily("llamad_replica_busy_slots", "Slots that work.", labels=replica)
    speed = GaugeMetricFamily("llamad_replica_tokens_per_second", "Tokens generated a second.", labels=replica)
    asleep = GaugeMetricFamily("llamad_replica_asleep", "1 while it sleeps until a request comes.", labels=replica)
    memory = GaugeMetricFamily("llamad_replica_memory_bytes", "Resident memory.", labels=replica)
    cpu = CounterMetricFamily("llamad_replica_cpu_seconds", "Processor time of its process.", labels=replica)
    for server in servers:
        queued.add_metric([server.name], server.queued)
        wanted.add_metric([server.name], float(server.is_wanted))
        condition.add_metric([server.name, server.state, server.cause], 1.0)
        for one in server.replicas:
            labels = [server.name, str(one.index)]
            in_flight.add_metric(labels, one.in_flight)
            asleep.add_metric(labels, float(one.asleep))
            for name in states:
                state.add_metric([*labels, name], float(name == one.state))
            optional = (
                (slots, one.slots),
                (busy, one.busy_slots),
                (speed, one.tokens_per_s),
                (memory, one.memory_bytes),
                (cpu, one.cpu_seconds),
            )
            for family, value in optional:
                if value is not None:
                    family.add_metric(labels, value)
    yield from (queued, wanted, condition, in_flight, state, asleep, slots, busy, speed, memory, cpu)
