"""Whether a ready server gets on: decided over every witness there is. Pure.

`/health` says 200 even when decoding is stuck, and the counters of `/slots` move once per batch, which on a slow
machine takes half an hour. So a server is hung only when nothing that could speak for it does:

- its slots: a busy one whose counters move gets on;
- its processor time and what it reads: a process that computes or reads works, whatever it has to show for it;
- its GPUs, where a driver tells;
- the bytes that the gateway passes on, less the pings of idle streams;
- the pace so far: one that took 40 s a batch may take a multiple of that.

Three limits follow. What is seen to be idle is given `hang_timeout`. What may work out of sight (a GPU whose use nobody
tells, another machine by RPC) is given UNSEEN times that: waiting for a GPU costs no processor time in one driver and a
whole core in another, so a single spinning thread says nothing there. What works without any result is given COMPUTING
times that, because a spin cannot be told from a very long batch. Log lines do not count: a hung server still writes
down who asks it. Time counts only as far as llamad was there to look: a stopped or suspended llamad has seen nothing.
"""

from dataclasses import dataclass, field
from enum import Enum

from llamad.config.model import HealthPolicy
from llamad.config.units import format_duration
from llamad.host.gpu_use import GpuUse
from llamad.servers.health import MIN_CORES, Slot

UNSEEN = 30
COMPUTING = 120
PACE = 3
"""How many times its slowest batch so far a batch may take."""
SPIN_CORES = 1.25
"""More than one thread that waits for a GPU takes."""
PING_BYTES = 100
"""In one look's time, per request: a stream that only pings brings less."""
READ_BYTES = 1 << 20
ERRORS = 3
"""Answers of status 500 in a row that have llamad try the server itself: any client can provoke some."""


class Verdict(Enum):
    """What the looks so far say."""

    WELL = "well"
    UNSURE = "unsure"
    """One missed look proves nothing: it stays what it is."""
    SUSPECT = "suspect"
    """Gets no new requests until it is well again."""
    HUNG = "hung"
    """Has to be replaced."""


class Doubt(Enum):
    """What only a request of llamad's own can tell: what clients do decides nothing."""

    LOST = "lost"
    """A relayed request gets no byte, and no slot works on it."""
    ERRORS = "errors"
    """Every answer is an error of status 500."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look showed; None where that witness does not speak.

    `cpu` is seconds of processor time and `reads` bytes so far, `relayed` the bytes of answers that were passed on so
    far, `in_flight` the requests that the gateway waits for, `waiting` for how many seconds the oldest of them has had
    no byte, `errors` how many were answered with status 500.
    """

    slots: tuple[Slot, ...] | None = None
    silent: bool = False
    idle: bool = False
    """Nothing works in it, though its slots were not asked for (that would wake it)."""
    reachable: bool = True
    """It answers something, if perhaps not for its slots."""
    cpu: float | None = None
    gpu: GpuUse | None = None
    reads: int | None = None
    relayed: int = 0
    in_flight: int = 0
    waiting: float = 0.0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """For how many seconds which things stand still. 0: they move, or there is nothing that could."""

    silent: float = 0.0
    """No answer."""
    looks: int = 0
    """Silent looks in a row."""
    reachable: bool = True
    stuck: float = 0.0
    """A busy slot whose counters stand still."""
    lost: float = 0.0
    """A request without a byte of its answer, while no slot works."""
    errors: int = 0
    quiet: float = 0.0
    """Every look showed that it does not work."""
    unseen: float = 0.0
    """No look showed that it works."""
    slowest: float = 0.0
    """The longest that a slot stood still and then went on."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, what it rests on (for a person), and what a request of llamad's own should find out."""

    verdict: Verdict
    reason: str = ""
    doubt: Doubt | None = None


def judge(policy: HealthPolicy, seen: Evidence) -> Judgement:
    """Decide by the table in this module's docstring."""
    hang = policy.hang_timeout
    stalled = max(seen.stuck, seen.silent if seen.looks > 1 else 0.0)
    limit = hang if seen.looks else min(max(hang, PACE * seen.slowest), UNSEEN * hang)
    reason = _reason(seen, stalled)
    if min(stalled, seen.quiet) >= limit or min(stalled, seen.unseen) >= UNSEEN * hang or stalled >= COMPUTING * hang:
        return Judgement(Verdict.HUNG, reason)
    if seen.looks:
        works = seen.reachable and stalled and not seen.unseen
        suspect = seen.looks >= policy.failures and not works
        return Judgement(Verdict.SUSPECT if suspect else Verdict.UNSURE, reason)
    if min(stalled, seen.quiet) >= limit / 2 or min(stalled, seen.unseen) >= limit:
        return Judgement(Verdict.SUSPECT, reason)
    if seen.errors >= ERRORS:
        return Judgement(Verdict.WELL, "every answer is an error of status 500", Doubt.ERRORS)
    if min(seen.lost, seen.unseen) >= hang / 2:
        why = f"a request got no byte for {format_duration(round(seen.lost))}, and no slot works on it"
        return Judgement(Verdict.WELL, why, Doubt.LOST)
    return Judgement(Verdict.WELL)


def _reason(seen: Evidence, stalled: float) -> str:
    after = format_duration(round(max(stalled, seen.silent)))
    if seen.looks:
        also = ", though it answers /health" if seen.reachable else ""
        what = f"did not answer for {after}{also}"
    else:
        what = f"a slot made no progress for {after}"
    if seen.quiet:
        return f"{what}; it used no processor time and read, computed and sent nothing"
    return f"{what}; nobody can see whether it works" if seen.unseen else f"{what}, though it computes"


@dataclass(slots=True)
class Liveness:
    """Judges a ready server look by look, and keeps what that needs. Times are the loop's clock."""

    policy: HealthPolicy
    began: float
    remote: bool = False
    """Whether it works on another machine."""
    tokens_per_s: float | None = None
    busy: int | None = None
    active: bool = False
    """Whether something was worked on since the look before."""
    silent: int = 0
    evidence: Evidence = Evidence()
    _clock: float = 0.0
    """Seconds that llamad was there to look."""
    _looked_at: float = 0.0
    _before: Look | None = None
    _answered_at: float = 0.0
    _worked_at: float = 0.0
    """When it was last seen to work, ..."""
    _doubted_at: float = 0.0
    """... or nobody could see it, ..."""
    _slot_at: float = 0.0
    """... or a slot of it worked."""
    _slowest: float = 0.0
    _working: dict[int, tuple[Slot, float]] = field(default_factory=dict)
    """The slots that work, and since when their counters stand still."""
    _shown: tuple[Slot, ...] = ()
    _shown_at: float = 0.0

    def __post_init__(self) -> None:
        self._looked_at = self._shown_at = self.began

    def look(self, now: float, seen: Look) -> Judgement:
        """Take in what a look at `now` showed, and judge."""
        passed = self._pass(now)
        self.silent = self.silent + 1 if seen.silent else 0
        if not seen.silent:
            self._answered_at = self._clock
            self._take_slots(now, seen)
        works = self._works(seen, passed)
        self._before = seen
        if works:
            self._worked_at = self._clock
        if works is not False:
            self._doubted_at = self._clock
        if self._working or not (seen.idle or seen.slots is not None or works is False):
            self._slot_at = self._clock
        self.evidence = self._weigh(seen)
        return judge(self.policy, self.evidence)

    def unable(self, now: float) -> None:
        """llamad could not look, or was too late to tell: that says nothing of the server, and no time counts."""
        self._looked_at = now

    @property
    def wants_speed(self) -> bool:
        """Whether something is generated, and how fast is not known yet."""
        return bool(self.busy) and self.tokens_per_s is None

    def _pass(self, now: float) -> float:
        """Move the clock: by no more than may pass between two looks of a llamad that runs."""
        passed = now - self._looked_at
        self._looked_at = now
        self._clock += min(passed, self.policy.interval + 3 * self.policy.timeout + 1)
        return passed

    def _works(self, seen: Look, passed: float) -> bool | None:
        """Whether it worked since the look before; None: nobody can see that."""
        before = self._before or Look()
        least = PING_BYTES * max(seen.in_flight, 1)
        if _grew(before.reads, seen.reads, READ_BYTES) or _grew(before.relayed, seen.relayed, least):
            return True
        cores = _rate(before.cpu, seen.cpu, passed)
        gpu = seen.gpu or GpuUse()
        on_gpu = _rate(before.gpu.seconds if before.gpu else None, gpu.seconds, passed)
        if gpu.percent or (on_gpu or 0.0) >= MIN_CORES or (cores or 0.0) >= SPIN_CORES:
            return True
        if gpu.held is False and not self.remote:
            return None if cores is None else cores >= MIN_CORES
        idle_gpu = gpu.percent == 0 or on_gpu is not None
        return False if idle_gpu and not self.remote and cores is not None and cores < MIN_CORES else None

    def _weigh(self, seen: Look) -> Evidence:
        clock = self._clock
        return Evidence(
            silent=clock - self._answered_at,
            looks=self.silent,
            reachable=seen.reachable,
            stuck=max((clock - since for _, since in self._working.values()), default=0.0),
            lost=min(seen.waiting, clock - self._slot_at),
            errors=seen.errors,
            quiet=clock - self._doubted_at,
            unseen=clock - self._worked_at,
            slowest=self._slowest,
        )

    def _take_slots(self, now: float, seen: Look) -> None:
        slots = seen.slots or ()
        working = {slot.id: slot for slot in slots if slot.processing}
        before, known = {slot.id: slot for slot in self._shown}, self._working
        self.active = any(slot.processing or before.get(slot.id, slot).progress != slot.progress for slot in slots)
        self._working = {id: self._still(slot, known.get(id)) for id, slot in working.items()}
        self.busy = None if seen.slots is None and not seen.idle else len(working)
        passed, self._shown_at, self._shown = now - self._shown_at, now, slots
        if not working:
            self.tokens_per_s = None if self.busy is None else 0.0
        elif passed > 0:
            told = [slot.decoded - old.decoded for id, slot in working.items() if (old := before.get(id)) is not None
                    and old.task == slot.task]  # fmt: skip
            self.tokens_per_s = max(sum(told), 0) / passed if told else None

    def _still(self, slot: Slot, before: tuple[Slot, float] | None) -> tuple[Slot, float]:
        """The slot, and since when its counters stand still."""
        if before is None:
            return slot, self._clock
        old, since = before
        if old.progress == slot.progress:
            return slot, since
        if old.task == slot.task:
            self._slowest = max(self._slowest, self._clock - since)
        return slot, self._clock


def _rate(before: float | None, now: float | None, passed: float) -> float | None:
    return None if before is None or now is None or passed <= 0 else (now - before) / passed


def _grew(before: int | None, now: int | None, by: int) -> bool:
    return before is not None and now is not None and now - before >= by
