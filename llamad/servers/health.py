"""What a server's answers say, and how long a load may take (`liveness` judges a server that is ready). Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamad.config.model import HealthPolicy

FASTEST_POLL = 0.01
SLOWEST_POLL = 0.25
SOONEST_LOOK = 1.0
"""Seconds between two looks at `/slots`: llama.cpp asks once a second whether a client has left, and starts that second
anew at each answer of the server; looked at more often, it would finish every answer that nobody waits for.
"""
LONGEST_LOOK = 10.0
"""Seconds between two looks at a load that count: more means that llamad itself was held up."""
MIN_CORES = 0.02
"""Less than this share of a core is what answering probes costs."""
COMPUTING = 12
"""How many times `load_stall_timeout` a load may compute without any other sign."""
MAX_SLOTS = 1024
"""More than any llama-server has."""
_TOO_LARGE = 1 << 63
"""JSON has integers of any length; arithmetic with floats has not."""
_GROWTH_BYTES = 1 << 20
"""Less than this is noise and no progress."""


def poll_delay(loading_for: float) -> float:
    """Seconds until readiness is asked again: a twentieth of the time it took so far, within bounds."""
    return min(max(loading_for / 20, FASTEST_POLL), SLOWEST_POLL)


@dataclass(slots=True)
class LoadDeadline:
    """A load may take as long as it gets on: log lines, resident memory or bytes read grow, or it computes (shaders are
    compiled for many minutes without a line). A spin cannot be told from that: it is given COMPUTING times as long.
    Time counts only as far as llamad was there to look.
    """

    stall_timeout: float
    looked_at: float
    still: float = 0.0
    """Seconds without any sign; `silent`: without one but its processor time."""
    silent: float = 0.0
    lines: int = 0
    memory: int = 0
    reads: int = 0
    cpu: float | None = None

    def observe(self, now: float, *, lines: int, usage: tuple[int, int] | None, cpu: float | None = None) -> None:
        """Note how far the child is; `usage` is resident bytes and bytes read, `cpu` seconds of processor time."""
        passed, self.looked_at = min(now - self.looked_at, LONGEST_LOOK), now
        if usage is None and cpu is None:  # hidden, or llamad has no descriptor left to look with: that proves nothing
            passed = 0.0
        before, self.cpu = self.cpu, cpu
        computes = cpu is not None and before is not None and cpu - before >= MIN_CORES * passed > 0
        self.still = 0.0 if computes else self.still + passed
        self.silent += passed
        memory, reads = usage or (0, 0)
        if lines > self.lines or memory > self.memory + _GROWTH_BYTES or reads > self.reads + _GROWTH_BYTES:
            self.still = self.silent = 0.0
            self.lines, self.memory, self.reads = lines, max(memory, self.memory), max(reads, self.reads)

    @property
    def stalled(self) -> str | None:
        """Why it does not get on, once that has lasted for too long."""
        if self.still > self.stall_timeout:
            return "no log line, no memory, no reads, no processor time"
        if self.silent > COMPUTING * self.stall_timeout:
            return "it computes, but there is no log line, no memory, no reads"
        return None


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

    @property
    def task(self) -> int:
        """Which request it works on."""
        return self.progress[0]


def read_slots(document: Any) -> tuple[Slot, ...] | None:
    """`/slots` as values; None where the server does not give them (an error, `--no-slots`, no slots, nonsense)."""
    if not isinstance(document, list) or not 0 < len(document) <= MAX_SLOTS:
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


def next_look(policy: HealthPolicy, *, soon: bool) -> float:
    """Seconds until the next look: `soon` where the last one left a question open."""
    return min(policy.interval, SOONEST_LOOK) if soon else policy.interval
