"""Tells systemd the truth: READY when it is, EXTEND_TIMEOUT while loading goes on, STATUS in one line, WATCHDOG only
while every part makes progress.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from llamad.config.model import Config
from llamad.host.notify import Notifier
from llamad.host.pulse import Pulse
from llamad.servers.board import Change
from llamad.servers.fleet import Fleet
from llamad.servers.state import State
from llamad.servers.summary import status_line

log = logging.getLogger(__name__)
EXTEND_EVERY = 5.0
EXTEND_BY = 60.0
"""Seconds that each EXTEND_TIMEOUT_USEC gives from then on."""
HEALTHY_AFTER = 600.0
"""Seconds without trouble after which the next crash counts as the first (RESTART_RESET)."""
STATUS_EVERY = 0.1
"""Seconds between two STATUS at the most."""


class StrictStartError(Exception):
    """`startup: strict`, and a server failed."""


class Reporter:
    """Watches the fleet on systemd's behalf. `notices` are lines of other parts (a taken port, a refused reload)."""

    def __init__(self, notifier: Notifier, fleet: Fleet, pulse: Pulse, notices: Callable[[], list[str]]) -> None:
        self._notifier = notifier
        self._fleet = fleet
        self._pulse = pulse
        self._notices = notices
        self._changed = asyncio.Event()
        self.is_ready = False

    async def until_started(self, config: Config) -> None:
        """Return when the start counts as done by `startup:`; StrictStartError where it has failed."""
        always = [name for name, server in config.servers.items() if server.start == "always" and not server.external]
        if config.startup == "immediate":
            return
        waiting = asyncio.ensure_future(self._fleet.settled(always))
        try:
            while not waiting.done():
                self._notifier.extend_timeout(EXTEND_BY)
                await asyncio.wait((waiting,), timeout=EXTEND_EVERY)
        finally:
            waiting.cancel()
            await asyncio.wait((waiting,))
        now = asyncio.get_running_loop().time()
        conditions = [self._fleet.condition(name) for name in always if name in self._fleet.configs]
        failed = [one for one in conditions if one.wanted == "running" and not one.serves]
        if failed and config.startup == "strict":
            # nothing is tried again once llamad has ended
            told = [f"{one.server} {replace(one, until=None).line(now)}" for one in failed]
            raise StrictStartError(f"startup is strict: {'; '.join(told)}")

    def ready(self) -> None:
        """The start is done."""
        self.is_ready = True
        self.refresh()
        self._notifier.ready()
        if wrong := self._notices():
            log.warning("%s; %s", "; ".join(wrong), self._servers(), extra={"event": "up"})
        else:
            log.info("ready: %s", self._servers(), extra={"event": "up"})

    def refresh(self) -> None:
        """Something that STATUS shows has changed."""
        self._changed.set()

    def line(self) -> str:
        """STATUS as of now: first what is wrong."""
        return "; ".join([*self._notices(), self._servers()])

    def _servers(self) -> str:
        return status_line(self._fleet.condition(name) for name in self._fleet.configs)

    async def show_status(self) -> None:
        """Keep STATUS up to date until cancelled."""

        def note(change: Change) -> None:
            if change.moved or (change.new is not None and change.new.state is State.LOADING):
                self._changed.set()

        with self._fleet.board.observe(note):
            self._changed.set()
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._notifier.status(self.line())
                await asyncio.sleep(STATUS_EVERY)

    async def feed_watchdog(self, interval: float | None) -> None:
        """Send WATCHDOG=1 every `interval` seconds while nothing is stuck, until cancelled. One missed ping is told."""
        loop = asyncio.get_running_loop()
        healthy_since: float | None = loop.time()
        while True:
            stalled = self._pulse.stalled(loop.time())
            if stalled:
                healthy_since = None
                log.error("stuck: %s", ", ".join(stalled), extra={"event": "stuck"})
            else:
                self._notifier.watchdog()
                healthy_since = self._note_health(loop.time() if healthy_since is None else healthy_since, loop.time())
            await asyncio.sleep(interval or 15.0)

    def _note_health(self, since: float, now: float) -> float:
        if now - since < HEALTHY_AFTER:
            return since
        self._notifier.restart_reset()
        return now
