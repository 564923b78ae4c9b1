"""A bound on how much one source may log, so that a flooding server cannot crowd out the others. Pure."""

from dataclasses import dataclass

LINE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Lines that were cut: how many, and over how many seconds."""

    lines: int
    seconds: float

    def __str__(self) -> str:
        return f"... {self.lines} lines suppressed in {self.seconds:.0f} s"


class RateLimit:
    """A token bucket: `rate` lines a second in the long run, `burst` at once. Times are passed in, in seconds."""

    def __init__(self, *, rate: float, burst: int, report_every: float = 5.0) -> None:
        self._rate = rate
        self._burst = burst
        self._report_every = report_every
        self._tokens = float(burst)
        self._filled_at: float | None = None
        self._cut = 0
        self._cut_since = 0.0

    def admit(self, now: float, size: int = 0) -> bool:
        """Whether a line of `size` bytes that comes at `now` may pass; one that may not is counted. A long line counts
        as one more for each LINE_BYTES of it.
        """
        self._fill(now)
        if self._tokens >= 1:
            self._tokens -= 1 + size // LINE_BYTES
            return True
        self._count(1, now)
        return False

    def is_exceeded_by(self, lines: int, now: float) -> bool:
        """Whether not all of so many lines that come at `now` may pass."""
        self._fill(now)
        return self._tokens < lines

    def skip(self, lines: int, now: float) -> None:
        """Count lines that nobody looked at as cut."""
        self._count(lines, now)

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            self._tokens = min(float(self._burst), self._tokens + max(0.0, now - self._filled_at) * self._rate)
        self._filled_at = now

    def _count(self, lines: int, now: float) -> None:
        if not self._cut:
            self._cut_since = now
        self._cut += lines

    @property
    def report_due(self) -> float | None:
        """When the next report is due, None while nothing was cut: whoever writes lines arms a timer by it, because
        a flood may end without another line.
        """
        return self._cut_since + self._report_every if self._cut else None

    def report(self, now: float) -> Suppressed | None:
        """What was cut since the last report, once that is `report_every` seconds old; counting starts anew."""
        return self.finish(now) if self.report_due is not None and now >= self.report_due else None

    def finish(self, now: float) -> Suppressed | None:
        """What was cut since the last report, however recent: for the end of the source."""
        if not self._cut:
            return None
        cut = Suppressed(self._cut, max(0.0, now - self._cut_since))
        self._cut = 0
        return cut
