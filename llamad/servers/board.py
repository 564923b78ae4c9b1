"""What is known of every replica: written by the supervisors, read by whoever shows it, and told to every observer."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from llamad.errors import with_hint
from llamad.host.address import Address
from llamad.servers.state import State, move

log = logging.getLogger(__name__)


class ReplicaKey(NamedTuple):
    """One supervised replica. `generation` grows with every replacement, so that the old and the new one of a
    start-first replace are told apart; it stays the same over restarts after a crash.
    """

    server: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a key for
    generation: int = 0

    def __str__(self) -> str:
        return f"{self.server}/{self.index}"

    @property
    def store_name(self) -> str:
        """Its name in systemd's fd store and in the control group hierarchy."""
        return f"{self.server}-{self.index}-{self.generation}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica ended or did not start: a short cause for machines (`out-of-gpu-memory`), a message and a hint
    for the operator. `permanent` causes are not retried; a `passing` one lies outside of the server and may be over at
    any time: it is retried soon. `public` is the message for clients, where `message` quotes what
    other clients may have written.
    """

    cause: str
    message: str
    hint: str | None = None
    permanent: bool = False
    passing: bool = False
    public: str | None = None

    @property
    def for_clients(self) -> str:
        """Message and hint as a client of the gateway may read them."""
        return with_hint(self.public or self.message, self.hint)

    def __str__(self) -> str:
        return with_hint(self.message, self.hint)


@dataclass(frozen=True, slots=True)
class Replica:
    """What is observed of one replica. Times are the loop's clock; `started_at` is when the process was spawned,
    `ready_since` when it last became ready, `restarts` counts starts after the first.
    """

    key: ReplicaKey
    state: State = State.STOPPED
    since: float = 0.0
    pid: int | None = None
    address: Address | None = None
    started_at: float | None = None
    ready_since: float | None = None
    restarts: int = 0
    last_exit: str | None = None
    """How the process before ended, and why where llamad killed it."""
    last_error: Failure | None = None
    """Why it is not ready, as far as that is known."""
    retry_at: float | None = None
    slots: int | None = None
    """Requests it can work on at once, from its `/props` or `/slots`."""
    busy_slots: int | None = None
    """Slots that worked at the last look."""
    asleep: bool = False
    """It has given its memory back until a request comes (`--sleep-idle-seconds`), and takes requests as ever."""
    tokens_per_s: float | None = None
    """None: not known yet."""
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    """Processor time its process has used."""
    load_progress: float | None = None
    """From 0 to 1 while loading, where it can be told."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one replica; `old` is None when it joins the board, `new` when it leaves."""

    old: Replica | None
    new: Replica | None

    @property
    def key(self) -> ReplicaKey:
        """Whose change it is."""
        one = self.new or self.old
        assert one is not None
        return one.key

    @property
    def moved(self) -> bool:
        """Whether the state changed (and not only a figure)."""
        return self.old is None or self.new is None or self.old.state is not self.new.state


class Board:
    """The current view. Observers are called at once, in the order of the changes, and must not block. One that raises
    misses that change: what it shows is not worth the server that changed.
    """

    def __init__(self) -> None:
        self._replicas: dict[ReplicaKey, Replica] = {}
        self._by_server: defaultdict[str, dict[ReplicaKey, Replica]] = defaultdict(dict)
        self._observers: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()

    @property
    def replicas(self) -> Mapping[ReplicaKey, Replica]:
        """Every replica, as last seen."""
        return self._replicas

    def of(self, server: str) -> list[Replica]:
        """The replicas of one server, by index, then generation."""
        there = self._by_server.get(server)
        return [] if there is None else [there[key] for key in sorted(there)]

    @contextmanager
    def observe(self, observer: Callable[[Change], None]) -> Iterator[None]:
        """Have `observer` called with every change inside the block."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds; it is asked now and after every change."""
        while not condition():
            changed = self._changed
            await changed.wait()

    def add(self, replica: Replica) -> None:
        """A replica joins."""
        assert replica.key not in self._replicas, replica.key
        self._tell(Change(None, replica))

    def update(self, key: ReplicaKey, **figures: Any) -> None:
        """Change figures of a replica, but not its state."""
        assert "state" not in figures
        old = self._replicas[key]
        new = replace(old, **figures)
        if new != old:
            self._tell(Change(old, new))

    def move(self, key: ReplicaKey, state: State, *, now: float, **figures: Any) -> None:
        """Move a replica to `state` by the table of moves (IllegalMoveError), changing figures in the same step."""
        old = self._replicas[key]
        self._tell(Change(old, replace(old, state=move(old.state, state), since=now, **figures)))

    def remove(self, key: ReplicaKey) -> None:
        """A replica leaves."""
        self._tell(Change(self._replicas[key], None))

    def _tell(self, change: Change) -> None:
        key, new = change.key, change.new
        if new is None:
            del self._replicas[key], self._by_server[key.server][key]
            if not self._by_server[key.server]:
                del self._by_server[key.server]
        else:
            self._replicas[key] = self._by_server[key.server][key] = new
        for observer in tuple(self._observers):
            try:
                observer(change)
            except Exception:
                log.exception("a bug in llamad", extra={"server": key.server, "event": "bug"})
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Have every `wait_for` ask its condition again: something beside the board changed that it may look at."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
