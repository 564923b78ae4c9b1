"""The fake's slots: so many requests are worked on at once, the others wait in the order they came."""

from __future__ import annotations

import _thread
import os
import time

from tests.fakes import options
from tests.fakes.mood import srv
from tests.fakes.wire import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_SLOTS = 4
_DEFAULT_CONTEXT = 4096
_lock = _thread.allocate_lock()
_turns: list[object] = []
slots: list[Slot] = []


class Counts:
    """What was done so far."""

    requests = 0
    tasks = 0
    used = time.monotonic()
    """When something last kept it awake."""
    asleep = False


class Slot:
    """One of `--parallel` places."""

    def __init__(self, index: int) -> None:
        self.id, self.busy, self.prompt, self.decoded, self.limit = index, False, 0, 0, 0
        self.processed = 0
        self.task: int | None = None

    def shown(self) -> Mapping[str, object]:
        """As `/slots` shows it."""
        out = {"id": self.id, "n_ctx": context(), "speculative": False, "is_processing": self.busy}
        if self.task is None:
            return out
        token = {"n_remain": self.limit - self.decoded, "n_decoded": self.decoded}
        return {
            **out,
            "id_task": self.task,
            "n_prompt_tokens": self.prompt + self.decoded,
            "n_prompt_tokens_processed": self.processed,
            "n_prompt_tokens_cache": 0,
            "params": {"n_predict": self.limit, "stream": False},
            "next_token": [{"has_next_token": self.busy, "has_new_line": False, **token}],
        }

    def usage(self) -> Mapping[str, object]:
        """As an answer counts it."""
        return {
            "completion_tokens": self.decoded,
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.decoded,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def timings(self) -> Mapping[str, object]:
        """As an answer times it."""
        return {
            "cache_n": 0,
            "prompt_n": self.prompt,
            "prompt_ms": 1.0,
            "prompt_per_token_ms": 1.0,
            "prompt_per_second": 1000.0,
            "predicted_n": self.decoded,
            "predicted_ms": 1.0 * self.decoded,
            "predicted_per_token_ms": 1.0,
            "predicted_per_second": 1000.0,
        }


def prepare() -> None:
    """Make as many slots as asked."""
    many = int(options.values.get("--parallel", "-1"))
    slots.extend(Slot(i) for i in range(many if many > 0 else _DEFAULT_SLOTS))


def context() -> int:
    """Tokens of one slot."""
    return int(options.values.get("--ctx-size", "0")) // len(slots) or _DEFAULT_CONTEXT


def model_name() -> str:
    """What it calls its model."""
    return options.values.get("--alias") or os.path.basename(options.values.get("--model", "")) or "fake"


def waiting() -> int:
    """Requests without a slot."""
    return len(_turns)


def take(request: Request, prompt: int, limit: int) -> Slot:
    """A slot for a request, once it is its turn."""
    me = object()
    with _lock:
        _turns.append(me)
    try:
        while True:
            with _lock:
                free = next((one for one in slots if not one.busy), None)
                if free is not None and _turns[0] is me:
                    Counts.tasks += 1
                    free.busy, free.task, free.decoded = True, Counts.tasks, 0
                    free.prompt, free.processed, free.limit = prompt, prompt, limit
                    return free
            request.connection.rest(0.002)
    finally:
        with _lock:
            _turns.remove(me)


def is_asleep() -> bool:
    """Whether it sleeps, as it was told to when idle."""
    seconds = float(options.values.get("--sleep-idle-seconds", "-1"))
    if any(slot.busy for slot in slots):
        Counts.used = time.monotonic()
    Counts.asleep = Counts.asleep or 0 < seconds <= time.monotonic() - Counts.used
    return Counts.asleep


def wake() -> None:
    """Something came that wakes it, or keeps it awake."""
    if is_asleep():
        srv("I", "wake", "server is waking up")
        time.sleep(0.05)
    Counts.asleep, Counts.used = False, time.monotonic()


def count_request() -> int:
    """One more was answered; returns how many."""
    with _lock:
        Counts.requests += 1
        return Counts.requests
