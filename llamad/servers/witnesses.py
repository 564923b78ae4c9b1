"""One look at one server: asks every witness of what it does (`liveness` judges), without changing what it watches.

`/slots` wakes a server that sleeps (`--sleep-idle-seconds`) and keeps one awake that is about to; `/props` and
`/health` do not. So one that may sleep is asked for its slots only while something works in it.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from llamad.host.address import Address
from llamad.host.gpu_use import GpuUse
from llamad.host.threads import aside
from llamad.servers.around import Child
from llamad.servers.board import ReplicaKey
from llamad.servers.causes import quoted
from llamad.servers.health import MIN_CORES, SOONEST_LOOK, next_look, read_slots
from llamad.servers.liveness import Liveness, Look
from llamad.servers.probe import CannotProbeError, Poster, ProbeAnswer, ProbeError
from llamad.servers.traffic import Traffic

_ONE_TOKEN = (
    ("/completion", {"prompt": "a", "n_predict": 1, "cache_prompt": False}),
    ("/v1/embeddings", {"input": "a"}),
)
"""Of a server for embeddings the first is refused (501)."""
SHORTEST_REST, LONGEST_REST = 10.0, 3600.0
"""Seconds that a server that may sleep, and whose processor time is not known, is left alone while nothing works in it:
longer and longer, so that one that wants to sleep can.
"""


class Trial(Enum):
    """What became of a request of llamad's own."""

    ANSWERED = "answered"
    ERROR = "error"
    SILENT = "silent"
    UNCLEAR = "unclear"
    """It was refused: this server is for something else."""


class Witnesses:
    """Of one server. `may_sleep` None: find out whether it is of a build that can. `gpu_use` may block; `key` gives the
    API key that the server asks for (LlamadError).
    """

    def __init__(
        self,
        replica: ReplicaKey,
        address: Address,
        prober: Poster,
        traffic: Traffic,
        *,
        child: Child | None = None,
        may_sleep: bool | None = None,
        gpu_use: Callable[[], GpuUse] | None = None,
        key: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._replica = replica
        self._address = address
        self._prober = prober
        self._traffic = traffic
        self._child = child
        self._may_sleep = may_sleep
        self._gpu_use = gpu_use
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._cpu: tuple[float, float | None] = (self._loop.time(), None)
        self._rest = 0.0
        """For how many seconds, `_until` when, a server that may sleep is not asked for its slots."""
        self._until = 0.0
        self._mark = 0
        self.asleep = False
        self.status = 200
        """Of the answer to the question for its slots."""
        self.memory: int | None = None
        self.cpu: float | None = None

    async def ask(self, path: str, timeout: float, body: bytes | None = None) -> ProbeAnswer:
        """One question; ProbeError, LlamadError."""
        return await self._prober(self._address, path, timeout=timeout, key=self._key(), body=body)

    async def look(self, timeout: float) -> Look:
        """What the witnesses say, the slow ones only while work is expected. CannotProbeError, LlamadError."""
        traffic, replica = self._traffic, self._replica
        used = self._used()
        self._mark = traffic.mark(replica)
        seen = await self._ask_slots(timeout, used=used)
        waiting = traffic.waiting(replica)
        expected = seen.silent or waiting > 0 or any(slot.processing for slot in seen.slots or ())
        gpu = await aside(self._gpu_use) if expected and self._gpu_use is not None else None
        usage = None if self._child is None else self._child.memory_and_reads()
        self.memory = None if usage is None else usage[0]
        return replace(
            seen,
            cpu=self.cpu,
            gpu=gpu,
            reads=None if usage is None else usage[1],
            relayed=traffic.received(replica),
            in_flight=traffic.in_flight(replica),
            waiting=waiting,
            errors=traffic.errors(replica),
        )

    def count(self, busy: int | None, *, active: bool) -> None:
        """Write down what the last look found working."""
        self._traffic.note(self._replica, busy or 0, active=active, mark=self._mark)

    async def attempt(self, timeout: float) -> tuple[Trial, str]:
        """Have the server work on one token for llamad itself: what became of it, and in its words."""
        for path, body in _ONE_TOKEN:
            try:
                answer = await self.ask(path, timeout, json.dumps(body).encode())
            except CannotProbeError as error:
                return Trial.UNCLEAR, str(error)
            except ProbeError as error:
                return Trial.SILENT, str(error)
            if answer.status == 500:
                return Trial.ERROR, _message(answer)
            if answer.status < 300:
                return Trial.ANSWERED, ""
        return Trial.UNCLEAR, ""

    def _used(self) -> bool:
        """Whether something may work in it: only then a server that may sleep is asked for its slots."""
        now, (at, before) = self._loop.time(), self._cpu
        self.cpu = None if self._child is None else self._child.cpu_seconds()
        self._cpu = now, self.cpu
        if self._traffic.load(self._replica):
            self._rest = self._until = 0.0
            return True
        if self.cpu is not None and before is not None:
            return self.cpu - before >= MIN_CORES * (now - at)
        return now >= self._until

    async def _ask_slots(self, timeout: float, *, used: bool) -> Look:
        try:
            if self._may_sleep is not False:
                props = (await self.ask("/props", timeout)).json()
                sleeping = props.get("is_sleeping") if isinstance(props, dict) else None
                self.asleep = sleeping is True
                if self._may_sleep is None:
                    self._may_sleep = sleeping is not None
                if self.asleep or (self._may_sleep and not used):
                    self._rest = LONGEST_REST if self.asleep else self._rest
                    return Look(idle=True)
            answer = await self.ask("/slots", timeout)
        except CannotProbeError:
            raise
        except ProbeError:
            return Look(silent=True, reachable=await self._reachable(timeout))
        self.status = answer.status
        slots = read_slots(answer.json()) if answer.status == 200 else None
        if self._may_sleep:
            self._rest = min(max(2 * self._rest, SHORTEST_REST), LONGEST_REST)
            self._until = self._loop.time() + self._rest
        return Look(slots=slots)

    async def _reachable(self, timeout: float) -> bool:
        try:
            return (await self.ask("/health", timeout)).status == 200
        except CannotProbeError:
            raise
        except ProbeError:
            return False


class Pace:
    """When the next look is due: sooner where the last one left a question open, or work has begun since. `on_sooner`
    is called when `left` has become less.
    """

    def __init__(
        self, replica: ReplicaKey, traffic: Traffic, interval: Callable[[], float], on_sooner: Callable[[], None]
    ) -> None:
        self._replica = replica
        self._traffic = traffic
        self._interval = interval
        self._on_sooner = on_sooner
        self._loop = asyncio.get_running_loop()
        self._from = 0.0
        self.due = 0.0

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.due - self._loop.time()

    def begin(self, liveness: Liveness) -> None:
        """A look is over."""
        soon = liveness.silent > 0 or liveness.wants_speed or self._traffic.others(self._replica) > 0
        self.due = self._loop.time() + next_look(liveness.policy, soon=soon)

    def sooner(self) -> None:
        """Work has begun, or goes on without its client. One that comes and goes all the time changes nothing."""
        now = self._loop.time()
        if now >= self._from or self._traffic.left_behind(self._replica):
            self._from = now + self._interval()
            self.due = min(self.due, now + SOONEST_LOOK)
            self._on_sooner()


def _message(answer: ProbeAnswer) -> str:
    """An error in the server's words."""
    document = answer.json()
    error = document.get("error") if isinstance(document, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    return quoted(text) if isinstance(text, str) else f"status {answer.status}"
