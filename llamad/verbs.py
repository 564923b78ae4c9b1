"""What the client commands do, over the fleet and the reloader: the daemon's side of the control socket."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from llamad import __version__
from llamad.config.files import DROP_INS, Files, is_drop_in
from llamad.config.model import ServerConfig
from llamad.control import documents, operations, wire
from llamad.control.operations import Before, ReloadOutcome, Settled
from llamad.control.watching import watch
from llamad.errors import LlamadError, UnknownServerError
from llamad.host.devices import Devices, read_devices
from llamad.host.files import within
from llamad.host.nvml import load_nvml, nvml_gpus, with_figures
from llamad.host.threads import aside
from llamad.reload import Applied, Reloader
from llamad.servers.board import Failure
from llamad.servers.catalog import devices_seen, what_is_served
from llamad.servers.fleet import Fleet
from llamad.servers.models import ModelsFolderError, scan
from llamad.servers.output import Line
from llamad.servers.plan import Action
from llamad.servers.probe import Prober
from llamad.servers.state import State


class Verbs(operations.Operations):
    """Implements `Operations`. `models_dir` tells where models are, `begin_upgrade` begins an upgrade."""

    def __init__(
        self,
        fleet: Fleet,
        reloader: Reloader,
        *,
        is_ready: Callable[[], bool],
        prober: Prober,
        key_of: Callable[[ServerConfig], str | None],
        models_dir: Callable[[], Path],
        on_orders: Callable[[], None],
        begin_upgrade: Callable[[], None],
        gateway_problem: Callable[[], str | None],
        gateway_follows: Callable[[], Awaitable[object]],
    ) -> None:
        self._fleet = fleet
        self._reloader = reloader
        self._is_ready = is_ready
        self._prober = prober
        self._key_of = key_of
        self._models_dir = models_dir
        self._on_orders = on_orders
        self._begin_upgrade = begin_upgrade
        self._gateway_problem = gateway_problem
        self._gateway_follows = gateway_follows

    def status(self, server: str | None) -> documents.StatusDocument:
        """See Operations."""
        names = list(self._fleet.configs) if server is None else [self._known(server)]
        return wire.status_document(
            version=__version__,
            ready=self._is_ready(),
            config=wire.ConfigView(self._reloader.files, self._reloader.loaded_at, self._reloader.error),
            servers=[self._view(name) for name in names],
            now=asyncio.get_running_loop().time(),
            gateway_problem=self._gateway_problem(),
        )

    def watch(self, server: str | None) -> AsyncGenerator[documents.StatusDocument, None]:
        """See Operations."""
        return watch(self._fleet.board, lambda: self.status(server))

    async def reload(self, *, wait: bool) -> ReloadOutcome:
        """See Operations."""
        applied = await self._reloader.reload()
        if not wait:
            return self._outcome(applied, ())
        await self._gateway_follows()
        touched = [*applied.touched, *(name for name in self._under_way() if name not in applied.touched)]
        await self._fleet.settled(touched)
        return self._outcome(applied, tuple(self._settled(name) for name in touched if name in self._fleet.configs))

    async def plan(self, files: Files | None) -> ReloadOutcome:
        """See Operations."""
        applied = await self._reloader.plan(await self._other(files))
        return self._outcome(applied, (), self._notices(applied))

    async def check(self, files: Files | None) -> operations.CheckOutcome:
        """See Operations."""
        judged = await self._reloader.judged(await self._other(files))
        found, config = judged.loaded.files, judged.loaded.config
        servers = () if config is None else tuple(config.servers)
        return operations.CheckOutcome(found.main, tuple(found.contents), servers, judged.verdict)

    async def _other(self, files: Files | None) -> Files | None:
        """The files that somebody sent; None where they are those on disk, or one is a drop-in of these: llamad reads
        them itself, and all together.
        """
        if files is None:
            return None
        sent, own = files.main, self._reloader.file
        among_drop_ins = is_drop_in(sent) and await aside(_are_same, sent.parent, own.parent / DROP_INS)
        return None if among_drop_ins or await aside(_are_same, sent, own) else files

    async def start(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        """See Operations."""
        return await self._each(self._fleet.start, servers, wait=wait)

    async def stop(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        """See Operations."""
        return await self._each(self._fleet.stop, servers, wait=wait)

    async def restart(self, servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        """See Operations."""
        return await self._each(self._fleet.restart, servers, wait=wait)

    async def logs(self, server: str, *, last: int | None, follow: bool) -> AsyncGenerator[documents.LogDocument, None]:
        """See Operations."""
        output = self._fleet.output(self._known(server))
        async with output.follow() as news:
            for line in output.lines(last):
                yield _line(line, 0)
            if follow:
                async for line in news:
                    yield _line(line, news.take_lost())

    async def models(self) -> documents.ModelsDocument:
        """See Operations."""
        folder = self._models_dir()
        served = await what_is_served(self._fleet.intents, self._fleet.board, self._prober, self._key_of)
        try:
            files = await aside(scan, folder)
            return wire.models_document(folder, files, served, configs=self._fleet.configs)
        except ModelsFolderError as error:
            return wire.models_document(folder, (), served, configs=self._fleet.configs, error=str(error))

    async def devices(self) -> documents.DevicesDocument:
        """See Operations."""
        seen = await devices_seen(self._fleet.intents.values())
        return wire.devices_document(await aside(_devices), seen)

    async def upgrade(self) -> None:
        """See Operations."""
        await self._reloader.plan()
        self._begin_upgrade()

    def _notices(self, applied: Applied) -> tuple[str, ...]:
        """What an operator should know of the servers whose processes would stay."""
        stay = [step.server for step in applied.plan if step.action in (Action.KEEP, Action.RETUNE)]
        told = ((name, self._fleet.notice(name)) for name in stay if name in self._fleet.configs)
        return tuple(f"{name}: {notice}" for name, notice in told if notice is not None)

    def _under_way(self) -> list[str]:
        """The servers that should run and have not come to what is wanted, whoever applied that: a saved file is
        applied before anybody can ask for it.
        """
        fleet = self._fleet
        return [
            name
            for name, config in fleet.configs.items()
            if fleet.wanted(name) == "running" and not config.external
            and (not fleet.is_settled(name) or not fleet.condition(name).as_wanted)
        ]  # fmt: skip

    def _known(self, name: str) -> str:
        """The server's name, where `name` is one or an alias; UnknownServerError."""
        configs = self._fleet.configs
        if name in configs:
            return name
        for server, config in configs.items():
            if name in config.aliases:
                return server
        raise UnknownServerError(name, tuple(configs))

    def _view(self, server: str) -> wire.ServerView:
        return wire.ServerView(
            config=self._fleet.configs[server],
            condition=self._fleet.condition(server),
            replicas=self._fleet.board.of(server),
            traffic=self._fleet.traffic(server),
            notice=self._fleet.notice(server),
        )

    def _own(self, name: str) -> str:
        """The name of a server that llamad runs; LlamadError where it only knows of it."""
        server = self._known(name)
        if (url := self._fleet.configs[server].url) is None:
            return server
        raise LlamadError(
            f"llamad does not run {server}: it is the server at {url}",
            hint="start or stop it where it runs; to send it no requests, take it out of the configuration",
        )

    async def _each(self, act: Callable[[str], None], servers: tuple[str, ...], *, wait: bool) -> tuple[Settled, ...]:
        names = [self._own(name) for name in servers]
        for name in names:
            act(name)
        self._on_orders()
        if not wait:  # what is wrong with it now would be from before the order
            return tuple(Settled(name, self._fleet.condition(name).state) for name in names)
        await self._fleet.settled(names)
        return tuple(self._settled(name) for name in names)

    def _outcome(self, applied: Applied, settled: tuple[Settled, ...], notices: tuple[str, ...] = ()) -> ReloadOutcome:
        earlier = tuple(
            Before(
                one.at, one.cause, one.changes,
                tuple(self._settled(name) for name in one.touched if name in self._fleet.configs),
            )
            for one in applied.earlier
        )  # fmt: skip
        return ReloadOutcome(applied.plan, (*applied.remarks, *notices), settled, applied.settings, earlier)

    def _settled(self, server: str) -> Settled:
        if server not in self._fleet.configs:  # a reload took it away meanwhile
            return Settled(server, State.STOPPED, Failure("removed", "is no longer configured"))
        condition = self._fleet.condition(server)
        return Settled(server, condition.state, condition.failure)


def _are_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file."""
    try:
        return within(one, lambda: os.path.samefile(one, other))
    except OSError:  # one that is not there is not the other
        return one == other


def _devices() -> Devices:
    """The kernel's view, with the driver's figures where it is there."""
    devices, nvml = read_devices(), load_nvml()
    return devices if nvml is None else with_figures(devices, nvml_gpus(nvml))


def _line(line: Line, lost: int) -> documents.LogDocument:
    return wire.log_document(at=line.at, level=line.level, replica=line.replica, text=line.text, lost=lost)
