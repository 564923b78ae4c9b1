"""The first steps of a daemon: its folders, what to run, and what an earlier llamad left."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamad.accepted import accepted_file, emptied
from llamad.config.loader import Loaded, load
from llamad.config.model import Config
from llamad.control.client import answers
from llamad.errors import ConfigError, LlamadError
from llamad.host.cgroup import Groups
from llamad.host.dirs import Directories
from llamad.host.fdstore import close_all
from llamad.host.notify import Notifier
from llamad.host.users import service_uid, user_name
from llamad.reap import STOPPING_MARK
from llamad.servers.fleet import Fleet
from llamad.servers.intents import intents
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
    """What a llamad starts with. `error` is why it is not what is on disk (None: it is); with `keys_unknown` nobody may
    be let in.
    """

    loaded: Loaded
    config: Config
    wanted: Mapping[str, Intent]
    error: str | None = None
    keys_unknown: bool = False


async def first_config(
    file: Path,
    directories: Directories,
    environ: Mapping[str, str],
    read_keys: Callable[[Config], tuple[str, ...]],
    handed: Mapping[str, list[int]],
    follow: Callable[[Path | None], None],
) -> First:
    """The configuration to start with; `follow` is told which file of keys the one on disk names. Where an earlier
    llamad left servers running they go on whatever is wrong with the files by now: with the configuration that was
    accepted last, or, where only the API keys cannot be had, with a gateway that lets nobody in. ConfigError where
    nothing can be started.
    """
    inherits = any(name.startswith(PID_FD) for name in handed)
    first, wrong = await _as_written(file, directories, environ, read_keys, follow, inherits=inherits)
    if first is not None and not wrong:
        for problem in first.loaded.problems:
            log.warning("%s", problem, extra={"event": "config-remark"})
        return first
    kept = await _as_accepted(file, directories, environ, read_keys) if inherits else None
    go_on = kept or (first if inherits else None)
    if go_on is None:
        raise ConfigError(f"{file} is not accepted", hint="nothing was started", problems=wrong)
    for line in wrong:
        log.error("%s", line, extra={"event": "config-problem"})
    which = "the last accepted one" if kept else "what runs"
    log.error("the configuration is not usable: %s goes on", which, extra={"event": "config-kept"})
    if go_on.keys_unknown:
        log.error("the API keys are not usable: nobody is let in until they are", extra={"event": "keys-unknown"})
    return replace(go_on, error="\n".join(wrong))


async def _as_written(
    file: Path,
    directories: Directories,
    environ: Mapping[str, str],
    read_keys: Callable[[Config], tuple[str, ...]],
    follow: Callable[[Path | None], None],
    *,
    inherits: bool,
) -> tuple[First | None, tuple[str, ...]]:
    """What is on disk, and why it is not to be started with; None where nothing can be started with it."""
    try:
        loaded = await asyncio.to_thread(load, file, directories, environ=environ)
        follow(loaded.keys_file)
        config = loaded.config
        if config is None:
            return None, loaded.wrong_text
        running = {record.server for record in read_ledger(directories.ledger).records} if inherits else ()
        if mistake := emptied(loaded, running, file, directories):
            return None, (mistake,)
        wrong = await asyncio.to_thread(read_keys, config)
        return First(loaded, config, intents(config, loaded), keys_unknown=bool(wrong)), wrong
    except Exception as error:  # no reason to end a model that runs
        if not inherits:
            raise
        log.exception("a bug in llamad", extra={"event": "bug"})
        return None, (f"a bug in llamad: {error!r}",)


async def _as_accepted(
    file: Path, directories: Directories, environ: Mapping[str, str], read_keys: Callable[[Config], tuple[str, ...]]
) -> First | None:
    """What was accepted last, where there is a copy that can still be read."""
    copy = accepted_file(file, directories)
    if not copy.exists():
        return None
    loaded = await asyncio.to_thread(load, copy, directories, environ=environ, copy_of=file)
    if loaded.config is None:
        return None
    wrong = bool(await asyncio.to_thread(read_keys, loaded.config))
    wrong |= any(problem.path.startswith("gateway.") for problem in loaded.problems)  # it asks for keys, and has none
    return First(loaded, loaded.config, intents(loaded.config, loaded), keys_unknown=wrong)


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
