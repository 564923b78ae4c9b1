"""One process from its start to the moment it must go or has gone."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from llamad.config.model import ServerConfig
from llamad.config.units import format_duration
from llamad.host.address import UnixAddress
from llamad.host.files import status
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
    LoadDeadline,
    load_progress,
    poll_delay,
)
from llamad.servers.listener import Listener
from llamad.servers.output import Output
from llamad.servers.probe import CannotProbeError, ProbeError
from llamad.servers.starting import Running
from llamad.servers.state import State
from llamad.servers.telling import tell
from llamad.servers.traffic import Traffic
from llamad.servers.watch import Watch

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
        traffic: Traffic,
        beat: Beat,
        config: Callable[[], ServerConfig],
    ) -> None:
        self._key = key
        self._running = running
        self._child = running.child
        self._around = around
        self._board = around.board
        self._traffic = traffic
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
        self._model_size: int | None = None
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
        deadline = LoadDeadline(self._config().health.load_stall_timeout, looked_at=began)
        figures_at = began
        self._beat.expect(None)  # its disk may take its time
        self._model_size = await aside(_size, self._running.model)
        while not (failure := self._over()):
            health = self._config().health
            deadline.stall_timeout = health.load_stall_timeout
            self._beat.expect(health.timeout + SLACK)
            if failure := await self._gpus_in_doubt():
                return failure
            try:
                if await self._ask_ready():
                    return None
            except CannotProbeError:  # that says nothing of the server: no time counts
                deadline.looked_at = self._loop.time()
            now = self._loop.time()
            if now >= figures_at:
                figures_at = now + FIGURES_EVERY
                self._figures(deadline, now)
            if why := deadline.stalled:
                return _stalled(self._key.server, deadline.stall_timeout, why)
            await self._wait(poll_delay(now - began))
        return failure

    async def _ask_ready(self) -> bool:
        try:
            answer = await self._around.prober(self._running.address, "/health", timeout=self._config().health.timeout)
        except CannotProbeError:
            raise
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
        signs, launch = self._listener.devices, self._running.launch
        if not isinstance(launch, Launch) or not launch.gpus_asked or signs.doubt is None or self._devices_listed:
            return None
        self._devices_listed = True
        self._beat.expect(LIST_TIMEOUT + SLACK)
        devices = await self._around.list_gpus(launch, again=True)
        return None if devices else gpu_missing(signs.doubt)

    async def _examine(self) -> Failure | None:
        """What a look at its files and its port tells of an end that its lines do not explain."""
        launch = self._running.launch
        if not isinstance(launch, Launch):
            return None
        self._beat.expect(None)  # a disk that hangs is no reason to end all the others
        return await aside(self._around.examine, launch, self._running.address)

    def _figures(self, deadline: LoadDeadline, now: float) -> None:
        usage = self._child.memory_and_reads()
        deadline.observe(now, lines=self._listener.lines, usage=usage, cpu=self._child.cpu_seconds())
        progress = load_progress(usage, self._model_size)
        self._board.update(self._key, load_progress=progress, memory_bytes=usage[0] if usage else None)

    async def _watch(self) -> Failure:
        """Look at a ready server until it ends or has to be replaced."""
        watch = Watch(self._key, self._running, self._around, self._traffic, self._beat, self._config)
        with watch.attached(self._on_news):
            while not (failure := self._over()):
                if failure := await watch.look():
                    return self._over() or failure  # its end, where that came meanwhile, says more
                while (left := watch.left) > 0 and not self._over():  # no line makes it sooner: clients write there
                    await self._wait(left)
        return failure

    def _over(self) -> Failure | None:
        """The failure, if the child has ended or its output says that it must."""
        if self._child.ended.done():
            ended = self._child.ended.result()
            self._listener.finish()
            return diagnose(
                ended,
                self._listener.last_lines,
                lack=self._lack,
                rpc=self._running.uses_rpc,
                oom_kills=self._child.oom_kills(),
                server=self._key.server,
            )
        return self._lack

    @property
    def _lack(self) -> Failure | None:
        """What it was told to use and goes on without, as it says itself."""
        return self._listener.devices.lack(gpus=self._running.gpus_asked, rpc=self._running.uses_rpc)

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
        return None if model is None else status(model).st_size
    except OSError:  # without its size there is no progress to show
        return None


def _stalled(server: str, timeout: float, why: str) -> Failure:
    return Failure(
        "load-stalled",
        f"did not get on with loading for {format_duration(timeout)}: {why}",
        f"look at `llamad logs {server}`; a slow disk wants a longer health.load_stall_timeout",
    )
