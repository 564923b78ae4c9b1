"""One dirty flag, from a saved file, a signal or a verb: read, compare, apply.

Reads never overlap. Whoever asks while one runs is answered by the next one, which reads what was there when he asked;
so a change is coalesced, never lost.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llamad.accepted import emptied, keep_accepted
from llamad.config.loader import Loaded, load
from llamad.config.model import Config, ControlConfig
from llamad.config.problems import told
from llamad.errors import ConfigError, LlamadError
from llamad.host.dirs import Directories
from llamad.host.threads import aside
from llamad.servers.fleet import Fleet
from llamad.servers.intents import intents, refusals
from llamad.servers.plan import Action, Intent, Plan, changed_settings, diff

log = logging.getLogger(__name__)
_CAUSES = 8
"""Causes of one reload that are told at most."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A configuration that was accepted: what it changes of servers, problems that did not stand in its way, and
    what it changes beside servers (`changed_settings`).
    """

    plan: Plan
    remarks: tuple[str, ...]
    settings: tuple[str, ...] = ()

    @property
    def touched(self) -> tuple[str, ...]:
        """The servers that got something to do."""
        return tuple(step.server for step in self.plan if step.action is not Action.KEEP)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a configuration refers to beside servers, as it is now: `problems` refuse the configuration, `changes` are
    against what holds, in words, and `take` has it hold.
    """

    problems: tuple[str, ...]
    changes: tuple[str, ...]
    take: Callable[[], None]


class Reloader:
    """Keeps the fleet at the configuration on disk.

    `verify` (in a thread) looks at what the configuration refers to beside servers, `follow` is told first which file
    of keys that is. `on_accepted` is told of each one that was accepted, `announce` is around every reload. `error` is
    why the newest one was refused, None while the disk and the fleet agree; `loaded_at` (Unix time), `files` and
    `config` belong to the accepted one.
    """

    def __init__(
        self,
        file: Path,
        directories: Directories,
        environ: Mapping[str, str],
        fleet: Fleet,
        *,
        verify: Callable[[Loaded, Config], Beside],
        follow: Callable[[Path | None], None],
        on_accepted: Callable[[Config], None],
        announce: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._file = file
        self._directories = directories
        self._environ = environ
        self._fleet = fleet
        self._verify = verify
        self._follow = follow
        self._on_accepted = on_accepted
        self._announce = announce
        self._dirty = asyncio.Event()
        self._causes: list[str] = []
        self._waiting: list[asyncio.Future[Applied]] = []
        self.error: str | None = None
        self.loaded_at = 0.0
        self.files: tuple[Path, ...] = ()
        self.config: Config | None = None
        self._control: ControlConfig | None = None
        """What the control socket was made from."""

    def request(self, cause: str) -> None:
        """Something changed, or somebody asks: read soon. `cause` says what or who, for the log."""
        if cause not in self._causes and len(self._causes) < _CAUSES:
            self._causes.append(cause)
        self._dirty.set()

    async def reload(self) -> Applied:
        """Read and apply now; returns once it is accepted. ConfigError where it is refused, and nothing changed."""
        answer: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._dirty.set()
        return await answer

    async def plan(self) -> Applied:
        """What `reload` would do now; ConfigError where it would be refused."""
        loaded, config, beside, wanted = await self._read()
        settings = self._settings(config) + beside.changes
        return Applied(diff(self._fleet.intents, wanted), self._remarks(loaded, config), settings)

    def accept(self, loaded: Loaded, config: Config, beside: Beside | None = None) -> Applied:
        """Apply what was read, whatever is wrong in the world with it (a start, or after the checks of a reload).
        `beside` is None where what it refers to holds already.
        """
        plan = self._fleet.apply(intents(config, loaded), config.gateway.memory_budget)
        settings = self._settings(config)
        if beside is not None:
            beside.take()
            settings += beside.changes
        self._control = self._control or config.control
        self.error = None
        self.loaded_at = time.time()
        self.files = loaded.files
        self.config = config
        keep_accepted(loaded.files, self._file, self._directories)
        self._on_accepted(config)
        return Applied(plan, self._remarks(loaded, config), settings)

    def _settings(self, config: Config) -> tuple[str, ...]:
        return () if self.config is None else tuple(changed_settings(self.config, config))

    def _remarks(self, loaded: Loaded, config: Config) -> tuple[str, ...]:
        late = "control.socket was changed: the commands find llamad at the new path once it was started again"
        moved = self._control is not None and config.control != self._control
        return told(loaded.problems) + ((late,) if moved else ())

    async def run(self) -> None:
        """Follow the dirty flag until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            asked, self._waiting = self._waiting, []
            causes, self._causes = self._causes, []
            if causes:  # who asks for it over the control socket is told there
                log.info("reload: %s", "; ".join(causes), extra={"event": "reload"})
            try:
                with self._announce():
                    applied = await self._once()
            except ConfigError as error:
                _refuse(asked, error)
            except Exception as error:  # no reason to end a model
                log.exception("a bug in llamad: this configuration holds in part at most", extra={"event": "bug"})
                self.error = f"a bug in llamad: {error!r}"
                _refuse(asked, LlamadError(self.error, hint="please report it with the log"))
            else:
                for answer in asked:
                    if not answer.done():
                        answer.set_result(applied)

    async def _once(self) -> Applied:
        try:
            loaded, config, beside, _ = await self._read()
        except ConfigError as error:
            self.error = "\n".join(error.problems) or error.message
            for line in error.problems:
                log.error("%s", line, extra={"event": "config-problem"})
            log.error("reload refused, nothing was changed: %s", error.message, extra={"event": "reload-refused"})
            raise
        applied = self.accept(loaded, config, beside)
        steps = [str(step) for step in applied.plan if step.action is not Action.KEEP]
        steps += applied.settings
        log.info("configuration accepted: %s", "; ".join(steps) or "no server changed", extra={"event": "reloaded"})
        for line in applied.remarks:
            log.warning("%s", line, extra={"event": "config-remark"})
        return applied

    async def _read(self) -> tuple[Loaded, Config, Beside, dict[str, Intent]]:
        loaded = await aside(load, self._file, self._directories, environ=self._environ)
        self._follow(loaded.keys_file)
        config = loaded.config
        if config is None:
            wrong = loaded.wrong_text
            raise ConfigError(f"{len(wrong)} problem{'s' if len(wrong) != 1 else ''} in {self._file}", problems=wrong)
        if mistake := emptied(loaded, self._fleet.configs, self._file, self._directories):
            raise ConfigError("the file is empty", hint="to stop its servers, write `servers: {}`", problems=(mistake,))
        beside = await aside(self._verify, loaded, config)
        if beside.problems:
            raise ConfigError("what it refers to is not usable", problems=beside.problems)
        wanted = intents(config, loaded)
        refused = told(refusals(loaded, wanted, self._fleet.intents))
        if refused:
            raise ConfigError("it would stop or break a server", problems=refused)
        return loaded, config, beside, wanted


def _refuse(asked: list[asyncio.Future[Applied]], error: LlamadError) -> None:
    for answer in asked:
        if not answer.done():
            answer.set_exception(error)
