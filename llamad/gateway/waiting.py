"""Those who wait in one server's line, and in which order they go. No I/O, no clock of its own."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from llamad.gateway.fairqueue import FairQueue
from llamad.gateway.prospects import Place, pick
from llamad.gateway.types import Lease, Refusal
from llamad.servers.board import Replica, ReplicaKey

AVOID_FOR = 0.5
"""Seconds in which a retry does not go to the replica it died on, however ready that looks. An exit is on the board
within milliseconds; after this it was no exit, and the replica is as good as any."""
Decided = Callable[[Lease | Refusal], None]


class Forgets(Protocol):
    """Where a waiter waits."""

    def forget(self, waiter: "Waiter") -> None:
        """It has left."""
        ...


class Waiter:
    """A Ticket: one request that waits in a line."""

    __slots__ = ("avoid", "avoid_until", "deadline", "decided", "key", "line", "since", "waits")

    def __init__(
        self, line: Forgets, key: str | None, decided: Decided, *, now: float, timeout: float, avoid: Replica | None
    ) -> None:
        self.line = line
        self.key = key
        self.decided = decided
        self.since = now
        self.deadline = now + timeout
        self.avoid = avoid
        self.avoid_until = now + AVOID_FOR if avoid is not None else 0.0
        self.waits = True

    def shuns(self, replica: Replica) -> bool:
        """Whether `replica` is the very process that this request died on."""
        bad = self.avoid
        return bad is not None and replica.key == bad.key and replica.ready_since == bad.ready_since

    @property
    def next_event(self) -> float:
        """When something is to be done for it, if nothing happens before."""
        return min(self.deadline, self.avoid_until or self.deadline)

    def cancel(self) -> None:
        """Whoever waits has left; nothing is called any more."""
        if self.waits:
            self.waits = False
            self.line.forget(self)


class Waiting:
    """The waiters of a line: first retries that avoid a replica for an instant, other retries, then keys in turn."""

    def __init__(self) -> None:
        self._shy: deque[Waiter] = deque()
        self._queue: FairQueue[Waiter] = FairQueue()

    def __len__(self) -> int:
        return len(self._queue) + len(self._shy)

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._shy
        yield from self._queue

    def add(self, waiter: Waiter, *, retry: bool) -> None:
        """It waits from now on."""
        if waiter.avoid is not None:
            self._shy.append(waiter)
        elif retry:
            self._queue.push_front(waiter.key, waiter)
        else:
            self._queue.push(waiter.key, waiter)

    def discard(self, waiter: Waiter) -> None:
        """It does not wait any more, if it did."""
        if waiter in self._shy:
            self._shy.remove(waiter)
        else:
            self._queue.discard(waiter.key, waiter)

    def make_room(self, key: str | None, size: int) -> tuple[bool, Waiter | None]:
        """Whether one more of `key` may wait in a queue of `size`, and who leaves for it (FairQueue.make_room)."""
        if len(self._queue) < size:
            return True, None
        last = self._queue.make_room(key)
        return last is not None, last

    def take_next(self, there: Sequence[Place], load_of: Callable[[ReplicaKey], int]) -> tuple[Waiter, Place] | None:
        """Take out whoever goes next, with its place; None when nobody can go."""
        for waiter in self._shy:
            place = pick(there, load_of, waiter.shuns)
            if place is not None:
                self._shy.remove(waiter)
                return waiter, place
        if not self._queue or (place := pick(there, load_of)) is None:
            return None
        return self._queue.pop(), place

    def take_all(self) -> list[Waiter]:
        """Take out everybody, in the order they would go."""
        out = list(self)
        self._shy.clear()
        self._queue = FairQueue()
        return out

    def advance(self, now: float) -> list[Waiter]:
        """Take out those whose time is up; retries that avoided a replica for long enough take any from now on."""
        while self._shy and self._shy[0].avoid_until <= now:
            waiter = self._shy.popleft()
            waiter.avoid_until = 0.0
            self._queue.push_front(waiter.key, waiter)
        late = [one for one in self if one.deadline <= now]
        for one in late:
            self.discard(one)
        return late

    @property
    def next_event(self) -> float:
        """When `advance` has something to do; infinity when nobody waits."""
        return min((one.next_event for one in self), default=float("inf"))
