"""The composition root: what `llamad run` is made of, and the order in which it starts and ends."""

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from llamad import __version__
from llamad.beginning import First, Reading, first_config, make, take_over
from llamad.candidate import Beside
from llamad.config.keyfiles import where_keys_are
from llamad.config.loader import Loaded
from llamad.config.model import Config
from llamad.config.watch import FolderWatch
from llamad.control.api import control
from llamad.credentials import Credentials
from llamad.errors import ConfigError, ExitCode, LlamadError
from llamad.front import Front, farewell
from llamad.gateway import access
from llamad.host import journal
from llamad.host.cgroup import Groups, own_group
from llamad.host.descriptors import raise_limit
from llamad.host.dirs import Directories, own_directories
from llamad.host.fdstore import received
from llamad.host.gpu_use import gpu_use
from llamad.host.lock import only_one
from llamad.host.memory import free_memory
from llamad.host.notify import Notifier, SystemdEnvironment, take_systemd_environment, watchdog_interval
from llamad.host.pulse import Pulse
from llamad.host.redact import Redaction
from llamad.host.threads import aside
from llamad.reap import KEEP_MARK, STOPPING_MARK
from llamad.reload import Reloader
from llamad.reporter import EXTEND_BY, EXTEND_EVERY, Reporter, StrictStartError
from llamad.servers import listener
from llamad.servers.around import Around
from llamad.servers.board import Board
from llamad.servers.catalog import GpuLists
from llamad.servers.fleet import Fleet
from llamad.servers.guard import Guard
from llamad.servers.inspection import examine, inspect
from llamad.servers.launcher import PID_FD, ProcessLauncher
from llamad.servers.ledger import Ledger
from llamad.servers.probe import probe
from llamad.verbs import Verbs

log = logging.getLogger(__name__)
_T = TypeVar("_T")
BARRIER_TIMEOUT = 5.0
ANSWER_TIME = 0.1
"""Seconds that the answer to `llamad upgrade` has to reach its client."""
STORE_AGAIN = 0.5
"""Seconds between two tries to hand over what systemd's queue had no room for."""


def run(config: Path) -> int:
    """`llamad run`: serve until SIGTERM or SIGINT. Returns the exit code; what went wrong is in the log."""
    environ = os.environ
    systemd = take_systemd_environment(environ)
    redaction = Redaction()
    journal.setup("auto", "info", environ=environ, stream=sys.stderr, redaction=redaction)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(config.absolute(), own_directories(), systemd, environ, redaction))
    except ConfigError as error:
        for line in error.problems:
            log.error("%s", line, extra={"event": "config-problem"})
        log.error("%s", error, extra={"event": "config-refused"})
        return error.exit_code
    except LlamadError as error:
        log.error("%s", error, extra={"event": "cannot-run"})
        return error.exit_code
    except Exception:  # whatever it is, it stands in the journal, and systemd restarts llamad
        log.exception("llamad ends because of a bug", extra={"event": "bug"})
        return ExitCode.SOFTWARE


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - llamad also runs without it
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    file: Path, directories: Directories, systemd: SystemdEnvironment, environ: Mapping[str, str], redaction: Redaction
) -> int:
    pid = os.getpid()
    make(directories)
    with Notifier(systemd) as notifier, only_one(directories), Guard() as guard:
        handed = received(systemd, pid=pid)
        key_files = await aside(where_keys_are, file, environ)
        daemon = Daemon(file, directories, notifier, environ, redaction, handed, key_files, guard)
        return await daemon.serve(watchdog_interval(systemd, pid=pid))


class Daemon:
    """Everything of one `llamad run`, put together."""

    def __init__(
        self,
        file: Path,
        directories: Directories,
        notifier: Notifier,
        environ: Mapping[str, str],
        redaction: Redaction,
        handed: dict[str, list[int]],
        key_files: tuple[Path, ...],
        guard: Guard,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._file = file
        self._directories = directories
        self._notifier = notifier
        self._environ = environ
        self._redaction = redaction
        self._handed = handed
        self._watch = FolderWatch(file)
        self._stop = asyncio.Event()
        self._begun = asyncio.Event()
        """Set once a configuration was accepted."""
        self._stopping: str | None = None
        self._upgrading = False
        self._pulse = Pulse(loop.time)
        self._ledger = Ledger(directories.ledger)
        self._groups = Groups(own_group())
        self._launcher = ProcessLauncher(
            self._ledger,
            self._groups,
            notifier if notifier.can_store else None,
            guard=guard,
            descriptors=raise_limit(),
        )
        self._credentials = credentials = Credentials(environ, redaction)
        self._fleet = Fleet(
            Around(
                board=Board(),
                directories=directories,
                launcher=self._launcher,
                prober=probe,
                pulse=self._pulse,
                environ=environ,
                secret=credentials.secret,
                external_key=credentials.external_key,
                inspect=inspect,
                examine=lambda launch, address: examine(launch, address, environ),
                list_gpus=GpuLists(environ).ask,
                memory_free=free_memory,
                gpu_use=gpu_use,
                make_folder=lambda path: path.mkdir(mode=0o700, parents=True, exist_ok=True),
                reread=self._reread,
                chance=random.random,
            )
        )
        self._reporter = Reporter(notifier, self._fleet, self._pulse, self._notices)
        self._key_files = key_files
        self._front = Front(
            self._fleet,
            key_files,
            notifier,
            self._pulse,
            external_key=credentials.external_key,
            changed=self._reporter.refresh,
            stops=lambda: not self._upgrading,
            handed=handed,
        )
        self._reloader = Reloader(
            file,
            directories,
            environ,
            self._fleet,
            verify=self._verify,
            follow=self._follow,
            on_accepted=self._on_accepted,
            announce=self._announce,
            key_files=key_files,
        )

    async def serve(self, watchdog: float | None) -> int:
        """Start, serve, and end in order. Returns the exit code; LlamadError where it cannot begin."""
        reading = Reading(self._file, self._directories, self._environ, self._key_files, self._verify, self._follow)
        first = await first_config(reading, self._handed)
        config = first.config
        if first.keys_unknown:
            self._front.let_nobody_in()
        self._redirect_log(config)
        log.info("llamad %s starts, pid %d", __version__, os.getpid(), extra={"event": "start"})
        verbs = Verbs(
            self._fleet,
            self._reloader,
            is_ready=lambda: self._reporter.is_ready,
            prober=probe,
            key_of=self._credentials.external_key,
            models_dir=lambda: (self._reloader.config or config).models_dir,
            on_orders=self._note_orders,
            begin_upgrade=self._begin_upgrade,
            gateway_problem=lambda: self._stopping or self._front.problem,
            gateway_follows=self._front.followed,
        )
        socket = config.control.socket or self._directories.control_socket
        with self._signals():
            async with control(verbs, socket, uid=os.geteuid()), asyncio.TaskGroup() as services:
                background = [services.create_task(self._surely(one)) for one in self._services(watchdog)]
                try:
                    async with self._fleet:
                        code = await self._surely(self._serve_servers(first))
                finally:
                    for task in background:
                        task.cancel()
        await self._notifier.barrier(BARRIER_TIMEOUT)
        log.info("llamad ends", extra={"event": "end"})
        return code

    async def _serve_servers(self, first: First) -> int:
        """What happens inside the fleet's block. Returns the exit code. A strict start may end what it has started, but
        no model that runs since before.
        """
        inherits = any(name.startswith(PID_FD) for name in self._handed)
        live = first.config.model_copy(update={"startup": "settle"}) if inherits else first.config
        await take_over(
            first.candidate.wanted, self._fleet, self._launcher, self._groups, self._notifier, self._directories,
            self._handed,
        )  # fmt: skip
        self._reloader.accept(first.candidate)
        self._reloader.verdict = first.verdict
        async with self._front.open(first.config, self._handed):
            code = await self._live(live)
        if self._upgrading:
            await self._leave_servers("upgrade", ExitCode.OK)
        return code

    async def _surely(self, part: Awaitable[_T]) -> _T:
        """The last resort of llamad: an error that leaves a part of it is a bug of ours, and no reason to end a model.
        Where systemd starts llamad again, this one ends as it would by a crash, and its successor takes the servers
        over. In the foreground, and on its way to an end that was asked for, they end with it.
        """
        try:
            return await part
        except Exception:
            if self._notifier.can_store and not self._stop.is_set():
                log.exception("llamad ends because of a bug", extra={"event": "bug"})
                await self._leave_servers("a bug in llamad", ExitCode.SOFTWARE)
            raise

    async def _live(self, config: Config) -> int:
        """From the first configuration to the wish to stop."""
        stop = asyncio.ensure_future(self._stop.wait())
        start = asyncio.ensure_future(self._reporter.until_started(config))
        try:
            await asyncio.wait((stop, start), return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                start.result()
                self._reporter.ready()
                await stop
        except StrictStartError as error:
            log.error("%s", error, extra={"event": "strict-start"})
            self._stop.set()
            return ExitCode.UNAVAILABLE
        finally:
            start.cancel()
            stop.cancel()
            await asyncio.wait((start, stop))
        return ExitCode.OK

    def _services(self, watchdog: float | None) -> list[Coroutine[None, None, None]]:
        """What runs beside the fleet, from the first moment to the last."""
        return [
            self._reload(),
            self._reload_on_save(),
            self._reloader.retry_refused(),
            self._reporter.show_status(),
            self._reporter.feed_watchdog(watchdog),
            self._stop_patiently(),
            self._hand_over(),
        ]

    async def _hand_over(self) -> None:
        """Retry what the fd store did not take: without it a server would not survive a restart of llamad."""
        while True:
            self._launcher.store_again()
            await asyncio.sleep(STORE_AGAIN)

    async def _reload(self) -> None:
        """Follow wishes for a reload once the first configuration holds: it waits for what an earlier llamad left, and
        would undo what was read meanwhile.
        """
        await self._begun.wait()
        await self._reloader.run()

    async def _reload_on_save(self) -> None:
        async for saved in self._watch.saved():
            if self._reloader.config is None or self._reloader.config.watch:
                self._reloader.request(str(saved))

    async def _stop_patiently(self) -> None:
        """From the wish to stop on, have systemd wait as long as servers take to finish what they have."""
        await self._stop.wait()
        if self._upgrading:
            return
        self._notifier.stopping()
        self._stopping = farewell(*self._fleet.in_hand())
        self._notifier.status(self._reporter.line())
        log.info("%s", self._stopping, extra={"event": "stopping"})
        self._mark_stopping()
        while True:
            self._notifier.extend_timeout(EXTEND_BY)
            await asyncio.sleep(EXTEND_EVERY)

    def _verify(self, loaded: Loaded, config: Config) -> Beside:
        """What the configuration refers to beside servers (in a thread)."""
        beside, external = self._front.verify(loaded, config), self._credentials.read_external(config)

        def take() -> None:
            beside.take()
            self._credentials.take_external(external)

        return replace(beside, take=take)

    async def _follow(self, loaded: Loaded) -> None:
        """Watch what the configuration names beside its own files."""
        named = (loaded.keys_file,) if loaded.keys_file is not None else self._key_files
        servers = () if loaded.config is None else loaded.config.servers.values()
        await self._watch.follow({*named, *(one.api_key_file for one in servers if one.api_key_file is not None)})

    def _mark_stopping(self) -> None:
        mark = self._directories.runtime / STOPPING_MARK
        try:
            mark.touch()
        except OSError as error:  # only a crash on the way to the end would need it
            log.warning("cannot write %s: %s", mark, error.strerror, extra={"event": "stopping-mark"})

    def _on_accepted(self, config: Config) -> None:
        self._begun.set()
        self._redirect_log(config)
        self._note_orders()
        self._front.accept(config)
        self._reporter.refresh()

    def _reread(self) -> None:
        self._reloader.look_again("what a server is started from was changed")

    def _note_orders(self) -> None:
        """What an operator stopped stays stopped over a live restore."""
        self._ledger.set_stopped(self._fleet.stopped_by_order)

    def _redirect_log(self, config: Config) -> None:
        log = config.log
        apart = {access.log.name: "info", listener.log.name: log.engine_level or log.level}
        environ, redaction = self._environ, self._redaction
        journal.setup(log.format, log.level, apart=apart, environ=environ, stream=sys.stderr, redaction=redaction)

    @contextmanager
    def _announce(self) -> Iterator[None]:
        """RELOADING and READY around every reload, but not before the first READY: that would be a lie. STATUS shows
        how it ended.
        """
        with self._notifier.reloading() if self._reporter.is_ready else nullcontext():
            try:
                yield
            finally:
                self._reporter.refresh()

    def _notices(self) -> list[str]:
        return [one for one in (self._stopping, self._reloader.notice, self._front.problem) if one is not None]

    def _begin_upgrade(self) -> None:
        """End soon, but without the servers: the next llamad takes them over. LlamadError where none will come,
        LlamadError where the servers could not be kept for it.
        """
        if not self._notifier.can_store:
            raise LlamadError(
                "only a llamad that systemd runs can be upgraded in place", hint="end it, and start the new one"
            )
        mark = self._directories.runtime / KEEP_MARK
        try:
            mark.touch()
        except OSError as error:  # without it `llamad reap` would end the servers
            raise LlamadError(f"cannot write {mark}: {error.strerror}", hint="nothing was ended") from None
        self._upgrading = True
        asyncio.get_running_loop().call_later(ANSWER_TIME, self._stop.set)

    def _told_to_stop(self) -> None:
        """It goes before an upgrade that is under way: nobody starts llamad again after a stop."""
        self._upgrading = False
        try:
            (self._directories.runtime / KEEP_MARK).unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove the mark of an upgrade: %s", error, extra={"event": "keep-mark"})
        self._stop.set()

    async def _leave_servers(self, why: str, code: ExitCode) -> NoReturn:
        """End this process at once, with every server as it is: the next llamad takes them over."""
        self._notifier.status(f"{why}: the servers go on")
        self._launcher.store_again()
        await self._notifier.barrier(BARRIER_TIMEOUT)
        log.info("llamad ends (%s); its servers go on", why, extra={"event": "left"})
        os._exit(code)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGTERM: self._told_to_stop,
            signal.SIGINT: self._told_to_stop,
            signal.SIGHUP: partial(self._reloader.request, "SIGHUP", by_hand=True),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # what came before waits no longer
        try:
            yield
        finally:
            for number in handlers:  # a second one in the last moments must not spoil the exit status
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
