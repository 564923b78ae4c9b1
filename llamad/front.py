"""The gateway as a part of the daemon: its keys, its sockets in systemd's fd store, and the reloads it follows."""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from llamad import __version__
from llamad.candidate import Beside
from llamad.config.loader import Loaded
from llamad.config.model import Config, ServerConfig
from llamad.config.units import format_duration
from llamad.gateway.bind import NO_UNIT, listen_problems
from llamad.gateway.gateway import Gateway, inherit
from llamad.gateway.keys import NO_KEYS, NOBODYS_KEYS, Keys, load_keys
from llamad.gateway.listen import STORED, descriptor_name
from llamad.gateway.socketunit import SOCKET_UNIT_NAME, unit_sockets
from llamad.host.address import Address, TcpAddress
from llamad.host.fdstore import close_all
from llamad.host.notify import Notifier
from llamad.host.pulse import SLACK, Pulse
from llamad.metrics import Metrics
from llamad.servers.fleet import Fleet
from llamad.servers.state import State

log = logging.getLogger(__name__)
LOOK_EVERY = 0.5
"""Seconds between two looks at what systemd should keep."""
LOOK_AT_DRAIN = 0.1
"""Seconds between two looks at which servers still have requests."""
GRACE = 5.0
"""Seconds, while the gateway ends, for what belongs to no server: a request that still comes in, an answer that its
client still takes.
"""
NOTHING: Mapping[str, list[int]] = MappingProxyType({})
_SHOWN = 20
"""Changed API keys that are named at most; the rest is a count."""


class Front:
    """Opens the gateway, keeps it at the accepted configuration, and hands its sockets over. `problem` is what cannot
    be listened on, for STATUS; `changed` is called when that changes. `stops` says at the end whether no successor
    takes over.
    """

    def __init__(
        self,
        fleet: Fleet,
        key_files: tuple[Path, ...],
        notifier: Notifier,
        pulse: Pulse,
        *,
        external_key: Callable[[ServerConfig], str | None],
        changed: Callable[[], None],
        stops: Callable[[], bool] = lambda: True,
        handed: Mapping[str, list[int]] = NOTHING,
    ) -> None:
        self._fleet = fleet
        self._handed = handed
        self._stops = stops
        self._key_files = key_files
        self._notifier = notifier
        self._pulse = pulse
        self._external_key = external_key
        self._changed = changed
        self._keys = NO_KEYS
        self._accepted: Config | None = None
        self._news = asyncio.Event()
        self._followed = asyncio.Event()
        """Set while the gateway follows what was accepted, or there is none any more."""
        self._followed.set()
        self._stored: dict[str, tuple[int, ...]] = {}
        """Sockets that systemd keeps, by the name it knows them by: which they are."""
        self._gateway: Gateway | None = None
        self.problem: str | None = None

    def verify(self, loaded: Loaded, config: Config) -> Beside:
        """Read the API keys anew, and try whether what is to be listened on can be (in a thread)."""
        keys, before, gateway = self.read_keys(config), self._accepted, self._gateway
        if gateway is None:  # a start: what systemd keeps is listened on already
            accepted = tuple(one for one in config.gateway.listen if self._is_handed(one))
        else:
            accepted = () if before is None else before.gateway.listen
        listening = {} if gateway is None else gateway.listening
        current = {**dict.fromkeys(accepted, ()), **listening}
        views = self._fleet.board.replicas.values()
        ports = {one.address.port for one in tuple(views) if isinstance(one.address, TcpAddress)}
        unit = NO_UNIT if gateway is None else gateway.unit
        return replace(keys, problems=(*keys.problems, *listen_problems(loaded, current, ports, unit)))

    def _is_handed(self, address: Address) -> bool:
        """Whether an earlier llamad had systemd keep the socket, or llamad.socket may have it."""
        return any(self._handed.get(name) for name in (descriptor_name(address), SOCKET_UNIT_NAME))

    def read_keys(self, config: Config) -> Beside:
        """Read the API keys anew (in a thread). They hold once they were taken and a configuration was accepted."""
        keys, problems = load_keys(config.gateway, self._key_files)

        def take() -> None:
            self._keys = keys

        changes = () if keys is NO_KEYS and problems else tuple(changed_keys(self._keys, keys))
        return Beside(tuple(problems), changes, take)

    def let_nobody_in(self) -> None:
        """Until keys were read, no request is anybody's."""
        self._keys = NOBODYS_KEYS

    def accept(self, config: Config) -> None:
        """This configuration holds from now on; the gateway follows soon."""
        self._accepted = config
        self._news.set()
        self._followed.clear()

    async def followed(self) -> None:
        """Return once the gateway follows what was accepted last."""
        await self._followed.wait()

    @asynccontextmanager
    async def open(self, config: Config, handed: dict[str, list[int]]) -> AsyncIterator[Gateway]:
        """Listen for the time of the block; at its end, requests that are there may end. Takes what it can use out of
        `handed`, and closes the rest.
        """
        unit = unit_sockets(handed)
        inherited = inherit(handed, config.gateway.listen)
        gateway = Gateway(
            self._fleet,
            config.gateway,
            self._keys,
            Metrics(__version__, list(State)),
            external_key=self._external_key,
            report=self._report,
            inherited=inherited,
            unit=unit,
        )
        self._close_useless(handed)
        async with gateway, asyncio.TaskGroup() as beside:
            self._gateway = gateway
            follower = beside.create_task(self._follow(gateway), name="gateway follows")
            try:
                yield gateway
            finally:
                self._gateway = None
                self._followed.set()
                follower.cancel()  # first: what is not listened on any more still belongs to a successor
                await asyncio.wait((follower,))
            # not after a bug of ours: then no request is waited for
            await self._be_lame_duck(gateway)
            if not self._notifier.can_store and not any(inherited.values()):  # systemd's are its to remove
                await gateway.withdraw()
            longest = max((one.stop.drain_timeout for one in self._fleet.configs.values()), default=0.0)
            await drain(gateway.drain, self._fleet.in_hand, grace=min(GRACE, longest))

    async def _be_lame_duck(self, gateway: Gateway) -> None:
        """Give a balancer the time to see that llamad stops; in an upgrade clients wait for the successor instead."""
        config = self._accepted
        if config is None or not (config.gateway.lame_duck and config.gateway.listen and self._stops()):
            return
        gateway.leave()
        words = "lame duck: /ready says no, and requests are taken for another %s"
        log.info(words, format_duration(config.gateway.lame_duck), extra={"event": "lame-duck"})
        await asyncio.sleep(config.gateway.lame_duck)

    def _close_useless(self, handed: dict[str, list[int]]) -> None:
        """Sockets of addresses that are not listened on any more, and what is foreign."""
        for name in list(handed):
            if not (useless := handed.pop(name)):
                continue
            if name == SOCKET_UNIT_NAME:
                words, event = "llamad.socket (%r) has something that is no listening socket: closed", "foreign-fd"
            elif name.startswith(STORED):
                words, event = "a socket of an address that gateway.listen names no more (%r) is closed", "old-socket"
            else:
                words, event = "systemd handed over file descriptors that are not llamad's (%r): closed", "foreign-fd"
            level = logging.INFO if event == "old-socket" else logging.WARNING
            log.log(level, words, name, extra={"event": event})
            close_all(useless)
            self._notifier.remove(name)

    async def _follow(self, gateway: Gateway) -> None:
        """Apply what was accepted, and have systemd keep the sockets: without them a client of a restarting llamad
        would be refused.
        """
        loop = asyncio.get_running_loop()
        with self._pulse.part("gateway", within=SLACK) as beat:
            while True:
                if self._news.is_set() and self._accepted is not None:
                    self._news.clear()
                    await self._apply_safely(gateway, self._accepted)
                    if not self._news.is_set():
                        self._followed.set()
                if self._notifier.can_store:
                    self._store(gateway.descriptors)
                if gateway.stuck(loop.time()) is None:
                    beat()
                try:
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._news.wait()
                except TimeoutError:
                    continue

    async def _apply_safely(self, gateway: Gateway, config: Config) -> None:
        """The last resort of the gateway: a bug of ours costs this change and nobody's connection."""
        try:
            await gateway.apply(config.gateway, self._keys)
        except Exception:
            log.exception("a bug in llamad: the gateway follows the configuration in part only", extra={"event": "bug"})

    def _store(self, descriptors: dict[str, list[int]]) -> None:
        """Have systemd keep these sockets and no others; an address that went and came back has another socket."""
        there = {name: tuple(os.fstat(fd).st_ino for fd in fds) for name, fds in descriptors.items() if fds}
        for name in [one for one, kept in self._stored.items() if there.get(one) != kept]:
            if self._notifier.remove(name):  # else systemd's queue was full: next time
                del self._stored[name]
        for name in there.keys() - self._stored.keys():
            if self._notifier.store(name, *descriptors[name], poll=False):
                self._stored[name] = there[name]

    def _report(self, problem: str | None) -> None:
        self.problem = problem
        self._changed()


async def drain(
    gateway: Callable[[float], Awaitable[object]], in_hand: Callable[[], tuple[int, float]], *, grace: float
) -> None:
    """Have the gateway drain (`Gateway.drain`) for as long as the most patient server that has requests allows
    (`Fleet.in_hand`), and for `grace` seconds more where there is something that is no server's.
    """
    loop = asyncio.get_running_loop()
    began = served = loop.time()
    draining = asyncio.ensure_future(gateway(math.inf))
    try:
        while not draining.done():
            await asyncio.wait((draining,), timeout=LOOK_AT_DRAIN)
            now, (count, patience) = loop.time(), in_hand()
            served = now if count else served
            if now >= (began + patience if count else served + grace):
                break
    finally:
        is_done = draining.done()
        draining.cancel()
        await asyncio.wait((draining,))
    if not is_done:
        await gateway(0.0)


def farewell(count: int, patience: float) -> str:
    """What is said when llamad begins to stop. Pure."""
    if not count:
        return "stopping: no request runs"
    return f"stopping: {count} request{'s run' if count > 1 else ' runs'}, at most {format_duration(patience)}"


def changed_keys(old: Keys, new: Keys) -> Iterator[str]:
    """Which API keys came (+), went (-) or have another secret (~), by name, in one line at the most. Pure."""
    before, after = ({name: digest for digest, name in keys.by_digest.items() if digest} for keys in (old, new))
    words = [f"+{name}" for name in after if name not in before]
    words += [f"-{name}" for name in before if name not in after]
    words += [f"~{name}" for name, digest in after.items() if before.get(name, digest) != digest]
    more = [f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    if words:
        yield "gateway: the API keys changed: " + " ".join(words[:_SHOWN] + more)
