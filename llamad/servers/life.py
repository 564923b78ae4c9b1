"""One process from its start to the moment it must go or has gone."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from llamad.config.model import ServerConfig
from llamad.config.units import format_duration
from llamad.host.address import UnixAddress
from llamad.host.pulse import SLACK, Beat
from llamad.host.threads import aside
from llamad.servers.around import Around
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.catalog import LIST_TIMEOUT
from llamad.servers.causes import gpu_missing
from llamad.servers.command import Launch
from llamad.servers.diagnosis import diagnose, is_unexplained
from llamad.servers.health import (
    FASTEST_POLL,
    Liveness,
    LoadDeadline,
    Verdict,
    load_progress,
    next_look,
    poll_delay,
    read_slots,
)
from llamad.servers.listener import Listener
from llamad.servers.output import Output
from llamad.servers.probe import ProbeError
from llamad.servers.starting import Running
from llamad.servers.state import State
from llamad.servers.telling import tell

log = logging.getLogger(__name__)
FIGURES_EVERY = 0.5
"""Seconds between two looks at a loading child's memory and reads."""


class Life:
    """`run` returns why the life has to end, or why it ended; `ready_for` then tells for how long it had been ready."""

    def __init__(
        self,
        key: ReplicaKey,
        running: Running,
        around: Around,
        output: Output,
        beat: Beat,
        config: Callable[[], ServerConfig],
    ) -> None:
        self._key = key
        self._running = running
        self._child = running.child
        self._around = around
        self._board = around.board
        self._beat = beat
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._listener = Listener(
            key,
            output,
            private=isinstance(running.address, UnixAddress),
            adopted=running.adopted,
            on_news=self._on_news,
        )
        self._devices_listed = False
        self._began = self._loop.time()
        self._ready_at: float | None = None
        self.ready_for = 0.0

    async def run(self) -> Failure:
        """Wait for readiness, then watch; the failure that ends it."""
        self._child.attach(self._listener.feed)
        try:
            failure = await self._load() or await self._watch()
            if self._child.ended.done() and self._ready_at is None and is_unexplained(failure):
                failure = await self._examine() or failure
        finally:
            if self._ready_at is not None:
                self.ready_for = self._loop.time() - self._ready_at
        return failure

    @property
    def _view(self) -> Replica:
        return self._board.replicas[self._key]

    def _move(self, state: State, **figures: object) -> None:
        self._board.move(self._key, state, now=self._loop.time(), **figures)

    def _on_news(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    async def _load(self) -> Failure | None:
        """Poll until the server is ready (None), has ended, or does not get on any more."""
        began = self._began
        deadline = LoadDeadline(self._config().health.load_stall_timeout, moved_at=began)
        figures_at = began
        while not (failure := self._over()):
            health = self._config().health
            deadline.stall_timeout = health.load_stall_timeout
            self._beat.expect(health.timeout + SLACK)
            if failure := await self._gpus_in_doubt():
                return failure
            if await self._ask_ready():
                return None
            now = self._loop.time()
            if now >= figures_at:
                figures_at = now + FIGURES_EVERY
                self._figures(deadline, now)
            if deadline.stalled(now):
                return _stalled(self._key.server, deadline.stall_timeout)
            await self._wait(poll_delay(now - began))
        return failure

    async def _ask_ready(self) -> bool:
        try:
            answer = await self._around.prober(self._running.address, "/health", timeout=self._config().health.timeout)
        except ProbeError:
            return False
        if answer.status == 200 and not self._child.ended.done():
            self._ready_at = now = self._loop.time()
            self._listener.note_ready()
            self._move(State.READY, ready_since=now, load_progress=None, last_error=None)
            tell(log, logging.INFO, self._key, "ready after %s", format_duration(now - self._began), event="ready")
            return True
        if answer.status == 503 and self._view.state is State.STARTING:
            self._listener.note_loading()
            self._move(State.LOADING)
        return False

    async def _gpus_in_doubt(self) -> Failure | None:
        """Where one of its drivers fails, another may have a GPU: it goes on if its own list of devices shows one."""
        gpus, launch = self._listener.gpus, self._running.launch
        if not isinstance(launch, Launch) or not launch.gpus_asked or gpus.doubt is None or self._devices_listed:
            return None
        self._devices_listed = True
        self._beat.expect(LIST_TIMEOUT + SLACK)
        devices = await self._around.list_gpus(launch, again=True)
        return None if devices else gpu_missing(gpus.doubt)

    async def _examine(self) -> Failure | None:
        """What a look at its files and its port tells of an end that its lines do not explain."""
        launch = self._running.launch
        if not isinstance(launch, Launch):
            return None
        self._beat.expect(None)  # a disk that hangs is no reason to end all the others
        return await aside(self._around.examine, launch, self._running.address)

    def _figures(self, deadline: LoadDeadline, now: float) -> None:
        usage = self._child.memory_and_reads()
        deadline.observe(now, lines=self._listener.lines, usage=usage)
        progress = load_progress(usage, _size(self._running.model))
        self._board.update(self._key, load_progress=progress, memory_bytes=usage[0] if usage else None)

    async def _watch(self) -> Failure:
        """Look at a ready server until it ends or is found hung."""
        liveness = Liveness(self._config().health, well_at=self._loop.time())
        while not (failure := self._over()):
            liveness.policy = self._config().health
            verdict = await self._look(liveness)
            if failure := self._over():
                break
            if verdict is Verdict.HUNG:
                return _hung(liveness)
            self._judge(verdict, liveness)
            await self._wait(next_look(liveness.policy, liveness.silent))
        return failure

    async def _look(self, liveness: Liveness) -> Verdict:
        self._beat.expect(liveness.policy.timeout + SLACK)
        try:
            answer = await self._around.prober(self._running.address, "/slots", timeout=liveness.policy.timeout)
        except ProbeError:
            return liveness.silence(self._loop.time())
        slots = read_slots(answer.json()) if answer.status == 200 else None
        verdict = liveness.answer(self._loop.time(), slots)
        usage = self._child.memory_and_reads()
        self._board.update(
            self._key,
            slots=self._view.slots if slots is None else len(slots),
            busy_slots=liveness.busy,
            tokens_per_s=liveness.tokens_per_s,
            memory_bytes=usage[0] if usage else None,
            cpu_seconds=self._child.cpu_seconds(),
        )
        return verdict

    def _judge(self, verdict: Verdict, liveness: Liveness) -> None:
        state = self._view.state
        if verdict is Verdict.SUSPECT and state is State.READY:
            self._move(State.UNRESPONSIVE, last_error=_suspect(liveness))
            tell(log, logging.WARNING, self._key, "does not answer: gets no new requests", event="unresponsive")
        elif verdict is Verdict.WELL and state is State.UNRESPONSIVE:
            self._move(State.READY, last_error=None)
            tell(log, logging.INFO, self._key, "answers again", event="ready")

    def _over(self) -> Failure | None:
        """The failure, if the child has ended or its output says that it must."""
        if self._child.ended.done():
            ended = self._child.ended.result()
            self._listener.finish()
            return diagnose(
                ended,
                self._listener.last_lines,
                gpus_missing=self._no_gpus,
                rpc=self._running.uses_rpc,
                oom_kills=self._child.oom_kills(),
                server=self._key.server,
            )
        return gpu_missing() if self._no_gpus else None

    @property
    def _no_gpus(self) -> bool:
        """Whether GPUs were asked for and it says that it has none: it goes on, on the CPU."""
        return self._running.gpus_asked and self._listener.gpus.missing

    async def _wait(self, delay: float) -> None:
        """Until the child ends, its output brings news, or `delay` seconds are over."""
        self._listener.report()
        self._beat.expect(delay + SLACK)
        await asyncio.wait((self._child.ended, self._news), timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        if self._news.done():
            self._news = self._loop.create_future()
            if not self._child.ended.done():  # a flood of news must not become a flood of probes
                await asyncio.wait((self._child.ended,), timeout=FASTEST_POLL)


def _size(model: Path | None) -> int | None:
    try:
        return None if model is None else model.stat().st_size
    except OSError:
        return None


def _stalled(server: str, timeout: float) -> Failure:
    return Failure(
        "load-stalled",
        f"did not get on with loading for {format_duration(timeout)}: no log line, no memory, no reads",
        f"look at `llamad logs {server}`; a slow disk wants a longer health.load_stall_timeout",
    )


_PATIENCE = "long prompts on slow hardware want a longer health.hang_timeout"


def _suspect(liveness: Liveness) -> Failure:
    what = "does not answer" if liveness.silent else "a slot makes no progress"
    after = format_duration(liveness.policy.hang_timeout)
    return Failure("unresponsive", f"{what}: is replaced once that has lasted {after}", _PATIENCE)


def _hung(liveness: Liveness) -> Failure:
    timeout = format_duration(liveness.policy.hang_timeout)
    what = f"did not answer for {timeout}" if liveness.silent else f"a slot made no progress for {timeout}"
    return Failure("hung", f"hung: {what}", _PATIENCE)
