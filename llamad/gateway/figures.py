"""What the board and the traffic records say, as figures for the metrics and for people."""

from collections.abc import Callable

from llamad.gateway.types import Backends
from llamad.metrics import Metrics, ReplicaFigures, ServerFigures
from llamad.servers.board import Change, Replica
from llamad.servers.state import NEAREST_FIRST, State

_ENDED = frozenset({State.BACKOFF, State.FAILED})


def read_figures(backends: Backends) -> list[ServerFigures]:
    """Every configured server at this moment. During a start-first replace two replicas share an index: the better
    one is shown, with the requests of both.
    """
    out = []
    for name in backends.configs:
        traffic = backends.traffic(name)
        by_index: dict[int, list[Replica]] = {}
        for one in backends.board.of(name):
            by_index.setdefault(one.key.index, []).append(one)
        shown = []
        for index, group in by_index.items():
            best = min(group, key=lambda one: NEAREST_FIRST.index(one.state))
            shown.append(
                ReplicaFigures(
                    index,
                    best.state,
                    sum(traffic.load(one.key) for one in group),
                    best.slots,
                    best.busy_slots,
                    best.tokens_per_s,
                    best.memory_bytes,
                    best.cpu_seconds,
                    best.asleep,
                )
            )
        condition = backends.condition(name)
        cause = "" if condition.why is None else condition.why.cause
        is_wanted = condition.wanted == "running"
        out.append(ServerFigures(name, traffic.queued, shown, is_wanted, condition.state, cause))
    return out


def count_lives(metrics: Metrics) -> Callable[[Change], None]:
    """An observer of the board that counts exits by cause, and restarts."""

    def observe(change: Change) -> None:
        old, new = change.old, change.new
        if old is None or new is None:
            return
        if new.restarts > old.restarts:
            metrics.restarted(new.key.server)
        if change.moved and new.state in _ENDED and old.state not in _ENDED:
            metrics.exited(new.key.server, new.last_error.cause if new.last_error is not None else "unknown")

    return observe
