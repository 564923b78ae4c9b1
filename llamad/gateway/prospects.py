"""What a request that wants a server can expect, and which replica it gets. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil

from llamad.config.model import ServerConfig
from llamad.config.units import format_duration
from llamad.errors import LlamadError, ServerDownError
from llamad.gateway.types import Refusal
from llamad.servers.board import Replica, ReplicaKey
from llamad.servers.explain import Condition
from llamad.servers.state import State

RETRY_SOON = 5.0
"""Seconds: a failed replica whose next try is nearer than this is worth waiting for."""
RETRY_AFTER = 5
"""Seconds, in Retry-After, after which a busy server is worth another question."""
_COMING = frozenset({State.STARTING, State.LOADING, State.BACKOFF, State.UNRESPONSIVE})
_DOWN = frozenset({State.FAILED, State.STOPPED})


class Outlook(Enum):
    """What is to be expected of a server."""

    SERVING = "serving"
    """A replica is ready, if maybe busy."""
    COMING = "coming"
    """None is ready; one will be without anybody's doing."""
    ABSENT = "absent"
    """Nothing of it runs, or what does is on its way out: its owner knows whether it comes."""
    FAILED = "failed"
    """It will not be there soon."""


def outlook(replicas: Iterable[Replica], now: float) -> Outlook:
    """What a server's replicas promise."""
    there = list(replicas)
    states = {one.state for one in there}
    if State.READY in states:
        return Outlook.SERVING
    if not _COMING.isdisjoint(states) or any(_retries_soon(one, now) for one in there):
        return Outlook.COMING
    return Outlook.FAILED if State.FAILED in states and states <= _DOWN else Outlook.ABSENT


def _retries_soon(replica: Replica, now: float) -> bool:
    return replica.state is State.FAILED and replica.retry_at is not None and replica.retry_at - now <= RETRY_SOON


def failure_refusal(condition: Condition, now: float) -> Refusal:
    """503 for a server that failed: its cause, its hint, and when the next try is due."""
    return _unavailable(condition.cause, condition.sentence(now), condition.retry_in(now))


def down_refusal(server: str, error: LlamadError) -> Refusal:
    """503 in the words of the fleet, which could not have `server` ready."""
    if not isinstance(error, ServerDownError):
        return Refusal(503, "unavailable", f"{server} is not available: {error}")
    return _unavailable(error.cause, str(error), error.retry_after)


def _unavailable(cause: str, message: str, after: float | None) -> Refusal:
    return Refusal(503, cause, message, None if after is None else max(ceil(after), 1))


def full_refusal(server: str, waiting: int) -> Refusal:
    """503: no room in the queue."""
    wait = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
    message = f"{wait} for {server} already (gateway.queue.size): ask again later"
    return Refusal(503, "queue_full", message, RETRY_AFTER)


def crowded_refusal(server: str) -> Refusal:
    """429 for the newest of the key that has most requests waiting, when another key needs room in a full queue."""
    message = f"the queue of {server} is full and most of it is yours: send fewer requests at once"
    return Refusal(429, "queue_share", message, RETRY_AFTER)


def timeout_refusal(condition: Condition, waited: float, now: float) -> Refusal:
    """503 for a request that waited long enough, with what the server is doing."""
    name, within = condition.server, format_duration(waited)
    busy = f"no replica of {name} was free within {within}"
    message = busy if condition.as_wanted else f"{busy}: {condition.sentence(now)}"
    return Refusal(503, "queue_timeout", message, RETRY_AFTER)


def ready(replicas: Iterable[Replica]) -> list[Replica]:
    """Those that take requests, of those in the board's order; of both sides of a start-first replace the newer one."""
    there = (one for one in replicas if one.state is State.READY and one.address is not None)
    return list({one.key.index: one for one in there}.values())


@dataclass(frozen=True, slots=True)
class Place:
    """A ready replica. `limit` is how many requests it may have at once (None: it queues itself), `weight` what its
    load is measured by.
    """

    replica: Replica
    limit: int | None
    weight: int


def places(config: ServerConfig, replicas: Iterable[Replica]) -> list[Place]:
    """The replicas that take new requests."""
    out = []
    for one in replicas:
        if one.state is State.READY and one.address is not None:
            limit = config.max_concurrent or one.slots or None
            out.append(Place(one, limit, one.slots or limit or 1))
    return out


def pick(
    there: Sequence[Place], load_of: Callable[[ReplicaKey], int], avoid: Callable[[Replica], bool] | None = None
) -> Place | None:
    """The place with the fewest requests for its slots; None when all are full or to be avoided."""
    best, best_load = None, 0.0
    for place in there:
        count = load_of(place.replica.key)
        if place.limit is not None and count >= place.limit:
            continue
        if avoid is not None and avoid(place.replica):
            continue
        load = count / place.weight
        if best is None or load < best_load:
            best, best_load = place, load
    return best
