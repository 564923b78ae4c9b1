"""One server's line: a request gets a ready replica at once where one has room, else it waits here.

Everything is synchronous and cheap. A line moves when a replica gets free, when the board changes, and when its one
timer fires. `decided` callbacks may in turn release, ask and cancel: they always find a consistent line.
"""

import asyncio
from collections.abc import Callable, Iterable

from llamad.config.model import QueueConfig, ServerConfig
from llamad.errors import LlamadError
from llamad.gateway.prospects import (
    Outlook,
    Place,
    crowded_refusal,
    down_refusal,
    failure_refusal,
    full_refusal,
    outlook,
    pick,
    places,
    timeout_refusal,
)
from llamad.gateway.types import Lease, Refusal, Ticket
from llamad.gateway.waiting import Decided, Waiter, Waiting
from llamad.servers.board import Replica
from llamad.servers.explain import Condition
from llamad.servers.traffic import Flight, Traffic


class Grant(Flight):
    """A Lease: one request on one replica."""

    _open = True

    def __init__(self, line: "Line", replica: Replica, traffic: Traffic) -> None:
        self.key = replica.key
        self.replica = replica
        self._line = line
        self._traffic = traffic
        traffic.begin(replica.key, self)

    def release(self, *, goes_on: bool = False) -> None:
        """The request is over, or `goes_on` in the engine without its client. Once only: a second time would free a
        slot that is not free.
        """
        assert self._open, f"a lease of {self.replica.key} was released twice"
        self._open = False
        if goes_on:
            self._traffic.leave(self)
        else:
            self._traffic.end(self)
        self._line.pump()

    def failed(self) -> None:
        """The answer is an error of status 500."""
        self._traffic.failed(self.replica.key)


class Line:
    """Who waits for one server, and where its requests may go. `view` reads its replicas off the board, `explain` says
    why it is as it is, `start` has the fleet bring it up (called once, until `started`), `rejected` is told the reason
    of each refusal.
    """

    def __init__(
        self,
        config: ServerConfig,
        traffic: Traffic,
        *,
        view: Callable[[], Iterable[Replica]],
        explain: Callable[[], Condition],
        start: Callable[["Line"], None],
        rejected: Callable[[str, str], None],
        settings: QueueConfig,
    ) -> None:
        self.server = config.name
        self.config = config
        self.settings = settings
        self.moves = 0
        """How often its replicas changed on the board."""
        self._traffic = traffic
        traffic.freed = self.pump
        self._view = view
        self._explain = explain
        self._start = start
        self._rejected = rejected
        self._loop = asyncio.get_running_loop()
        self._places: list[Place] = []
        self._waiting = Waiting()
        self._timer: asyncio.TimerHandle | None = None
        self._starting = False
        self._pumping = False

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def ask(self, key: str | None, decided: Decided, *, retry: bool, avoid: Replica | None) -> Lease | Refusal | Ticket:
        """See Admission.ask."""
        if avoid is None and (retry or not self._traffic.queued):  # the same as `waiting`, which has to count
            place = pick(self._places, self._traffic.load)
            if place is not None:
                return Grant(self, place.replica, self._traffic)
        return self._queue_up(key, decided, retry=retry, avoid=avoid)

    def _queue_up(
        self, key: str | None, decided: Decided, *, retry: bool, avoid: Replica | None
    ) -> Lease | Refusal | Ticket:
        now = self._loop.time()
        if outlook(self._view(), now) is Outlook.FAILED:
            return self._told(failure_refusal(self._explain(), now))
        waiter = Waiter(self, key, decided, now=now, timeout=self.settings.timeout, avoid=avoid)
        if avoid is not None and (place := pick(self._places, self._traffic.load, waiter.shuns)) is not None:
            return Grant(self, place.replica, self._traffic)
        self._have_it_started(now)
        if not retry:
            fits, last = self._waiting.make_room(key, self.settings.size)
            if last is not None:
                self._refuse([last], crowded_refusal(self.server))
            if not fits:
                return self._told(full_refusal(self.server, self.waiting))
        self._waiting.add(waiter, retry=retry)
        self._traffic.queued = self.waiting
        self._arm(waiter.next_event)
        return waiter

    def follow(self, config: ServerConfig, traffic: Traffic, settings: QueueConfig) -> None:
        """The configuration changed."""
        self.config = config
        self.settings = settings
        if traffic is not self._traffic:
            self._traffic.queued = 0
            self._traffic = traffic
            traffic.queued = self.waiting
            traffic.freed = self.pump

    def look(self) -> None:
        """The replicas changed: let go who can, refuse who need not wait any more, ask the fleet where it must."""
        self.moves += 1
        self._places = places(self.config, self._view())
        self.pump()
        if not self.waiting:
            return
        now = self._loop.time()
        if outlook(self._view(), now) is Outlook.FAILED:
            self._refuse(self._waiting.take_all(), failure_refusal(self._explain(), now))
        else:
            self._have_it_started(now)

    def _have_it_started(self, now: float) -> None:
        if not self._starting and outlook(self._view(), now) is Outlook.ABSENT:
            self._starting = True
            self._start(self)

    def started(self, error: LlamadError | None, *, moved: bool) -> bool:
        """The fleet has answered: it is up, or will not be. Returns whether it has to be asked again: `moved`, it came
        up and was gone before everybody could use it.
        """
        self._starting = False
        prospect = outlook(self._view(), self._loop.time())
        if error is None:
            self._starting = moved and bool(self.waiting) and prospect is Outlook.ABSENT
            return self._starting
        # an always-on server that stumbles on its way up tries again by itself; who asked for a start on demand
        # is told why it failed
        if self.config.start == "on-demand" or prospect in (Outlook.ABSENT, Outlook.FAILED):
            self._refuse(self._waiting.take_all(), down_refusal(self.server, error))
        return False

    def close(self, refusal: Refusal) -> None:
        """Refuse everybody; the line is not used any more, except by leases that come back."""
        self._places = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._refuse(self._waiting.take_all(), refusal)

    def pump(self) -> None:
        """Give free places to those who wait. A release inside `decided` does not nest: this loop sees it."""
        if self._pumping or not self._traffic.queued:
            return
        self._pumping = True
        try:
            while (chosen := self._waiting.take_next(self._places, self._traffic.load)) is not None:
                waiter, place = chosen
                waiter.waits = False
                self._traffic.queued = self.waiting
                waiter.decided(Grant(self, place.replica, self._traffic))
        finally:
            self._pumping = False

    def forget(self, waiter: Waiter) -> None:
        """`waiter` has left the line, if it still was in it."""
        self._waiting.discard(waiter)
        self._traffic.queued = self.waiting

    def _refuse(self, waiters: Iterable[Waiter], refusal: Refusal) -> None:
        """Tell those who are out of the line already."""
        self._traffic.queued = self.waiting
        for waiter in waiters:
            if waiter.waits:
                waiter.waits = False
                waiter.decided(self._told(refusal))

    def _told(self, refusal: Refusal) -> Refusal:
        self._rejected(self.server, refusal.kind)
        return refusal

    def _arm(self, when: float) -> None:
        """Have the timer fire at `when` or earlier; it is left alone where that is so already."""
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for one in self._waiting.advance(now):
            self._refuse([one], timeout_refusal(self._explain(), now - one.since, now))
        self.pump()
        if self.waiting:
            self._arm(self._waiting.next_event)
