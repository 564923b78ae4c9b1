"""Load that does not end: so many clients, each asking one thing after the other, and a tally of what became of it."""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from tests.bench.client import Address, Connection, End, Kind, Result

CLIENTS = 16
WORDS = 6
MIX = (Kind.JSON, Kind.STREAM, Kind.ECHO, Kind.STREAM, Kind.PAIR)
_MOST = 200_000
"""Requests of one load: a bound for a gateway that refuses at once."""
_PAUSE = 0.01
"""Seconds before a client asks again that was refused."""


class Tally:
    """What became of the requests of a load. Of what was not answered, the first thousand are kept."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ends: Counter[End] = Counter()
        self.others: deque[Result] = deque(maxlen=1000)
        self.pids: set[int] = set()
        self.slowest = 0.0

    def add(self, result: Result, seconds: float) -> None:
        """One more is over."""
        self.ends[result.end] += 1
        self.slowest = max(self.slowest, seconds)
        if result.pid:
            self.pids.add(result.pid)
        if result.end is not End.ANSWERED and len(self.others) < 1000:
            self.others.append(result)

    @property
    def answered(self) -> int:
        """Requests with the right answer."""
        return self.ends[End.ANSWERED]

    def __str__(self) -> str:
        counts = ", ".join(f"{many} {end.name.lower()}" for end, many in sorted(self.ends.items(), key=str))
        rate = self.ends.total() / (time.monotonic() - self.began)
        return f"{counts or 'nothing asked'}; {rate:.0f}/s, slowest {self.slowest:.2f} s, {len(self.pids)} pids"


@asynccontextmanager
async def load(
    address: Address, model: str, *, clients: int = CLIENTS, words: int = WORDS, mix: Iterable[Kind] = MIX
) -> AsyncIterator[Tally]:
    """Load `model` for the time of the block; at its end every client gets the answer it waits for."""
    tally, stop, kinds = Tally(), asyncio.Event(), tuple(mix)

    async def client(name: int) -> None:
        async with Connection(address) as connection:
            for i in itertools.count():
                if stop.is_set() or tally.ends.total() >= _MOST:
                    return
                began = time.monotonic()
                result = await connection.ask(kinds[(name + i) % len(kinds)], model, f"{name}-{i}", words=words)
                tally.add(result, time.monotonic() - began)
                if result.end is not End.ANSWERED:
                    await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as group:
        for name in range(clients):
            group.create_task(client(name))
        try:
            yield tally
        finally:
            stop.set()


async def at_once(
    address: Address, model: str, many: int, *, kind: Kind = Kind.JSON, words: int = WORDS, key: str | None = None
) -> list[Result]:
    """Ask `many` times, each on a connection of its own, all at once; what became of each."""

    async def one(i: int) -> Result:
        async with Connection(address) as connection:
            return await connection.ask(kind, model, f"once-{i}", words=words, key=key)

    return list(await asyncio.gather(*(one(i) for i in range(many))))
