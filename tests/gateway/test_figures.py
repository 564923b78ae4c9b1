"""What the metrics are told of the board."""

from llamad.gateway.figures import count_lives, read_figures
from llamad.metrics import Metrics, ReplicaFigures, ServerFigures
from llamad.servers.board import Failure
from llamad.servers.state import State
from tests.expositions import read_exposition, value
from tests.gateway.fleets import SmallFleet, servers


async def test_every_server_and_each_index_once() -> None:
    fleet = SmallFleet(servers("a", "b"))
    old = fleet.up("a", 0, slots=2)
    new = fleet.add("a", 0, generation=1)
    fleet.up("a", 1, slots=4)
    traffic = fleet.traffic("a")
    traffic.begin(old)
    traffic.begin(new)
    traffic.queued = 3
    fleet.move(new, State.LOADING)
    fleet.stopped = {"b"}
    replicas = [ReplicaFigures(0, State.READY, 2, 2), ReplicaFigures(1, State.READY, 0, 4)]
    assert read_figures(fleet) == [
        ServerFigures("a", 3, replicas, is_wanted=True, state="ready", cause="loading"),
        ServerFigures("b", 0, [], is_wanted=False, state="stopped", cause="on-demand"),
    ]


async def test_exits_and_restarts_are_counted_and_orders_are_not() -> None:
    fleet = SmallFleet(servers("a"))
    metrics = Metrics("0", State)
    with fleet.board.observe(count_lives(metrics)):
        key = fleet.up("a")
        fleet.move(key, State.BACKOFF, last_error=Failure("oom", "no memory"))
        fleet.board.update(key, memory_bytes=5)
        fleet.move(key, State.FAILED)
        fleet.move(key, State.STARTING, restarts=1)
        fleet.move(key, State.BACKOFF, last_error=None)
        fleet.move(key, State.READY)
        fleet.move(key, State.STOPPING)
        fleet.move(key, State.STOPPED)
        fleet.board.remove(key)
    samples = read_exposition(metrics.exposition())
    assert value(samples, "llamad_replica_exits_total", server="a", cause="oom") == 1
    assert value(samples, "llamad_replica_exits_total", server="a", cause="unknown") == 1
    assert value(samples, "llamad_replica_restarts_total", server="a") == 1
