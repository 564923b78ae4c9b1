"""A server that llamad does not run: watched, never started or stopped."""

import asyncio
import logging

from llamad.config.model import ServerConfig
from llamad.errors import LlamadError
from llamad.host.address import Address
from llamad.host.pulse import SLACK
from llamad.servers.around import Around
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.health import Liveness, Verdict, next_look, read_slots
from llamad.servers.probe import ProbeAnswer, ProbeError
from llamad.servers.state import State
from llamad.servers.telling import tell, tell_bug

log = logging.getLogger(__name__)


class ExternalWatcher:
    """Watches one server; has the shape of a Supervisor, so that the fleet treats both alike."""

    def __init__(self, key: ReplicaKey, config: ServerConfig, address: Address, *, around: Around) -> None:
        self.key = key
        self._config = config
        self._address = address
        self._around = around
        self._board = around.board
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Watch until cancelled. The replica is on the board for as long."""
        self._board.add(Replica(self.key, since=self._loop.time(), address=self._address))
        try:
            with self._around.pulse.part(f"watcher of {self.key}", within=SLACK) as beat:
                liveness = Liveness(self._config.health, well_at=self._loop.time())
                while True:
                    liveness.policy = self._config.health
                    beat.expect(2 * liveness.policy.timeout + liveness.policy.interval + SLACK)
                    await self._look_safely(liveness)
                    self._woken.clear()
                    await self._sleep(next_look(liveness.policy, liveness.silent))
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
        self._woken.set()

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _look_safely(self, liveness: Liveness) -> None:
        """The last resort of this watcher: a bug of ours costs this look and no other server."""
        try:
            await self._look(liveness)
        except Exception as error:  # noqa: BLE001 - it is told
            self._silent(liveness, tell_bug(log, self.key.server, error))

    async def _look(self, liveness: Liveness) -> None:
        try:
            health = await self._ask("/health")
            slots = await self._ask("/slots") if health.status == 200 else None
        except ProbeError as error:
            self._silent(liveness, Failure("no-answer", f"{self._config.url} {error}", "is it running there?"))
            return
        except LlamadError as error:
            self._silent(liveness, Failure("credential-missing", error.message, error.hint))
            return
        if health.status == 503:
            liveness.silent = 0
            self._to(State.LOADING)
        elif health.status != 200:
            why = f"{self._config.url}/health answers {health.status}"
            self._silent(liveness, Failure("not-healthy", why, "is it a llama-server?"))
        else:
            self._answers(liveness, slots)

    def _answers(self, liveness: Liveness, answer: ProbeAnswer | None) -> None:
        if answer is not None and answer.status in (401, 403):
            why = f"{self._config.url} refuses the API key"
            self._silent(liveness, Failure("key-refused", why, "see api_key_file: and api_key_credential:"))
            return
        slots = read_slots(answer.json()) if answer is not None and answer.status == 200 else None
        verdict = liveness.answer(self._loop.time(), slots)
        self._to(State.READY if verdict is Verdict.WELL else State.UNRESPONSIVE)
        self._board.update(
            self.key,
            slots=len(slots) if slots is not None else None,
            busy_slots=liveness.busy,
            tokens_per_s=liveness.tokens_per_s,
        )

    async def _ask(self, path: str) -> ProbeAnswer:
        key = self._around.external_key(self._config)
        return await self._around.prober(self._address, path, timeout=self._config.health.timeout, key=key)

    def _silent(self, liveness: Liveness, failure: Failure) -> None:
        verdict = liveness.silence(self._loop.time())
        state = self._board.replicas[self.key].state
        if state not in (State.READY, State.UNRESPONSIVE) or verdict is Verdict.HUNG:
            self._to(State.BACKOFF, last_error=failure)
        elif verdict is Verdict.SUSPECT:
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
