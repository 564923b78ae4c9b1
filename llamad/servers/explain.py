"""Why a server is as it is: what is wanted of it, what is, why not, since and until when, and what to do. Pure.

Whatever tells it prints a Condition: STATUS=, `llamad status`, the answer to an order, `/ready`, a refused request, the
log. Nothing else derives it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llamad.config.units import format_wait
from llamad.servers.board import Failure, Replica
from llamad.servers.state import NEAREST_FIRST, State, together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamad.config.model import ServerConfig
    from llamad.servers.residency import Verdict

_ON_DEMAND = "on-demand"
_ROOM_HINT = "see memory:, group: and gateway.memory_budget:"


@dataclass(frozen=True, slots=True)
class Condition:
    """One server, or one replica of it, at this moment. Times are the loop's clock.

    `serves`: it takes requests. `why` it is not as it is wanted, or why nothing of it is wanted to run; None while it
    is just on its way. `since` it is in this state, `until` it is tried again, where that is known.
    """

    server: str
    wanted: Literal["running", "stopped"]
    state: State
    why: Failure | None = None
    since: float | None = None
    until: float | None = None
    progress: float | None = None
    """From 0 to 1 while loading, where it can be told."""

    @property
    def serves(self) -> bool:
        """Whether it takes requests."""
        return self.state is State.READY

    @property
    def as_wanted(self) -> bool:
        """Whether there is nothing to wait for and nothing to repair."""
        return self.state is State.STOPPED if self.wanted == "stopped" else self.serves and self.why is None

    @property
    def awaits_request(self) -> bool:
        """Whether nothing of it runs because nobody has asked for it: the next request that uses it starts it."""
        return self.wanted == "stopped" and self.why is not None and self.why.cause == _ON_DEMAND

    @property
    def failure(self) -> Failure | None:
        """Why it is not as it is wanted; None where it is, or is on its way."""
        return None if self.wanted == "stopped" or self.as_wanted else self.why

    @property
    def cause(self) -> str:
        """The short name of why; the state's, where there is nothing to say."""
        return str(self.state) if self.why is None else self.why.cause

    def retry_in(self, now: float) -> float | None:
        """Seconds until it is tried again; None where nothing is planned."""
        return None if self.until is None else max(self.until - now, 0.0)

    def reason(self, now: float) -> str | None:
        """All but the state: `corrupt GGUF (download it again); next try in 5m`; None where there is nothing to say."""
        return "; ".join(self._parts("" if self.why is None else str(self.why), now)) or None

    def line(self, now: float) -> str:
        """In one line, to follow the server's name: `loading 42 %`, `failed: corrupt GGUF (download it again); next try
        in 5m`, `was stopped by hand (llamad start qwen)`, `ready, but replica 1 is loading 42 %`.
        """
        return "; ".join(self._parts(self._with_state("" if self.why is None else str(self.why)), now))

    @property
    def short(self) -> str:
        """The same without the hint and without a time, for what stays as it is until something happens (STATUS=)."""
        return self._with_state("" if self.why is None else self.why.message)

    def sentence(self, now: float) -> str:
        """For clients, with the server's name: `qwen is loading 42 %`, `qwen was stopped by hand (...)`. It has nothing
        of what the server's log quotes, which other clients may have written.
        """
        text = self._with_state("" if self.why is None else self.why.for_clients)
        if text.startswith(self.state):
            text = f"is in {text}" if self.state is State.BACKOFF else f"is {text}"
        return f"{self.server} " + "; ".join(self._parts(text, now))

    def _with_state(self, why: str) -> str:
        if why and (self.wanted == "stopped" or self.state is State.STOPPED):
            return why
        state = str(self.state)
        if self.progress is not None:
            state = f"{state} {self.progress * 100:.0f} %"
        if why:
            return f"{state}, but {why}" if self.serves else f"{state}: {why}"
        return state

    def _parts(self, text: str, now: float) -> list[str]:
        seconds = self.retry_in(now)
        return [one for one in (text, "" if seconds is None else f"next try {format_wait(seconds)}") if one]


def explain(
    config: ServerConfig,
    replicas: Sequence[Replica],
    *,
    running: bool,
    order: Literal["start", "stop"] | None = None,
    room: Verdict | None = None,
) -> Condition:
    """Explain one server. `running`: it should run, by configuration, `order` and demand together. `room` is what it
    waits for before it may start, where it waits.
    """
    state = together(one.state for one in replicas)
    if not running:
        return Condition(config.name, "stopped", state, _not_wanted(config, order))
    if state is State.READY:
        return _serving(config, replicas, room)
    if state is not State.STOPPED:
        speaker = min(replicas, key=lambda one: NEAREST_FIRST.index(one.state))
        told = explain_replica(config, speaker)
        tries = [one.retry_at for one in replicas if one.retry_at is not None]
        return replace(told, until=min(tries) if told.until is not None else None)
    if room is not None:
        return Condition(config.name, "running", state, no_room(room))
    return Condition(config.name, "running", State.STARTING)


def explain_replica(config: ServerConfig, replica: Replica) -> Condition:
    """Explain one replica of a server that should run, as if there were no other."""
    state = replica.state
    is_down = state in (State.BACKOFF, State.FAILED, State.UNRESPONSIVE)
    why = replica.last_error if is_down else None
    if state is State.READY and replica.last_error is not None:
        why = _reworded(replica.last_error, lambda words: f"not replaced: {words}; the old one goes on")
    return Condition(
        config.name,
        "running",
        state,
        why,
        since=replica.since,
        until=replica.retry_at if is_down else None,
        progress=replica.load_progress if state is State.LOADING else None,
    )


def _serving(config: ServerConfig, replicas: Sequence[Replica], room: Verdict | None) -> Condition:
    """One that takes requests, and what its other replicas lack."""
    ready = [one for one in replicas if one.state is State.READY]
    told = Condition(config.name, "running", State.READY, since=min(one.since for one in ready))
    if room is not None:
        return replace(told, why=no_room(room, what="a replica "))
    for one in ready:
        if (why := explain_replica(config, one).why) is not None:
            return replace(told, why=why)
    rest = [one for one in replicas if one.state is not State.READY]
    if not rest:
        return told
    worst = max(rest, key=lambda one: NEAREST_FIRST.index(one.state))
    other = explain_replica(config, worst)
    who = "the new one" if worst.key.index in {one.key.index for one in ready} else f"replica {worst.key.index}"
    if other.why is None:
        return replace(told, why=Failure(str(worst.state), f"{who} is {other.short}"))
    return replace(told, why=_reworded(other.why, lambda words: f"{who} is {worst.state}: {words}"), until=other.until)


def _reworded(failure: Failure, form: Callable[[str], str]) -> Failure:
    public = None if failure.public is None else form(failure.public)
    return replace(failure, message=form(failure.message), public=public)


def _not_wanted(config: ServerConfig, order: Literal["start", "stop"] | None) -> Failure:
    start = f"llamad start {config.name}"
    if order == "stop":
        return Failure("stopped", "was stopped by hand", start)
    if config.start == "manual":
        return Failure("stopped", "is started by hand only", start)
    if config.start == "on-demand":
        return Failure(_ON_DEMAND, "starts with a request")
    return Failure(_ON_DEMAND, "made way for another, starts with a request")


def no_room(room: Verdict, *, what: str = "") -> Failure:
    """Why a server (or `what` of it) that should run does not start: whom it waits for, or why it never fits."""
    if room.never is not None:
        return Failure("no-room", f"{what}has no room: {room.never}", _ROOM_HINT, permanent=True)
    others = ", ".join((*room.evict, *room.wait))
    return Failure("no-room", f"{what}waits for {others or 'memory that becomes free'}")
