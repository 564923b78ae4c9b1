"""Whether every part of the daemon makes progress. systemd's watchdog is fed only while nothing is stalled. Pure."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLACK = 30.0
"""Seconds that a part may take beyond what it said before the watchdog counts it as stuck."""


class Beat:
    """One part's sign of life. Call it at least every `within` seconds."""

    def __init__(self, name: str, within: float, clock: Callable[[], float]) -> None:
        self.name = name
        self._within = within
        self._clock = clock
        self._due = clock() + within

    def __call__(self) -> None:
        """The part makes progress; the usual time runs anew."""
        self._due = self._clock() + self._within

    def expect(self, seconds: float | None) -> None:
        """The part will rightly be silent for `seconds`, or until its next beat where None."""
        self._due = math.inf if seconds is None else self._clock() + seconds

    def is_overdue(self, now: float) -> bool:
        """Whether it has been silent for longer than it may be."""
        return now > self._due


class Pulse:
    """The parts that have to show progress. Times are those of `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._beats: list[Beat] = []

    @contextmanager
    def part(self, name: str, *, within: float) -> Iterator[Beat]:
        """Watch a part for as long as the block lasts; `within` is how long it may be silent, in seconds."""
        beat = Beat(name, within, self._clock)
        self._beats.append(beat)
        try:
            yield beat
        finally:
            self._beats.remove(beat)

    def stalled(self, now: float) -> list[str]:
        """The names of the parts that are overdue at `now`, in the order they joined; each once."""
        return list(dict.fromkeys(beat.name for beat in self._beats if beat.is_overdue(now)))
