"""The end of one process: drain, SIGTERM, grace, SIGKILL, reap, and nothing left behind."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from llamad.config.model import StopPolicy
from llamad.config.units import format_duration
from llamad.host.address import UnixAddress
from llamad.host.pulse import SLACK, Beat
from llamad.servers.around import Around
from llamad.servers.board import Failure, ReplicaKey
from llamad.servers.health import SOONEST_LOOK
from llamad.servers.probe import ProbeError
from llamad.servers.starting import Running
from llamad.servers.state import State
from llamad.servers.telling import tell
from llamad.servers.traffic import Traffic
from llamad.servers.witnesses import Witnesses

log = logging.getLogger(__name__)
KILL_TIMEOUT = 10.0
"""Seconds that the kernel has to end what got SIGKILL; longer means a process that hangs in a driver."""


class Ending:
    """Ends one child. `gracefully` may be cancelled, which makes it short; `now` always ends with the child gone."""

    def __init__(
        self,
        key: ReplicaKey,
        running: Running,
        around: Around,
        traffic: Traffic,
        beat: Beat,
        policy: Callable[[], StopPolicy],
    ) -> None:
        self._key = key
        self._running = running
        self._child = running.child
        self._around = around
        self._board = around.board
        self._traffic = traffic
        self._beat = beat
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._asked = False
        """Whether somebody wanted this end."""

    async def gracefully(self) -> None:
        """Let it finish what it has, then ask it to end, each within its time."""
        self._asked = True
        policy = self._policy()
        self._beat.expect(policy.drain_timeout + policy.term_timeout + KILL_TIMEOUT + SLACK)
        if self._state in (State.READY, State.UNRESPONSIVE):
            self._move(State.DRAINING)
            await self._drain(policy.drain_timeout)
        self._stopping()  # also where it has just ended by itself: from here on it is one that was to go
        if not self._child.ended.done():
            self._child.terminate()
            await asyncio.wait((self._child.ended,), timeout=policy.term_timeout)
            if not self._child.ended.done():
                within = format_duration(policy.term_timeout)
                what = "did not end within %s of SIGTERM: killed"
                tell(log, logging.WARNING, self._key, what, within, event="killed")

    async def now(self, why: Failure | None = None) -> None:
        """Kill what is left, wait until the kernel says it is gone, and tidy up. `why` it cannot stay, where nobody
        asked for its end.
        """
        cancelled = False
        try:
            if self._child.ended.done():
                why = None  # it went by itself
            else:
                if why is not None:
                    self._traffic.doom(self._key, why.for_clients)
                self._child.kill()  # first of all: whatever else goes wrong here, it must not live on
                self._stopping()
                self._beat.expect(KILL_TIMEOUT + SLACK)
                cancelled = await self._gone()
            self._note_exit(why)
        finally:
            self._let_go()
        if self._asked and self._child.ended.done():
            tell(log, logging.INFO, self._key, "stopped", event="stopped")
        if cancelled:
            raise asyncio.CancelledError

    async def _drain(self, timeout: float) -> None:
        """Wait until nothing runs in it: no request of the gateway's, and no slot that somebody else keeps busy."""
        if not timeout and not self._traffic.in_flight(self._key):
            return  # there is no time to ask it for others'
        witnesses = Witnesses(
            self._key, self._running.address, self._around.prober, self._traffic, may_sleep=self._running.may_sleep
        )
        try:
            async with asyncio.timeout(timeout):
                await self._traffic.drained(self._key)
                while not self._child.ended.done() and await self._busy(witnesses):
                    await asyncio.wait((self._child.ended,), timeout=SOONEST_LOOK)
        except TimeoutError:
            tell(
                log,
                logging.WARNING,
                self._key,
                "still had requests after %s: they are cut",
                format_duration(timeout),
                event="cut",
            )

    async def _busy(self, witnesses: Witnesses) -> bool:
        try:
            seen = await witnesses.look(1.0)
        except ProbeError:
            return False
        return any(slot.processing for slot in seen.slots or ())

    async def _gone(self) -> bool:
        """Wait for the end of a killed child, whoever wants to cancel; True if somebody did."""
        cancelled = False
        deadline = self._loop.time() + KILL_TIMEOUT
        while not self._child.ended.done() and (left := deadline - self._loop.time()) > 0:
            try:
                await asyncio.wait((self._child.ended,), timeout=left)
            except asyncio.CancelledError:
                cancelled = True
        if not self._child.ended.done():
            tell(
                log,
                logging.WARNING,
                self._key,
                "pid %d does not die of SIGKILL: it hangs in the kernel, most likely in a driver",
                self._child.pid,
                event="unkillable",
            )
        return cancelled

    def _note_exit(self, why: Failure | None) -> None:
        if self._child.ended.done():
            by_llamad = "" if why is None else f" by llamad: {why.message}"
            self._board.update(self._key, last_exit=f"{self._child.ended.result()}{by_llamad}")

    def _let_go(self) -> None:
        self._child.close()
        if isinstance(self._running.address, UnixAddress):
            with suppress(OSError):  # a file that stays is in nobody's way: the next one has another name
                self._running.address.path.unlink(missing_ok=True)

    @property
    def _state(self) -> State:
        return self._board.replicas[self._key].state

    def _stopping(self) -> None:
        if self._state is not State.STOPPING:
            self._move(State.STOPPING)

    def _move(self, state: State) -> None:
        self._board.move(self._key, state, now=self._loop.time())
