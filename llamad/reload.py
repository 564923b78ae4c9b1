"""One dirty flag, from a saved file, a signal or a verb: read, compare, apply.

Reads never overlap. Whoever asks while one runs is answered by the next one, which reads what was there when he asked;
so a change is coalesced, never lost. Everything that is applied comes out of one `Candidate`, which was read once.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from llamad.accepted import keep_accepted
from llamad.candidate import Beside, Candidate, judge
from llamad.config.files import Files, read_disk
from llamad.config.loader import Loaded, load
from llamad.config.model import Config, ControlConfig
from llamad.config.problems import ProblemKind
from llamad.config.verdict import Verdict
from llamad.errors import ConfigError, LlamadError
from llamad.host.dirs import Directories
from llamad.host.threads import aside
from llamad.servers.fleet import Fleet
from llamad.servers.plan import Action, Plan, changed_settings, diff

log = logging.getLogger(__name__)
AWAY = 10.0
"""Seconds for which a file that is gone still counts, unless somebody asks for a reload: what rewrites a whole folder
(git checkout, rsync) takes files away for a moment.
"""
LOOK_EVERY = 10.0
"""Seconds between two looks at what a configuration was refused for."""
_CAUSES = 8
"""Causes of one reload that are told at most."""
_EARLIER = 16


@dataclass(frozen=True, slots=True)
class Earlier:
    """What was applied by itself, and has not been told to anybody who asked for a reload: when (Unix time), why, and
    what it changed, in words; `touched` are the servers that got something to do.
    """

    at: float
    cause: str
    changes: tuple[str, ...]
    touched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """A configuration that was accepted: what it changes of servers, problems that did not stand in its way, what
    it changes beside servers (`changed_settings`), and what was applied by itself before.
    """

    plan: Plan
    remarks: tuple[str, ...]
    settings: tuple[str, ...] = ()
    earlier: tuple[Earlier, ...] = ()

    @property
    def touched(self) -> tuple[str, ...]:
        """The servers that got something to do."""
        return tuple(step.server for step in self.plan if step.action is not Action.KEEP)

    @property
    def changes(self) -> tuple[str, ...]:
        """All that it changes, in words."""
        return (*(str(step) for step in self.plan if step.action is not Action.KEEP), *self.settings)


class Reloader:
    """Keeps the fleet at the configuration on disk.

    `verify` (in a thread) reads what the configuration refers to beside servers, `follow` is told first which files
    those are. `on_accepted` is told of each one that was accepted, `announce` is around every reload. `verdict` is on
    the newest that was read, and says why it was refused, if it was; `loaded_at` (Unix time), `files` and `config`
    belong to the accepted one.
    """

    def __init__(
        self,
        file: Path,
        directories: Directories,
        environ: Mapping[str, str],
        fleet: Fleet,
        *,
        verify: Callable[[Loaded, Config], Beside],
        follow: Callable[[Loaded], Awaitable[None]],
        on_accepted: Callable[[Config], None],
        announce: Callable[[], AbstractContextManager[None]],
        key_files: tuple[Path, ...] = (),
    ) -> None:
        self.file = file
        self._directories = directories
        self._environ = environ
        self._key_files = key_files
        self._fleet = fleet
        self._verify = verify
        self._follow = follow
        self._on_accepted = on_accepted
        self._announce = announce
        self._dirty = asyncio.Event()
        self._causes: list[str] = []
        self._from_disk = self._obeys = self._anew = False
        """What the next reload is to do: read the disk, take what is gone for gone, or judge anew what was read last,
        without what is gone for long.
        """
        self._away: dict[Path, float] = {}
        """Files of the accepted configuration that are gone, and when that counts."""
        self._back: asyncio.TimerHandle | None = None
        """When they are looked for again."""
        self._waiting: list[asyncio.Future[Applied]] = []
        self._earlier: deque[Earlier] = deque(maxlen=_EARLIER)
        self._accepted: Files | None = None
        self._newest: Files | None = None
        """What was read of the disk last, accepted or not."""
        self._bug: str | None = None
        self.verdict = Verdict()
        self.loaded_at = 0.0
        self.config: Config | None = None
        self._control: ControlConfig | None = None
        """What the control socket was made from."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the accepted configuration."""
        return () if self._accepted is None else tuple(self._accepted.contents)

    @property
    def error(self) -> str | None:
        """Every problem of the newest configuration, where it was refused; None while the disk and the fleet agree."""
        return self._bug or ("\n".join(self.verdict.lines) if self.verdict.refused else None)

    @property
    def notice(self) -> str | None:
        """The same in one line."""
        return self._bug or self.verdict.status

    def request(self, cause: str, *, by_hand: bool = False) -> None:
        """A file was saved, or somebody asks (`by_hand`): read soon. `cause` says what or who, for the log."""
        self._from_disk = True
        self._obeys = self._obeys or by_hand
        self._note(cause)

    def look_again(self, cause: str) -> None:
        """What servers are started from has changed, and no file of the configuration: apply the accepted one anew."""
        self._note(cause)

    def _note_gone(self) -> None:
        self._anew = True
        self._note(f"files were away for {AWAY:.0f} s")

    def _note(self, cause: str) -> None:
        if cause not in self._causes and len(self._causes) < _CAUSES:
            self._causes.append(cause)
        self._dirty.set()

    async def reload(self) -> Applied:
        """Read and apply now; returns once it is accepted. ConfigError where it is refused, and nothing changed."""
        answer: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._from_disk = self._obeys = True
        self._dirty.set()
        return await answer

    async def judged(self, files: Files | None = None) -> Candidate:
        """What is wrong with the files on disk, or with these in their place. Changes nothing."""
        return await self._judge(await self._load(files))

    async def plan(self, files: Files | None = None) -> Applied:
        """What `reload` would do now (with these files), without any effect; ConfigError where it would be refused."""
        candidate = await self.judged(files)
        config = candidate.config
        changes = candidate.beside.changes if candidate.beside is not None else ()
        plan = diff(self._fleet.intents, candidate.wanted)
        return Applied(plan, self._remarks(candidate), self._settings(config) + changes, tuple(self._earlier))

    def accept(self, candidate: Candidate) -> Applied:
        """Apply what was read, whatever is wrong in the world with it (a start, or after the checks of a reload).
        `beside` is None where what it refers to holds already.
        """
        config = candidate.loaded.config
        assert config is not None, "a configuration that is too broken to be read is never accepted"
        plan = self._fleet.apply(candidate.wanted, config.gateway.memory_budget)
        settings = self._settings(config)
        if (beside := candidate.beside) is not None:
            beside.take()
            settings += beside.changes
        self._control = self._control or config.control
        self.loaded_at = time.time()
        self.config = config
        if (files := candidate.loaded.files) is not self._accepted:
            self._accepted = files
            if not files.held:  # what is away now may be back as another file: a copy of both would be of no use
                keep_accepted(files, self._directories)
        self._on_accepted(config)
        return Applied(plan, self._remarks(candidate), settings)

    def _settings(self, config: Config) -> tuple[str, ...]:
        return () if self.config is None else tuple(changed_settings(self.config, config))

    def _remarks(self, candidate: Candidate) -> tuple[str, ...]:
        late = "control.socket was changed: the commands find llamad at the new path once it was started again"
        config = candidate.loaded.config
        moved = self._control is not None and config is not None and config.control != self._control
        return candidate.verdict.lines + ((late,) if moved else ())

    async def run(self) -> None:
        """Follow the dirty flag until cancelled."""
        try:
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                asked, self._waiting = self._waiting, []
                causes, self._causes = self._causes, []
                await self._answer(asked, "; ".join(causes))
        finally:
            if self._back is not None:
                self._back.cancel()

    async def retry_refused(self) -> None:
        """Apply what was refused for what is wrong in the world only (a program that is away, a port that is taken)
        once that is right. A model that is still being copied is not: two looks have to agree. Until cancelled.
        """
        right: Files | None = None
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                right = await self._retry_refused(right)
            except Exception:  # no reason to end a model
                log.exception("a bug in llamad", extra={"event": "bug"})

    async def _retry_refused(self, before: Files | None) -> Files | None:
        """Look once; what is right by now of what was refused, which is applied where it was right `before` too."""
        refused, newest = self.verdict.refused, self._newest
        passing = refused and not any(one.kind is ProblemKind.TEXT for one in refused)
        if not passing or newest is None or self.config is None or not self.config.watch:
            return None
        if (await self.judged(newest)).verdict.refused or self.verdict.refused is not refused:
            return None
        if newest is before:
            self._anew = True
            self._note("what it was refused for is in order now")
        return newest

    async def _answer(self, asked: list[asyncio.Future[Applied]], cause: str) -> None:
        if cause:  # who asks for it over the control socket is told there
            log.info("reload: %s", cause, extra={"event": "reload"})
        try:
            with self._announce():
                applied = await self._once()
        except LlamadError as error:  # it is wrong, or comes too late: llamad is stopping
            _refuse(asked, error)
        except Exception as error:  # no reason to end a model
            log.exception("a bug in llamad: this configuration holds in part at most", extra={"event": "bug"})
            self._bug = f"a bug in llamad: {error!r}"
            _refuse(asked, LlamadError(self._bug, hint="please report it with the log"))
        else:
            self._tell(asked, applied, cause)

    def _tell(self, asked: list[asyncio.Future[Applied]], applied: Applied, cause: str) -> None:
        """Answer who asked, with what was applied by itself before; keep it for the next one where nobody did."""
        if not asked:
            if applied.changes:
                self._earlier.append(Earlier(time.time(), cause, applied.changes, applied.touched))
            return
        applied = replace(applied, earlier=tuple(self._earlier))
        self._earlier.clear()
        for answer in asked:
            if not answer.done():
                answer.set_result(applied)

    async def _once(self) -> Applied:
        from_disk, self._from_disk = self._from_disk, False
        obeys, self._obeys = self._obeys, False
        anew, self._anew = self._anew, False
        files = self._accepted
        if from_disk or files is None:
            files = await self._on_disk(obeys=obeys)
        elif anew and self._newest is not None:
            files = await self._without_gone(files, self._newest)
        loaded = await self._load(files)
        await self._follow(loaded)
        candidate = await self._judge(loaded)
        self._bug = None
        if from_disk or anew or not self.verdict.refused:
            self.verdict = candidate.verdict
        try:
            _ = candidate.config
        except ConfigError as error:
            for line in error.problems:
                log.error("%s", line, extra={"event": "config-problem"})
            log.error("reload refused, nothing was changed: %s", error.message, extra={"event": "reload-refused"})
            raise
        applied = self.accept(candidate)
        changes = "; ".join(applied.changes) or "no server changed"
        log.info("configuration accepted: %s", changes, extra={"event": "reloaded"})
        for line in applied.remarks:
            log.warning("%s", line, extra={"event": "config-remark"})
        return applied

    async def _on_disk(self, *, obeys: bool) -> Files:
        """The files on disk. Where nobody asked for this reload, one that is gone counts for a while as it was."""
        files, accepted = await aside(read_disk, self.file), self._accepted
        self._newest = files
        if accepted is None:
            return files
        return files.hold(accepted, self._still_counting(frozenset() if obeys else files.gone(accepted)))

    async def _without_gone(self, accepted: Files, newest: Files) -> Files:
        """What was read last, by now without the files that are gone for long. Nothing is read anew: it may be
        half-written, and nobody has waited for its end. What was refused for the sake of a file that is gone (two have
        one alias) may hold by now.
        """
        disk = await aside(read_disk, self.file)
        gone = disk.gone(accepted)
        counts = gone.difference(self._still_counting(gone))
        return replace(newest, has_folder=disk.has_folder).hold(accepted, newest.gone(accepted) - counts)

    def _still_counting(self, gone: frozenset[Path]) -> list[Path]:
        """Those of the files that are gone which still count for a while, after which they are looked for again."""
        loop, known = asyncio.get_running_loop(), self._away
        self._away = {path: known.get(path, loop.time() + AWAY) for path in gone}
        held = [path for path, counts_from in self._away.items() if loop.time() < counts_from]
        for path in held:
            if path not in known:
                log.info("%s is gone: what it said goes on for %d s", path, AWAY, extra={"event": "file-gone"})
        if self._back is not None:
            self._back.cancel()
        soonest = min((self._away[path] for path in held), default=None)
        self._back = None if soonest is None else loop.call_at(soonest, self._note_gone)
        return held

    async def _load(self, files: Files | None) -> Loaded:
        file = self.file if files is None else files.main
        return await aside(load, file, self._directories, environ=self._environ, files=files, key_files=self._key_files)

    async def _judge(self, loaded: Loaded) -> Candidate:
        return await judge(loaded, self._accepted, self._verify, running=self._fleet.intents)


def _refuse(asked: list[asyncio.Future[Applied]], error: LlamadError) -> None:
    for answer in asked:
        if not answer.done():
            answer.set_exception(error)
