"""What a child writes: kept for `llamad logs`, passed to the journal under the server's name, read for its meaning."""

import logging
import time
from collections import deque
from collections.abc import Callable

from llamad.host.ratelimit import RateLimit, Suppressed
from llamad.servers.board import ReplicaKey
from llamad.servers.causes import DeviceSigns
from llamad.servers.diagnosis import LastLines
from llamad.servers.loglines import client_hint, line_level, needs_nobody, ready_hint
from llamad.servers.output import Line, LineSplitter, Output

log = logging.getLogger("llamad.output")
LAST_LINES = 60
LINES_A_BURST = 4000
LINES_PER_S = 200.0
FLOOD_LINES = 50
"""Of a flood's lines that come at once, only so many of the newest are looked at: each costs some microseconds."""


class Listener:
    """Takes the bytes of one child. `lines` counts, `on_news` is called when a line says that now is the moment to look
    at the server. `private`: nobody but llamad can reach it; `adopted`: it ran before this llamad.

    What it says is believed until a client can have written it: until the first line about a request, or until it is
    known to have been READY (`note_ready`). An adopted one is not believed until it says itself that it still loads
    (`note_loading`). From then on its lines are kept and passed on, and nothing in them decides anything, not even
    their level in the log.
    """

    def __init__(
        self, key: ReplicaKey, output: Output, *, private: bool, adopted: bool, on_news: Callable[[], None]
    ) -> None:
        self._key = key
        self._output = output
        self._private = private
        self._on_news = on_news
        self._splitter = LineSplitter()
        self._limit = RateLimit(rate=LINES_PER_S, burst=LINES_A_BURST)
        self._level = logging.INFO
        self._believed = not adopted
        self._served = adopted
        self._unknown = adopted
        self._own: deque[str] = deque(maxlen=LAST_LINES)
        self._since: deque[str] = deque(maxlen=LAST_LINES)
        self.lines = 0
        self.devices = DeviceSigns()

    @property
    def last_lines(self) -> LastLines:
        """What the diagnosis of its end may use."""
        return LastLines(tuple(self._own), tuple(self._since), served=self._served)

    def note_loading(self) -> None:
        """It answered that it loads: a process that was READY once never does."""
        if self._unknown:
            self._served = self._unknown = False
            self._believed = True
            self._own, self._since = self._since, self._own
            for text in self._own:
                self.devices.read(text)

    def note_ready(self) -> None:
        """It is READY: requests reach it from now on."""
        self._believed = self._unknown = False
        self._served = True
        self._own.clear()

    def feed(self, data: bytes) -> None:
        """More bytes came."""
        for text in self._splitter.feed(self._newest_of_a_flood(data)):
            self._take(text)

    def finish(self) -> None:
        """The child is gone: what it left unfinished is a line too, and what was cut is told."""
        for text in self._splitter.flush():
            self._take(text)
        self._tell(self._limit.finish(time.monotonic()))

    def report(self) -> None:
        """Call it now and then: tells what was cut, also where no further line comes."""
        self._tell(self._limit.report(time.monotonic()))

    def _newest_of_a_flood(self, data: bytes) -> bytes:
        """`data`, or its last lines where it is too many and more than the log takes."""
        now, lines = time.monotonic(), data.count(b"\n")
        if lines <= FLOOD_LINES or not self._limit.is_exceeded_by(lines, now):
            return data
        skipped, *newest = data.rsplit(b"\n", FLOOD_LINES)
        self._splitter.flush()  # the line that was begun is skipped, too
        self._believed = self._believed and not client_hint(skipped.decode(errors="replace"))
        count = skipped.count(b"\n") + 1
        self.lines += count
        self._limit.skip(count, now)
        return b"\n".join(newest)

    def _take(self, text: str) -> None:
        self.lines += 1
        self._level = line_level(text) or self._level
        shown = self._shown_level(text)
        self._output.add(Line(time.time(), shown, text, self._key.index))
        self._log(shown, text)
        if not self._believed:
            self._since.append(text)
            return
        self._own.append(text)
        self._believed = not client_hint(text)
        if self.devices.read(text) or ready_hint(text):
            self._on_news()

    def _log(self, level: int, text: str) -> None:
        if self._limit.admit(time.monotonic(), len(text)):
            fields = {"server": self._key.server, "replica": self._key.index}
            log.log(level, "%s", text, extra=fields)
        self.report()

    def _shown_level(self, text: str) -> int:
        """Warnings and errors are for somebody: not those that a client can cause or forge, and not mere remarks.
        What comes of a real one (an end, a request that failed) llamad tells itself.
        """
        if self._level > logging.INFO and (not self._believed or needs_nobody(text, private=self._private)):
            return logging.INFO
        return self._level

    def _tell(self, cut: Suppressed | None) -> None:
        if cut is not None:
            log.info(
                "%s of %s: too many at once for the log; `llamad logs %s` has the newest",
                cut,
                self._key,
                self._key.server,
                extra={"server": self._key.server, "replica": self._key.index, "event": "log-flood"},
            )
