"""What goes through one server at this moment. The gateway writes it; supervisors (drain) and the fleet (idle) read."""

import asyncio
from collections import Counter
from collections.abc import Callable

from llamad.servers.board import ReplicaKey


class Traffic:
    """Requests in flight by replica, requests that wait, and when the last one came or ended (the loop's clock)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_flight: Counter[ReplicaKey] = Counter()
        self._ended = asyncio.Event()
        self.last_used = clock()
        self.queued = 0

    def in_flight(self, key: ReplicaKey) -> int:
        """Requests that `key` works on."""
        return self._in_flight[key]

    @property
    def total(self) -> int:
        """Requests that any replica works on."""
        return self._in_flight.total()

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.queued and not self.total

    def begin(self, key: ReplicaKey) -> None:
        """A request is given to `key`."""
        self._in_flight[key] += 1
        self.last_used = self._clock()

    def end(self, key: ReplicaKey) -> None:
        """A request given to `key` is over, however it ended."""
        self._in_flight[key] -= 1
        self.last_used = self._clock()
        if not self._in_flight[key]:
            del self._in_flight[key]
            ended, self._ended = self._ended, asyncio.Event()
            ended.set()

    async def drained(self, key: ReplicaKey) -> None:
        """Return once `key` works on nothing."""
        while self._in_flight[key]:
            await self._ended.wait()
