"""What goes through one server at this moment. The gateway writes down what it relays, who watches a replica what its
engine does; supervisors (drain), the gateway (balance) and the fleet (idle, eviction) go by the larger of the two.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llamad.servers.board import ReplicaKey


class Flight:
    """One request that is relayed to the replica `key`, since `began`. The gateway counts the bytes that it `received`
    of the answer; `fate` is why llamad ended the process that worked on it, where it did.
    """

    # Defaults stand in the class: most requests never change them, and one object less to fill is time saved.
    began = 0.0
    received = 0
    fate: str | None = None

    def __init__(self, key: ReplicaKey) -> None:
        self.key = key


class _Lane:
    """What one replica has."""

    others = 0
    """Slots that worked, at the last look, on what is not relayed."""
    begun = 0
    received = 0
    """Bytes of the answers that are over."""
    errors = 0
    watcher: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.flights: dict[Flight, None] = {}
        self.left: list[Flight] = []
        """Those whose client has gone, and that the engine goes on with, oldest first: over once a look that began
        later has counted its slots.
        """
        self.left_at_mark = 0
        """How many of them there were when the look under way began."""

    @property
    def load(self) -> int:
        return len(self.flights) + self.others


_NOTHING = _Lane()
"""What a replica has that is neither watched nor used; never written to."""


class Traffic:
    """Requests that run and wait at one server, and when it was last used (the loop's clock)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lanes: dict[ReplicaKey, _Lane] = {}
        self._ended: asyncio.Event | None = None
        """There while somebody waits for the end of something: most requests end unwatched."""
        self.last_used = clock()
        self.queued = 0
        self.freed: Callable[[], None] = lambda: None
        """The gateway's: called when a look has found room that the end of no request tells of."""

    def load(self, key: ReplicaKey) -> int:
        """Requests that `key` works on: those relayed, and what its engine does beside them."""
        lane = self._lanes.get(key)
        return 0 if lane is None else len(lane.flights) + lane.others

    def in_flight(self, key: ReplicaKey) -> int:
        """Requests that are relayed to `key`."""
        return len(self._lanes.get(key, _NOTHING).flights)

    def others(self, key: ReplicaKey) -> int:
        """What the engine of `key` did, at the last look, that is not relayed."""
        return self._lanes.get(key, _NOTHING).others

    def left_behind(self, key: ReplicaKey) -> bool:
        """Whether a client has gone, and nobody has looked yet what became of its request."""
        return bool(self._lanes.get(key, _NOTHING).left)

    @property
    def total(self) -> int:
        """Requests that any replica works on."""
        return sum(lane.load for lane in self._lanes.values())

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.queued and not self.total

    # --- the gateway

    def begin(self, key: ReplicaKey, flight: Flight | None = None) -> Flight:
        """A request is given to `key`; `flight` is what stands for it, where there is such a thing already."""
        lane = self._lanes.get(key) or self._lane(key)
        lane.begun += 1
        flight = flight or Flight(key)
        self.last_used = flight.began = self._clock()
        lane.flights[flight] = None
        if lane.watcher is not None and len(lane.flights) == 1:
            lane.watcher()
        return flight

    def end(self, flight: Flight) -> None:
        """A request is over, however it ended."""
        lane = self._lanes[flight.key]
        del lane.flights[flight]
        lane.received += flight.received
        self.last_used = self._clock()
        if self._ended is not None and not lane.flights:
            self._ended.set()
            self._ended = None

    def leave(self, flight: Flight) -> None:
        """The client of a request has gone, and the engine goes on with it: it counts until somebody has looked."""
        lane = self._lanes[flight.key]
        if lane.watcher is None:
            self.end(flight)
            return
        lane.left.append(flight)
        lane.watcher()

    def failed(self, key: ReplicaKey) -> None:
        """A request given to `key` was answered with status 500."""
        self._lane(key).errors += 1

    # --- who watches a replica

    @contextmanager
    def watch(self, key: ReplicaKey, watcher: Callable[[], None]) -> Iterator[None]:
        """Have `watcher` called when a look is worth while: work begins, or goes on without its client."""
        lane = self._lane(key)
        lane.watcher, lane.errors = watcher, 0
        try:
            yield
        finally:
            self._settle(lane, len(lane.left))
            lane.watcher, lane.others = None, 0

    def mark(self, key: ReplicaKey) -> int:
        """To be taken before the slots are asked for, and given to `note`."""
        if (lane := self._lanes.get(key)) is None:
            return 0
        lane.left_at_mark = len(lane.left)
        return lane.begun - len(lane.flights)

    def note(self, key: ReplicaKey, busy: int, *, active: bool, mark: int) -> None:
        """So many slots worked at a look; `active`: something was worked on since the look before. What was relayed at
        any time during the look is taken for work of its own: the slots were counted somewhen in between.
        """
        lane = self._lane(key)
        before = lane.load
        lane.others = max(busy - (lane.begun - mark - lane.left_at_mark), 0)
        if lane.others or active:
            self.last_used = self._clock()
        self._settle(lane, lane.left_at_mark)
        if lane.load < before:
            self.freed()

    def received(self, key: ReplicaKey) -> int:
        """Bytes that came from `key` so far."""
        lane = self._lanes.get(key, _NOTHING)
        return lane.received + sum(one.received for one in lane.flights)

    def waiting(self, key: ReplicaKey) -> float:
        """For how many seconds the oldest request at `key` that got no byte yet has waited."""
        began = min((one.began for one in self._lanes.get(key, _NOTHING).flights if not one.received), default=None)
        return 0.0 if began is None else self._clock() - began

    def errors(self, key: ReplicaKey) -> int:
        """Answers of status 500 since `forgive`."""
        return self._lanes.get(key, _NOTHING).errors

    def forgive(self, key: ReplicaKey) -> None:
        """Its errors proved nothing."""
        self._lane(key).errors = 0

    def doom(self, key: ReplicaKey, why: str) -> None:
        """llamad ends the process, whatever it works on: these requests are to be told why, and not to be repeated."""
        for flight in self._lanes.get(key, _NOTHING).flights:
            flight.fate = why

    async def drained(self, key: ReplicaKey) -> None:
        """Return once nothing is relayed to `key`."""
        while self.in_flight(key):
            if self._ended is None:
                self._ended = asyncio.Event()
            await self._ended.wait()

    def _lane(self, key: ReplicaKey) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes = {one: there for one, there in self._lanes.items() if there.flights or there.watcher}
            lane = self._lanes[key] = _Lane()
        return lane

    def _settle(self, lane: _Lane, oldest: int) -> None:
        left, lane.left, lane.left_at_mark = lane.left[:oldest], lane.left[oldest:], 0
        for flight in left:
            self.end(flight)
