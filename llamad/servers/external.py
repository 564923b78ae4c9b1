"""A server that llamad does not run: watched, never started or stopped."""

import asyncio
import logging
from contextlib import suppress

from llamad.config.model import ServerConfig
from llamad.errors import LlamadError
from llamad.host.address import Address
from llamad.host.pulse import SLACK
from llamad.servers.around import Around
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.liveness import Judgement, Liveness, Look, Verdict
from llamad.servers.probe import CannotProbeError, ProbeError
from llamad.servers.state import State
from llamad.servers.telling import tell, tell_bug
from llamad.servers.traffic import Traffic
from llamad.servers.witnesses import Pace, Witnesses

log = logging.getLogger(__name__)


class ExternalWatcher:
    """Watches one server; has the shape of a Supervisor, so that the fleet treats both alike."""

    def __init__(
        self, key: ReplicaKey, config: ServerConfig, address: Address, *, around: Around, traffic: Traffic
    ) -> None:
        self.key = key
        self._config = config
        self._address = address
        self._around = around
        self._board = around.board
        self._traffic = traffic
        self._stirred = asyncio.Event()
        self._pace = Pace(key, traffic, lambda: self._config.health.interval, self._stirred.set)
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Watch until cancelled. The replica is on the board for as long."""
        self._board.add(Replica(self.key, since=self._loop.time(), address=self._address))
        try:
            with self._around.pulse.part(f"watcher of {self.key}", within=SLACK) as beat:
                liveness = Liveness(self._config.health, began=self._loop.time(), remote=True)
                witnesses = Witnesses(
                    self.key,
                    self._address,
                    self._around.prober,
                    self._traffic,
                    key=lambda: self._around.external_key(self._config),
                )
                with self._traffic.watch(self.key, self._pace.sooner):
                    while True:
                        liveness.policy = self._config.health
                        beat.expect(5 * liveness.policy.timeout + liveness.policy.interval + SLACK)
                        await self._look_safely(liveness, witnesses)
                        await self._until_next(liveness)
        finally:
            state = self._board.replicas[self.key].state
            if state in (State.READY, State.UNRESPONSIVE):  # nothing is ended, it only leaves the board
                self._move(State.DRAINING)
            if state is State.LOADING:
                self._move(State.STOPPING)
            if state is not State.STOPPED:
                self._move(State.STOPPED)
            self._board.remove(self.key)

    def retune(self, config: ServerConfig) -> None:
        """A new policy for the same address."""
        self._config = config
        self.wake()

    def wake(self) -> None:
        """Look now."""
        self._pace.due = 0.0
        self._stirred.set()

    async def _until_next(self, liveness: Liveness) -> None:
        self._pace.begin(liveness)
        while (left := self._pace.left) > 0:
            self._stirred.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._stirred.wait()

    async def _look_safely(self, liveness: Liveness, witnesses: Witnesses) -> None:
        """The last resort of this watcher: a bug of ours costs this look and no other server."""
        try:
            await self._look(liveness, witnesses)
        except Exception as error:  # noqa: BLE001 - it is told
            self._silent(liveness, tell_bug(log, self.key.server, error))

    async def _look(self, liveness: Liveness, witnesses: Witnesses) -> None:
        timeout, now = liveness.policy.timeout, self._loop.time
        try:
            health = await witnesses.ask("/health", timeout)
            seen = await witnesses.look(timeout) if health.status == 200 else None
        except CannotProbeError as error:
            liveness.unable(now())
            tell(log, logging.DEBUG, self.key, "cannot be watched: %s", error, event="cannot-watch")
        except ProbeError as error:
            self._silent(liveness, Failure("no-answer", f"{self._config.url} {error}", "is it running there?"))
        except LlamadError as error:
            self._silent(liveness, Failure("credential-missing", error.message, error.hint))
        else:
            if health.status == 503:
                liveness.look(now(), Look())
                self._to(State.LOADING)
            elif seen is None:
                why = f"{self._config.url}/health answers {health.status}"
                self._silent(liveness, Failure("not-healthy", why, "is it a llama-server?"))
            else:
                self._answers(liveness, seen, witnesses)

    def _answers(self, liveness: Liveness, seen: Look, witnesses: Witnesses) -> None:
        if witnesses.status in (401, 403):
            why = f"{self._config.url} refuses the API key"
            self._silent(liveness, Failure("key-refused", why, "see api_key_file: and api_key_credential:"))
            return
        found = liveness.look(self._loop.time(), seen)
        if seen.silent:
            self._unanswered(
                liveness, found, Failure("no-answer", f"{self._config.url} {found.reason}", "is it overloaded?")
            )
            return
        witnesses.count(liveness.busy, active=liveness.active)
        stuck = Failure("unresponsive", found.reason) if found.verdict is not Verdict.WELL else None
        self._to(State.READY if stuck is None else State.UNRESPONSIVE, last_error=stuck)
        self._board.update(
            self.key,
            slots=len(seen.slots) if seen.slots is not None else self._board.replicas[self.key].slots,
            busy_slots=liveness.busy,
            tokens_per_s=liveness.tokens_per_s,
            asleep=witnesses.asleep,
        )

    def _silent(self, liveness: Liveness, failure: Failure) -> None:
        found = liveness.look(self._loop.time(), Look(silent=True, reachable=False))
        self._unanswered(liveness, found, failure)

    def _unanswered(self, liveness: Liveness, found: Judgement, failure: Failure) -> None:
        """Away once it neither answered nor sent a byte for `hang_timeout`: nothing is ended by saying so."""
        state, seen = self._board.replicas[self.key].state, liveness.evidence
        away = seen.looks > 1 and min(seen.silent, seen.unseen) >= liveness.policy.hang_timeout
        if state not in (State.READY, State.UNRESPONSIVE) or away:
            self._to(State.BACKOFF, last_error=failure)
        elif found.verdict is Verdict.SUSPECT:
            self._to(State.UNRESPONSIVE, last_error=failure)

    def _to(self, state: State, *, last_error: Failure | None = None) -> None:
        if self._board.replicas[self.key].state is state:
            self._board.update(self.key, last_error=last_error)
            return
        ready_since = self._loop.time() if state is State.READY else None
        self._move(state, last_error=last_error, ready_since=ready_since)
        why = f": {last_error.message}" if last_error else ""
        level = logging.INFO if last_error is None else logging.WARNING
        tell(log, level, self.key, "%s%s", state, why, event=str(state))

    def _move(self, state: State, **figures: object) -> None:
        self._board.move(self.key, state, now=self._loop.time(), **figures)
