"""What goes through one server at this moment. The gateway writes it; supervisors (drain) and the fleet (idle) read."""

import asyncio
from collections.abc import Callable

from llamad.servers.board import ReplicaKey


class Traffic:
    """Requests in flight by replica, requests that wait, and when the last one came or ended (the loop's clock)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_flight: dict[ReplicaKey, int] = {}
        self._ended: asyncio.Event | None = None
        """There while somebody waits for the end of something: most requests end unwatched."""
        self.last_used = clock()
        self.queued = 0

    def in_flight(self, key: ReplicaKey) -> int:
        """Requests that `key` works on."""
        return self._in_flight.get(key, 0)

    @property
    def total(self) -> int:
        """Requests that any replica works on."""
        return sum(self._in_flight.values())

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.queued and not self.total

    def begin(self, key: ReplicaKey) -> None:
        """A request is given to `key`."""
        self._in_flight[key] = self._in_flight.get(key, 0) + 1
        self.last_used = self._clock()

    def end(self, key: ReplicaKey) -> None:
        """A request given to `key` is over, however it ended."""
        left = self._in_flight[key] - 1
        self.last_used = self._clock()
        if left:
            self._in_flight[key] = left
            return
        del self._in_flight[key]
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    async def drained(self, key: ReplicaKey) -> None:
        """Return once `key` works on nothing."""
        while key in self._in_flight:
            if self._ended is None:
                self._ended = asyncio.Event()
            await self._ended.wait()
