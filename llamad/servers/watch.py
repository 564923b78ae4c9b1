"""Watching one ready process: a look now and then, what it shows, and whether the process has to be replaced."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llamad.config.model import ServerConfig
from llamad.config.units import format_duration
from llamad.host.devices import Choice
from llamad.host.pulse import SLACK, Beat
from llamad.servers.around import Around
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.liveness import Doubt, Judgement, Liveness, Verdict
from llamad.servers.probe import CannotProbeError
from llamad.servers.starting import Running
from llamad.servers.state import State
from llamad.servers.telling import tell
from llamad.servers.traffic import Traffic
from llamad.servers.witnesses import Pace, Trial, Witnesses

log = logging.getLogger(__name__)
TRY_EVERY = 30.0
"""Seconds between two requests of llamad's own, however often clients cause a doubt."""
_PATIENCE = "work that nobody can see (a GPU, another machine) wants a longer health.hang_timeout"


class Watch:
    """Of one process that is ready. `look` is to be called whenever `left` is over."""

    def __init__(
        self,
        key: ReplicaKey,
        running: Running,
        around: Around,
        traffic: Traffic,
        beat: Beat,
        config: Callable[[], ServerConfig],
    ) -> None:
        self._key = key
        self._board = around.board
        self._traffic = traffic
        self._beat = beat
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._liveness = Liveness(config().health, began=self._loop.time(), remote=running.uses_rpc)
        self._witnesses = Witnesses(
            key,
            running.address,
            around.prober,
            traffic,
            child=running.child,
            may_sleep=running.may_sleep,
            gpu_use=lambda: around.gpu_use(running.child.pid, self._gpus),
        )
        self._unable = False
        self._tried_until = 0.0
        self._doubted = False
        """Whether it failed a request of llamad's own a moment ago."""

    @contextmanager
    def attached(self, on_sooner: Callable[[], None]) -> Iterator[None]:
        """Inside, the engine's work is counted as traffic; `on_sooner` is called when `left` has become less."""
        self._pace = Pace(self._key, self._traffic, lambda: self._config().health.interval, on_sooner)
        with self._traffic.watch(self._key, self._pace.sooner):
            yield

    @property
    def left(self) -> float:
        """Seconds until the next look."""
        return self._pace.left

    async def look(self) -> Failure | None:
        """Look once, and show what was seen on the board; why the process has to be replaced, if it has to."""
        self._liveness.policy = self._config().health
        found = await self._judge()
        if found.verdict is Verdict.HUNG:
            return Failure("hung", f"hung: {found.reason}", _PATIENCE)
        failure = None if found.doubt is None else await self._try(found)
        self._show(found)
        self._pace.begin(self._liveness)
        return failure

    async def _judge(self) -> Judgement:
        liveness, witnesses = self._liveness, self._witnesses
        timeout = liveness.policy.timeout
        self._beat.expect(3 * timeout + SLACK)
        try:
            seen = await witnesses.look(timeout)
        except CannotProbeError as error:
            liveness.unable(self._loop.time())
            if not self._unable:
                tell(log, logging.WARNING, self._key, "cannot be watched: %s", error, event="cannot-watch")
            self._unable = True
            return Judgement(Verdict.UNSURE)
        self._unable = False
        found = liveness.look(self._loop.time(), seen)
        if not seen.silent:
            witnesses.count(liveness.busy, active=liveness.active)
        self._board.update(
            self._key,
            slots=self._view.slots if seen.slots is None else len(seen.slots),
            busy_slots=liveness.busy,
            tokens_per_s=liveness.tokens_per_s,
            asleep=witnesses.asleep,
            memory_bytes=witnesses.memory,
            cpu_seconds=witnesses.cpu,
        )
        return found

    async def _try(self, found: Judgement) -> Failure | None:
        """Why it has to be replaced, as it fails a request of llamad's own. Clients can cause a doubt, but not that."""
        if self._loop.time() < self._tried_until:
            return None
        timeout = self._liveness.policy.hang_timeout / 2
        self._beat.expect(timeout + SLACK)
        trial, words = await self._witnesses.attempt(timeout)
        if found.doubt is Doubt.ERRORS and trial is Trial.ERROR:
            if not self._doubted:
                self._doubted = True
                return None  # once more at the next look
            what = f"every answer is an error, that to a request of llamad's own too: {words}"
            return Failure("every-answer-fails", what, "its GPU or driver may be in a bad state: see `journalctl -k`")
        if found.doubt is Doubt.LOST and trial is Trial.SILENT and (await self._judge()).doubt is Doubt.LOST:
            what = f"hung: {found.reason}; nor did it answer one of llamad's own"
            return Failure("requests-lost", what, "a bug of this build: try another one")
        self._doubted = False
        self._traffic.forgive(self._key)
        self._tried_until = self._loop.time() + max(timeout, TRY_EVERY)
        return None

    def _show(self, found: Judgement) -> None:
        """Take new requests away from one that is suspect, and give them back to one that is well."""
        state = self._view.state
        if found.verdict is Verdict.SUSPECT and state is State.READY:
            within = format_duration(self._liveness.policy.hang_timeout)
            why = f"{found.reason}: is replaced once that has lasted {within}"
            self._move(State.UNRESPONSIVE, last_error=Failure("unresponsive", why, _PATIENCE))
            tell(log, logging.WARNING, self._key, "%s: gets no new requests", found.reason, event="unresponsive")
        elif found.verdict is Verdict.WELL and state is State.UNRESPONSIVE:
            self._move(State.READY, last_error=None)
            tell(log, logging.INFO, self._key, "answers again", event="ready")

    @property
    def _gpus(self) -> Choice:
        try:
            return self._config().gpus_of(self._key.index)
        except IndexError:  # a replica on its way out, of a configuration that had more of them
            return None

    @property
    def _view(self) -> Replica:
        return self._board.replicas[self._key]

    def _move(self, state: State, **figures: object) -> None:
        self._board.move(self._key, state, now=self._loop.time(), **figures)
