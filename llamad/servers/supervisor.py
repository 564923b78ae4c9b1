"""One replica's life: start, load, serve, end, and again.

A supervisor is one coroutine, `run`. Stopping it, at any instant, is cancelling it and awaiting it: on its way out it
drains, ends and reaps the process it has. Only it, and what it runs (`Life`, `Watch`, `Ending`), moves its replica on
the board.
"""

import asyncio
import logging
import math

from llamad.config.model import ServerConfig
from llamad.config.units import format_wait
from llamad.host.pulse import SLACK
from llamad.servers import starting
from llamad.servers.around import Around
from llamad.servers.backoff import count_failures, next_retry
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.command import Launch
from llamad.servers.ending import Ending
from llamad.servers.life import Life
from llamad.servers.output import Output
from llamad.servers.state import State
from llamad.servers.telling import tell, tell_bug
from llamad.servers.traffic import Traffic

log = logging.getLogger(__name__)
FILE_POLL = 1.0
"""Seconds between two looks at the model and the binary while a replica is down."""


class Supervisor:
    """Keeps one replica up by the policy of its server. `retune` and `wake` may be called at any time."""

    def __init__(
        self,
        key: ReplicaKey,
        config: ServerConfig,
        launch: Launch | Failure,
        *,
        around: Around,
        output: Output,
        traffic: Traffic,
        adopted: starting.Running | None = None,
    ) -> None:
        self.key = key
        self.launch = launch
        self._config = config
        self._around = around
        self._output = output
        self._traffic = traffic
        self._adopted = adopted
        self.inherited = adopted is not None
        """Nothing was started here yet: what runs, if anything, was taken over."""
        self._woken = asyncio.Event()
        self._lives = False
        self._failures = 0
        self._marks: starting.FileMarks = ()
        self._marked_at = 0.0
        self._board = around.board
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Live until cancelled. The replica is on the board for as long."""
        self._board.add(Replica(self.key, since=self._loop.time()))
        try:
            with self._around.pulse.part(f"supervisor of {self.key}", within=SLACK) as self._beat:
                while True:
                    await self._pause(*await self._live_safely())
        finally:
            if self._view.state is not State.STOPPED:
                self._move(State.STOPPED, pid=None, address=None, retry_at=None)
            self._board.remove(self.key)

    def retune(self, config: ServerConfig) -> None:
        """A new policy for the same launch; one that waits tries again at once."""
        self._config = config
        self.wake()

    def wake(self) -> None:
        """If it waits to start again, or is about to, start now."""
        if not self._lives:
            self._woken.set()

    def program_changed(self, seen: starting.Programs) -> bool:
        """Whether another file lay at the program's path, when that was `seen`, than the one that runs."""
        view = self._board.replicas.get(self.key)  # it may not have begun, or may have ended already
        if view is None or view.pid is None or not self._marks or not isinstance(self.launch, Launch):
            return False
        return seen.at > self._marked_at and seen.marks.get(self.launch.binary) not in (self._marks[-1], None)

    def cannot_start_again(self) -> Failure | None:
        """Why the process that was taken over, and runs, could not be started again as things are."""
        view = self._board.replicas.get(self.key)
        return self.launch if isinstance(self.launch, Failure) and view is not None and view.pid is not None else None

    @property
    def _view(self) -> Replica:
        return self._board.replicas[self.key]

    def _move(self, state: State, **figures: object) -> None:
        self._board.move(self.key, state, now=self._loop.time(), **figures)

    async def _live_safely(self) -> tuple[Failure, float]:
        """The last resort of this supervisor: a bug of ours costs this life and no other server."""
        try:
            return await self._live()
        except Exception as error:  # noqa: BLE001 - it is told
            return tell_bug(log, self.key.server, error), 0.0

    async def _live(self) -> tuple[Failure, float]:
        """One life, from start to end: why it ended, and for how many seconds it had been ready."""
        self._woken.clear()
        try:
            running = await self._start()
        except starting.CannotStartError as error:
            return error.failure, 0.0
        except OSError as error:
            return starting.spawn_failure(error), 0.0
        ending = Ending(self.key, running, self._around, self._traffic, self._beat, lambda: self._config.stop)
        failure: Failure | None = None
        try:
            self._announce(running)
            life = Life(self.key, running, self._around, self._output, self._traffic, self._beat, lambda: self._config)
            self._lives = True
            self._woken.clear()  # whoever asked for a start has it
            failure = await life.run()
        except asyncio.CancelledError:
            await ending.gracefully()
            raise
        finally:
            self._lives = False
            await ending.now(failure)
        if isinstance(self.launch, Failure):  # it was taken over, and nobody looked since whether that is mended
            self._around.reread()
        return failure, life.ready_for

    async def _start(self) -> starting.Running:
        if self._adopted is not None:
            running, self._adopted = self._adopted, None
            return running
        restarts = self._view.restarts + (self._view.started_at is not None)
        self._beat.expect(None)  # a disk that hangs is no reason to end all the others
        self._marked_at = self._loop.time()
        self._marks = await starting.file_marks(self._config, self.launch, self._around)
        if isinstance(self.launch, Failure):
            raise starting.CannotStartError(self.launch)
        self.inherited = False
        prepared = await starting.prepare(self.key, self.launch, self._around)
        now = self._loop.time()
        self._move(State.STARTING, restarts=restarts, started_at=now, retry_at=None, memory_bytes=None)
        return starting.start(prepared, self._around, started_at=now, restarts=restarts)

    def _announce(self, running: starting.Running) -> None:
        """There is a process."""
        if self.inherited:
            self._move(State.STARTING, restarts=running.restarts, started_at=running.started_at)
        what, event = ("goes on as", "adopted") if self.inherited else ("started,", "started")
        self._board.update(self.key, pid=running.child.pid, address=running.address)
        tell(log, logging.INFO, self.key, "%s pid %d", what, running.child.pid, event=event)

    async def _pause(self, failure: Failure, ready_for: float) -> None:
        """Wait before the next start: for the delay of the policy, or until something changed that may mend it."""
        self._failures = count_failures(self._failures, ready_for=ready_for, policy=self._config.restart)
        retry = next_retry(self._config.restart, self._failures, failure, chance=self._around.chance())
        retry_at = None if retry.delay is None else self._loop.time() + retry.delay
        state = State.FAILED if retry.given_up else State.BACKOFF
        figures = {"pid": None, "address": None, "ready_since": None, "last_error": failure, "retry_at": retry_at,
                   "busy_slots": None, "tokens_per_s": None, "memory_bytes": None, "cpu_seconds": None,
                   "load_progress": None, "asleep": False}  # fmt: skip
        if self._view.state is state:
            self._board.update(self.key, **figures)
        else:
            self._move(state, **figures)
        self._tell(failure, given_up=retry.given_up, delay=retry.delay)
        if await self._wait_for_reason(retry_at):
            self._failures = 0
        elif isinstance(self.launch, Failure) and not self.launch.permanent:
            self._around.reread()  # what to run has to be found out anew

    def _tell(self, failure: Failure, *, given_up: bool, delay: float | None) -> None:
        after = "not tried again by itself" if delay is None else f"tried again {format_wait(delay)}"
        what = "failed" if given_up else "down"
        level = logging.ERROR if given_up else logging.WARNING
        tell(log, level, self.key, "%s: %s; %s", what, failure, after, event=what, cause=failure.cause)

    async def _wait_for_reason(self, retry_at: float | None) -> bool:
        """True when somebody or a changed file asks for a start, False when it is simply time."""
        changed: starting.FileMarks | None = None
        while True:
            left = math.inf if retry_at is None else retry_at - self._loop.time()
            if left <= 0:
                return False
            self._beat.expect(FILE_POLL + SLACK)
            try:
                async with asyncio.timeout(min(left, FILE_POLL)):
                    await self._woken.wait()
                return True
            except TimeoutError:
                if left <= FILE_POLL:
                    return False
            self._beat.expect(None)
            marks = await starting.file_marks(self._config, self.launch, self._around)
            if not self._marks:  # it was taken over: what it was started from is not known
                self._marks = marks
            if marks != self._marks and marks == changed:  # it keeps still again: a copy that goes on is no reason
                self._marks = marks
                if isinstance(self.launch, Launch):
                    tell(
                        log,
                        logging.INFO,
                        self.key,
                        "the program, the model or another file that it needs changed: tried again now",
                        event="file-changed",
                    )
                    return True
                self._around.reread()  # what to run has to be found out anew
            changed = marks
