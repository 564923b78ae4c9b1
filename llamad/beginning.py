"""The first steps of a daemon: its folders, what to run, and what an earlier llamad left."""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llamad.config.loader import Loaded, load
from llamad.config.model import Config
from llamad.config.problems import ProblemKind
from llamad.errors import ConfigError, LlamadError
from llamad.host.cgroup import Groups
from llamad.host.dirs import Directories
from llamad.host.fdstore import close_all
from llamad.host.notify import Notifier
from llamad.reap import STOPPING_MARK
from llamad.reload import accepted_file, emptied
from llamad.servers.fleet import Fleet
from llamad.servers.launcher import LOG_FD, PID_FD, ProcessLauncher
from llamad.servers.ledger import read_ledger
from llamad.servers.leftovers import assign, claim, end_groups, end_processes, end_recorded
from llamad.servers.plan import Intent

log = logging.getLogger(__name__)


def make(directories: Directories) -> None:
    """Make the directories that systemd would have made."""
    for path in (directories.runtime, directories.servers, directories.state, directories.models, directories.cache):
        try:
            path.mkdir(mode=0o700 if path == directories.servers else 0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise LlamadError(
                f"cannot make {path}: {error.strerror}",
                hint="run it as a service, or set RUNTIME_DIRECTORY, STATE_DIRECTORY and CACHE_DIRECTORY",
            ) from None


@contextmanager
def only_one(directories: Directories) -> Iterator[None]:
    """Two llamads with one runtime directory would fight for the same servers."""
    path = directories.runtime / "llamad.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LlamadError(f"cannot open {path}: {error.strerror}", hint="is it another user's?") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LlamadError(
                f"another llamad already uses {directories.runtime}", hint="see `llamad status`, or end it first"
            ) from None
        yield
    finally:
        os.close(fd)


async def first_config(
    file: Path,
    directories: Directories,
    environ: Mapping[str, str],
    read_keys: Callable[[Config], tuple[str, ...]],
    handed: Mapping[str, list[int]],
) -> tuple[Loaded, Config, str | None]:
    """The configuration to start with; where an earlier llamad left servers running and the file is broken or
    emptied by now, the last one that was accepted, and the error.
    """
    inherits = any(name.startswith(PID_FD) for name in handed)
    loaded = await asyncio.to_thread(load, file, directories, environ=environ)
    mistake = emptied(file, loaded.config) if inherits and loaded.config is not None else None
    if loaded.config is not None and mistake is None:
        if wrong := await asyncio.to_thread(read_keys, loaded.config):
            raise ConfigError("the API keys are not usable", problems=wrong)
        for problem in loaded.problems:
            log.warning("%s", problem, extra={"event": "config-remark"})
        return loaded, loaded.config, None
    wrong = (mistake,) if mistake else _text_problems(loaded)
    accepted = accepted_file(file, directories)
    if inherits and accepted.exists():
        kept = await asyncio.to_thread(load, accepted, directories, environ=environ)
        if kept.config is not None and not await asyncio.to_thread(read_keys, kept.config):
            for line in wrong:
                log.error("%s", line, extra={"event": "config-problem"})
            log.error("the configuration is broken: the last accepted one goes on", extra={"event": "config-kept"})
            return kept, kept.config, "\n".join(wrong)
    raise ConfigError(f"{file} is not accepted", hint="nothing was started", problems=wrong)


def _text_problems(loaded: Loaded) -> tuple[str, ...]:
    return tuple(str(problem) for problem in loaded.problems if problem.kind is ProblemKind.TEXT)


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
    unless that llamad was told to end.
    """
    found = read_ledger(directories.ledger)
    mark = directories.runtime / STOPPING_MARK
    crashed = notifier.can_store and not mark.exists()
    claimed, unclaimed = claim(found.records, handed, launcher)
    adopted, unwanted = assign(claimed, wanted, wall=time.time(), now=asyncio.get_running_loop().time())
    for name in list(handed):
        if name.startswith((LOG_FD, PID_FD)):
            log.warning("stored descriptors %r belong to nothing that is known: closed", name)
            close_all(handed.pop(name))
            notifier.remove(name)
    with suppress(OSError):
        mark.unlink(missing_ok=True)
    await end_recorded(unclaimed)
    await end_processes(unwanted)
    if notifier.can_store:  # a service: nobody else has servers in this control group
        await end_groups(groups.existing(), [record.name for record in claimed if record not in unwanted])
    fleet.adopt(adopted, found.stopped if claimed or crashed else ())
