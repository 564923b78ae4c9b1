"""The first steps of a daemon: its folders, what to run, and what an earlier llamad left."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamad.accepted import read_accepted
from llamad.candidate import Beside, Candidate, judge
from llamad.config.files import Files
from llamad.config.loader import Loaded, load
from llamad.config.model import Config
from llamad.config.problems import Position, Problem
from llamad.config.verdict import Verdict
from llamad.control.client import answers
from llamad.errors import ConfigError, LlamadError
from llamad.host.cgroup import Groups
from llamad.host.dirs import Directories
from llamad.host.fdstore import close_all
from llamad.host.notify import Notifier
from llamad.host.threads import aside
from llamad.host.users import service_uid, user_name
from llamad.reap import STOPPING_MARK
from llamad.servers.fleet import Fleet
from llamad.servers.launcher import PID_FD, STORED, ProcessLauncher
from llamad.servers.ledger import read_ledger
from llamad.servers.leftovers import assign, claim, end_groups, end_processes, end_recorded
from llamad.servers.plan import Intent

log = logging.getLogger(__name__)


def make(directories: Directories) -> None:
    """Make the directories that systemd would have made. LlamadError where that cannot be, or where they are those of
    another user's llamad: of the service, mostly, beside which root starts one by hand.
    """
    refuse_foreign(directories)
    for path in (directories.runtime, directories.servers, directories.state, directories.models, directories.cache):
        try:
            path.mkdir(mode=0o700 if path == directories.servers else 0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise LlamadError(
                f"cannot make {path}: {error.strerror}",
                hint="run it as a service, or set RUNTIME_DIRECTORY, STATE_DIRECTORY and CACHE_DIRECTORY",
            ) from None
    refuse_foreign(directories)  # /tmp/llamad-UID may have been made by anybody meanwhile


def refuse_foreign(directories: Directories) -> None:
    """LlamadError where the runtime directory is another user's. Nor does root work in the state and the cache of the
    service: what it leaves there the service could not use, and what the service left there root should not trust.
    """
    uid, service = os.geteuid(), service_uid()
    for path in (directories.runtime, directories.state, directories.cache):
        try:
            owner = path.stat().st_uid
        except OSError:  # it is not there; one that cannot be used is told by who makes it
            continue
        if owner == uid or (path != directories.runtime and not (uid == 0 and owner == service)):
            continue
        if answers(directories.control_socket):
            raise LlamadError(
                f"llamad runs already, as {user_name(owner)}",
                hint="use that one: llamad status, systemctl status llamad; a second one needs directories of its own:"
                " set RUNTIME_DIRECTORY, STATE_DIRECTORY and CACHE_DIRECTORY",
            )
        start = "start the service (systemctl start llamad), or " if owner == service else ""
        raise LlamadError(
            f"{path} belongs to {user_name(owner)}, and this llamad runs as {user_name(uid)}",
            hint=f"{start}set RUNTIME_DIRECTORY, STATE_DIRECTORY and CACHE_DIRECTORY to directories of your own",
        )


@dataclass(frozen=True, slots=True)
class First:
    """What a llamad starts with. `verdict` is on what is on disk, also where that is not what it starts with; with
    `keys_unknown` nobody may be let in.
    """

    candidate: Candidate
    verdict: Verdict
    keys_unknown: bool = False

    @property
    def config(self) -> Config:
        """What holds at the start, whatever is wrong in the world with it."""
        assert self.candidate.loaded.config is not None
        return self.candidate.loaded.config


@dataclass(frozen=True, slots=True)
class Reading:
    """How the configuration FILE is read by this process; `verify` and `follow` are those of the Reloader."""

    file: Path
    directories: Directories
    environ: Mapping[str, str]
    key_files: tuple[Path, ...]
    verify: Callable[[Loaded, Config], Beside]
    follow: Callable[[Loaded], Awaitable[None]]

    async def load(self, files: Files | None = None, *, accepted: bool = False) -> Loaded:
        """Read the disk, or take these files."""
        return await aside(
            load, self.file, self.directories, environ=self.environ, key_files=self.key_files,
            files=files, accepted=accepted,
        )  # fmt: skip


async def first_config(reading: Reading, handed: Mapping[str, list[int]]) -> First:
    """The configuration to start with. Where an earlier llamad left servers running they go on whatever is wrong with
    the files by now: with the configuration that was accepted last, or, where only the API keys cannot be had, with a
    gateway that lets nobody in. ConfigError where nothing can be started.
    """
    inherits = any(name.startswith(PID_FD) for name in handed)
    copy = await aside(read_accepted, reading.file, reading.directories) if inherits else None
    written = await _as_written(reading, copy, inherits=inherits)
    verdict = written.verdict
    if not verdict.refused:
        for line in verdict.lines:
            log.warning("%s", line, extra={"event": "config-remark"})
        return First(written, verdict)
    kept = await _as_accepted(reading, copy) if copy is not None else None
    only_keys = written.beside is not None and set(verdict.refused) == set(written.beside.refused(at_start=True))
    go_on = kept or (First(written, verdict, keys_unknown=True) if inherits and only_keys else None)
    if go_on is None:
        raise ConfigError(verdict.summary, hint="nothing was started", problems=verdict.lines)
    for line in verdict.lines:
        log.error("%s", line, extra={"event": "config-problem"})
    which = "the last accepted one" if kept else "what runs"
    log.error("%s: %s goes on", verdict.summary, which, extra={"event": "config-kept"})
    if go_on.keys_unknown:
        log.error("the API keys are not usable: nobody is let in until they are", extra={"event": "keys-unknown"})
        go_on = replace(go_on, candidate=replace(go_on.candidate, beside=None))  # the keys that were read do not hold
    return replace(go_on, verdict=verdict)


async def _as_written(reading: Reading, copy: Files | None, *, inherits: bool) -> Candidate:
    """What is on disk."""
    try:
        loaded = await reading.load()
        await reading.follow(loaded)
        running = [record.server for record in read_ledger(reading.directories.ledger).records] if inherits else []
        return await judge(loaded, copy, reading.verify, running={}, left=running)
    except Exception as error:  # no reason to end a model that runs
        if not inherits:
            raise
        log.exception("a bug in llamad", extra={"event": "bug"})
        bug = (Problem(Position(reading.file, 1, 1), "", f"a bug in llamad: {error!r}"),)
        return Candidate(Loaded(None, bug, Files(reading.file, {}), {}), Verdict(bug, bug), {})


async def _as_accepted(reading: Reading, copy: Files) -> First | None:
    """What was accepted last, where that can still be read."""
    loaded = await reading.load(copy, accepted=True)
    if loaded.config is None:
        return None
    candidate = await judge(loaded, copy, reading.verify, running={}, left=())
    wrong = candidate.beside is None or bool(candidate.beside.refused(at_start=True))
    wrong |= any(problem.path.startswith("gateway.") for problem in loaded.problems)  # it asks for keys, and has none
    return First(candidate, candidate.verdict, keys_unknown=wrong)


async def take_over(
    wanted: Mapping[str, Intent],
    fleet: Fleet,
    launcher: ProcessLauncher,
    groups: Groups,
    notifier: Notifier,
    directories: Directories,
    handed: dict[str, list[int]],
) -> None:
    """Adopt what an earlier llamad left where that can be, end the rest. What an operator had stopped stays stopped
    unless that llamad was told to end, or it is an external server by now: nobody could start that again.
    """
    found = read_ledger(directories.ledger)
    mark = directories.runtime / STOPPING_MARK
    crashed = notifier.can_store and not mark.exists()
    claimed, unclaimed = claim(found.records, handed, launcher)
    adopted, unwanted = assign(claimed, wanted, now=asyncio.get_running_loop().time())
    for name in list(handed):
        if name.startswith(STORED):
            log.warning("stored descriptors %r belong to nothing that is known: closed", name)
            close_all(handed.pop(name))
            notifier.remove(name)
    try:
        mark.unlink(missing_ok=True)
    except OSError as error:  # a crash would be taken for a stop: its servers would end with it
        log.warning("cannot remove %s: %s", mark, error.strerror, extra={"event": "stopping-mark"})
    await end_recorded(unclaimed, directories.servers)
    await end_processes(unwanted, directories.servers)
    if notifier.can_store:  # a service: nobody else has servers in this control group
        await end_groups(groups.existing(), [record.name for record in claimed if record not in unwanted])
    stopped = [name for name in found.stopped if name not in wanted or not wanted[name].config.external]
    fleet.adopt(adopted, stopped if claimed or crashed else ())
