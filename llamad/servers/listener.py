"""What a child writes: kept for `llamad logs`, passed to the journal under the server's name, read for its meaning."""

import logging
import time
from collections import deque
from collections.abc import Callable

from llamad.host.ratelimit import RateLimit, Suppressed
from llamad.servers.board import Failure, ReplicaKey
from llamad.servers.diagnosis import gpu_missing, line_level, ready_hint
from llamad.servers.output import Line, LineSplitter, Output

log = logging.getLogger("llamad.output")
LAST_LINES = 60
LINES_A_BURST = 4000
LINES_PER_S = 200.0


class Listener:
    """Takes the bytes of one child. `lines` counts, `last_lines` is for the diagnosis, `verdict` is a failure that the
    output itself proves, and `on_news` is called when a line says that now is the moment to look at the server.
    """

    def __init__(self, key: ReplicaKey, output: Output, *, gpus_asked: bool, on_news: Callable[[], None]) -> None:
        self._key = key
        self._output = output
        self._gpus_asked = gpus_asked
        self._on_news = on_news
        self._splitter = LineSplitter()
        self._limit = RateLimit(rate=LINES_PER_S, burst=LINES_A_BURST)
        self._level = logging.INFO
        self.lines = 0
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.verdict: Failure | None = None

    def feed(self, data: bytes) -> None:
        """More bytes came."""
        for text in self._splitter.feed(data):
            self._take(text)

    def finish(self) -> None:
        """The child is gone: what it left unfinished is a line too, and what was cut is told."""
        for text in self._splitter.flush():
            self._take(text)
        self._tell(self._limit.finish(time.monotonic()))

    def report(self) -> None:
        """Call it now and then: tells what was cut, also where no further line comes."""
        self._tell(self._limit.report(time.monotonic()))

    def _take(self, text: str) -> None:
        self.lines += 1
        self._level = line_level(text) or self._level
        self.last_lines.append(text)
        self._output.add(Line(time.time(), self._level, text, self._key.index))
        self._log(text)
        if self._gpus_asked and self.verdict is None:
            self.verdict = gpu_missing(text)
        if self.verdict is not None or ready_hint(text):
            self._on_news()

    def _log(self, text: str) -> None:
        if self._limit.admit(time.monotonic()):
            log.log(self._level, "%s", text, extra={"server": self._key.server, "replica": self._key.index})
        self.report()

    def _tell(self, cut: Suppressed | None) -> None:
        if cut is not None:
            log.warning(
                "%s of %s: too many at once for the log; `llamad logs %s` has the newest",
                cut,
                self._key,
                self._key.server,
                extra={"server": self._key.server, "replica": self._key.index, "event": "log-flood"},
            )
