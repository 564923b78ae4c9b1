"""The states of a replica and the legal moves between them. Pure.

One table says what may follow what; `move` is the only way to change a state, and the README's diagram is printed
from the table.
"""

from collections.abc import Iterable
from enum import StrEnum


class State(StrEnum):
    """What is observed of one replica; never what is wanted."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    UNRESPONSIVE = "unresponsive"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"

    @property
    def alive(self) -> bool:
        """Whether a process (or an external server that answers) is behind it."""
        return self in _ALIVE


S = State
_ALIVE = frozenset({S.STARTING, S.LOADING, S.READY, S.UNRESPONSIVE, S.DRAINING, S.STOPPING})

MEANING: dict[State, str] = {
    S.STOPPED: "not running, and not meant to be",
    S.STARTING: "the process exists and does not answer yet",
    S.LOADING: "the server answers that it is loading its model",
    S.READY: "takes requests",
    S.UNRESPONSIVE: "was ready, now silent or stuck: gets no new requests",
    S.DRAINING: "gets no new requests, finishes those it has",
    S.STOPPING: "was told to end",
    S.BACKOFF: "ended, will be started again after a delay",
    S.FAILED: "will not be retried soon: too many quick failures, or a cause a retry cannot mend",
}

MOVES: dict[State, frozenset[State]] = {
    S.STOPPED: frozenset({S.STARTING, S.LOADING, S.READY, S.BACKOFF, S.FAILED}),
    S.STARTING: frozenset({S.LOADING, S.READY, S.STOPPING, S.BACKOFF, S.FAILED}),
    S.LOADING: frozenset({S.READY, S.STOPPING, S.BACKOFF, S.FAILED}),
    S.READY: frozenset({S.LOADING, S.UNRESPONSIVE, S.DRAINING, S.STOPPING, S.BACKOFF, S.FAILED}),
    S.UNRESPONSIVE: frozenset({S.LOADING, S.READY, S.DRAINING, S.STOPPING, S.BACKOFF, S.FAILED}),
    S.DRAINING: frozenset({S.STOPPING, S.STOPPED, S.BACKOFF, S.FAILED}),
    S.STOPPING: frozenset({S.STOPPED, S.BACKOFF, S.FAILED}),
    S.BACKOFF: frozenset({S.STARTING, S.LOADING, S.READY, S.STOPPED, S.FAILED}),
    S.FAILED: frozenset({S.STARTING, S.LOADING, S.READY, S.BACKOFF, S.STOPPED}),
}


NEAREST_FIRST = (
    S.READY,
    S.LOADING,
    S.STARTING,
    S.UNRESPONSIVE,
    S.DRAINING,
    S.STOPPING,
    S.BACKOFF,
    S.FAILED,
    S.STOPPED,
)
"""By how soon a replica in that state takes requests again."""


def together(states: Iterable[State]) -> State:
    """The state of several replicas together: the one nearest to taking requests; none: stopped."""
    return min(states, key=NEAREST_FIRST.index, default=State.STOPPED)


class IllegalMoveError(Exception):
    """A bug of ours: the table does not have this move."""


def move(old: State, new: State) -> State:
    """Return `new` where the table allows it, else raise IllegalMoveError."""
    if new not in MOVES[old]:
        raise IllegalMoveError(f"{old} -> {new}")
    return new


def diagram() -> str:
    """The table as lines of `from -> to, to`, in the order of a life; the README shows exactly this."""
    width = max(len(state) for state in State)
    return "\n".join(f"{old:<{width}} -> " + ", ".join(new for new in State if new in MOVES[old]) for old in State)
