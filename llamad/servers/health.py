"""What a server's answers mean: readiness while it loads, liveness by progress afterwards. Pure.

`/health` says 200 even when decoding is stuck, so liveness looks at `/slots`: a slot that works must get on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from llamad.config.model import HealthPolicy

FASTEST_POLL = 0.01
SLOWEST_POLL = 0.25
_TOO_LARGE = 1 << 63
"""JSON has integers of any length; arithmetic with floats has not."""
_GROWTH_BYTES = 1 << 20
"""Less than this is noise and no progress."""


def poll_delay(loading_for: float) -> float:
    """Seconds until readiness is asked again: a twentieth of the time it took so far, within bounds."""
    return min(max(loading_for / 20, FASTEST_POLL), SLOWEST_POLL)


@dataclass(slots=True)
class LoadDeadline:
    """A load may take as long as it gets on: log lines, resident memory or bytes read still grow."""

    stall_timeout: float
    moved_at: float
    lines: int = 0
    memory: int = 0
    reads: int = 0

    def observe(self, now: float, *, lines: int, usage: tuple[int, int] | None) -> None:
        """Note how far the child is; `usage` is resident bytes and bytes read."""
        memory, reads = usage or (0, 0)
        if lines > self.lines or memory > self.memory + _GROWTH_BYTES or reads > self.reads + _GROWTH_BYTES:
            self.moved_at = now
            self.lines, self.memory, self.reads = lines, max(memory, self.memory), max(reads, self.reads)

    def stalled(self, now: float) -> bool:
        """Whether nothing moved for `stall_timeout`."""
        return now - self.moved_at > self.stall_timeout


def load_progress(usage: tuple[int, int] | None, model_size: int | None) -> float | None:
    """From 0 to 0.99: how much of the model's bytes were read or mapped."""
    if usage is None or not model_size:
        return None
    return min(max(usage) / model_size, 0.99)


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as `/slots` shows it; `progress` stands still exactly when the slot does."""

    id: int
    processing: bool
    progress: tuple[int, ...]
    decoded: int


def read_slots(document: Any) -> tuple[Slot, ...] | None:
    """`/slots` as values; None where the server does not give them (an error object, `--no-slots`)."""
    if not isinstance(document, Sequence) or isinstance(document, str):
        return None
    slots = []
    for position, entry in enumerate(document):
        if not isinstance(entry, Mapping):
            return None
        decoded = _decoded(entry)
        figures = (_number(entry.get("id_task")), _number(entry.get("n_prompt_tokens_processed")), decoded)
        slots.append(Slot(_number(entry.get("id"), position), entry.get("is_processing") is True, figures, decoded))
    return tuple(slots)


def _decoded(entry: Mapping[str, Any]) -> int:
    """`next_token` is an object in some builds and a list of one in others."""
    token = entry.get("next_token")
    if isinstance(token, Sequence) and not isinstance(token, str) and token:
        token = token[0]
    return _number(token.get("n_decoded")) if isinstance(token, Mapping) else 0


def _number(value: Any, default: int = 0) -> int:
    usable = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
    return value if usable else default


class Verdict(Enum):
    """What one look at a server says."""

    WELL = "well"
    UNSURE = "unsure"
    """One missed look proves nothing: it stays what it is."""
    SUSPECT = "suspect"
    """Gets no new requests until it is well again."""
    HUNG = "hung"
    """Has to be replaced."""


@dataclass(slots=True)
class Liveness:
    """Judges a ready server look by look."""

    policy: HealthPolicy
    well_at: float
    silent: int = 0
    tokens_per_s: float | None = None
    busy: int | None = None
    _seen: dict[int, tuple[tuple[int, ...], float]] = field(default_factory=dict)
    _decoded: tuple[int, float] | None = None

    def silence(self, now: float) -> Verdict:
        """It did not answer."""
        self.silent += 1
        if self.silent > 1 and now - self.well_at >= self.policy.hang_timeout:
            return Verdict.HUNG
        return Verdict.SUSPECT if self.silent >= self.policy.failures else Verdict.UNSURE

    def answer(self, now: float, slots: tuple[Slot, ...] | None) -> Verdict:
        """It answered; None when it shows no slots, and then an answer is all there is."""
        self.silent = 0
        self.well_at = now
        if slots is None:
            return Verdict.WELL
        self._measure(now, slots)
        stuck_for = max((self._still_for(now, slot) for slot in slots), default=0.0)
        if stuck_for >= self.policy.hang_timeout:
            return Verdict.HUNG
        return Verdict.SUSPECT if stuck_for >= self.policy.hang_timeout / 2 else Verdict.WELL

    def _still_for(self, now: float, slot: Slot) -> float:
        if not slot.processing:
            self._seen.pop(slot.id, None)
            return 0.0
        progress, since = self._seen.get(slot.id, (None, now))
        if progress != slot.progress:
            since = now
            self._seen[slot.id] = (slot.progress, now)
        return now - since

    def _measure(self, now: float, slots: tuple[Slot, ...]) -> None:
        """Tokens a second between two looks; a slot that began anew counts from zero."""
        working = [slot for slot in slots if slot.processing]
        self.busy = len(working)
        total = sum(slot.decoded for slot in working)
        before, self._decoded = self._decoded, (total, now)
        if before is not None and now > before[1]:
            self.tokens_per_s = max(total - before[0], 0) / (now - before[1])


def next_look(policy: HealthPolicy, silent: int) -> float:
    """Seconds until the next look: soon after a silent one, to know whether it was a hiccup."""
    return policy.interval if not silent else min(policy.interval, 1.0)
