"""The gateway as a part of the daemon: its keys, its sockets in systemd's fd store, and the reloads it follows."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

from llamad import __version__
from llamad.config.model import Config, ServerConfig
from llamad.gateway.gateway import Gateway, inherit
from llamad.gateway.keys import NO_KEYS, NOBODYS_KEYS, Keys, load_keys
from llamad.host.fdstore import close_all
from llamad.host.notify import Notifier
from llamad.host.pulse import SLACK, Pulse
from llamad.metrics import Metrics
from llamad.reload import Beside
from llamad.servers.fleet import Fleet
from llamad.servers.state import State

log = logging.getLogger(__name__)
LOOK_EVERY = 0.5
"""Seconds between two looks at what systemd should keep."""
_SHOWN = 20
"""Changed API keys that are named at most; the rest is a count."""


class Front:
    """Opens the gateway, keeps it at the accepted configuration, and hands its sockets over. `problem` is what cannot
    be listened on, for STATUS; `changed` is called when that changes.
    """

    def __init__(
        self,
        fleet: Fleet,
        environ: Mapping[str, str],
        notifier: Notifier,
        pulse: Pulse,
        *,
        external_key: Callable[[ServerConfig], str | None],
        changed: Callable[[], None],
        can_store: bool,
    ) -> None:
        self._fleet = fleet
        self._environ = environ
        self._notifier = notifier
        self._pulse = pulse
        self._external_key = external_key
        self._changed = changed
        self._can_store = can_store
        self._keys = NO_KEYS
        self._accepted: Config | None = None
        self._news = asyncio.Event()
        self._stored: set[str] = set()
        self.problem: str | None = None

    def read_keys(self, config: Config) -> Beside:
        """Read the API keys anew (in a thread). They hold once they were taken and a configuration was accepted."""
        keys, problems = load_keys(config.gateway, self._environ)

        def take() -> None:
            self._keys = keys

        changed = () if problems else tuple(changed_keys(self._keys, keys))
        return Beside(tuple(str(problem) for problem in problems), changed, take)

    def take_keys(self, config: Config) -> tuple[str, ...]:
        """Read the API keys and let them hold (in a thread); the problems, where they are not usable."""
        read = self.read_keys(config)
        if not read.problems:
            read.take()
        return read.problems

    def let_nobody_in(self) -> None:
        """Until keys were read, no request is anybody's."""
        self._keys = NOBODYS_KEYS

    def accept(self, config: Config) -> None:
        """This configuration holds from now on; the gateway follows soon."""
        self._accepted = config
        self._news.set()

    @asynccontextmanager
    async def open(self, config: Config, handed: dict[str, list[int]]) -> AsyncIterator[Gateway]:
        """Listen for the time of the block; at its end, requests that are there may end. Takes what it can use out of
        `handed`, and closes the rest.
        """
        inherited = inherit(handed, config.gateway.listen)
        gateway = Gateway(
            self._fleet,
            config.gateway,
            self._keys,
            Metrics(__version__, list(State)),
            wanted=self._fleet.wanted,
            external_key=self._external_key,
            report=self._report,
            inherited=inherited,
        )
        for name in list(handed):  # of addresses that are not listened on any more, and what is foreign
            if not (useless := handed.pop(name)):
                continue
            log.warning("descriptors %r from systemd are of no use here: closed", name, extra={"event": "foreign-fd"})
            close_all(useless)
            self._notifier.remove(name)
        async with gateway:
            follower = asyncio.ensure_future(self._follow(gateway))
            try:
                yield gateway
            finally:
                follower.cancel()  # first: what is not listened on any more still belongs to a successor
                await asyncio.wait((follower,))
                if not self._can_store and not any(inherited.values()):  # what systemd made is systemd's to remove
                    await gateway.withdraw()
                await gateway.drain(self._longest_drain())

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
                if self._can_store:
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

    def _longest_drain(self) -> float:
        """Seconds that requests may take to end at the end: as long as the most patient server allows."""
        return max((config.stop.drain_timeout for config in self._fleet.configs.values()), default=0.0)

    def _store(self, descriptors: dict[str, list[int]]) -> None:
        for name in self._stored - descriptors.keys():
            self._notifier.remove(name)
            self._stored.discard(name)
        for name in descriptors.keys() - self._stored:
            if descriptors[name] and self._notifier.store(name, *descriptors[name], poll=False):
                self._stored.add(name)

    def _report(self, problem: str | None) -> None:
        self.problem = problem
        self._changed()


def changed_keys(old: Keys, new: Keys) -> Iterator[str]:
    """Which API keys came (+), went (-) or have another secret (~), by name, in one line at the most. Pure."""
    before, after = ({name: digest for digest, name in keys.by_digest.items() if digest} for keys in (old, new))
    words = [f"+{name}" for name in after if name not in before]
    words += [f"-{name}" for name in before if name not in after]
    words += [f"~{name}" for name, digest in after.items() if before.get(name, digest) != digest]
    more = [f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    if words:
        yield "gateway: the API keys changed: " + " ".join(words[:_SHOWN] + more)
