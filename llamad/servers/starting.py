"""The step from "should run" to a running child: what is looked at first, and what can go wrong in words."""

import asyncio
import errno
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamad.config.filefaults import file_fault, parts_of
from llamad.config.model import ServerConfig
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.serverargs import model_file
from llamad.errors import LlamadError
from llamad.host.address import UNIX_PATH_LIMIT, Address, UnixAddress
from llamad.host.files import status
from llamad.host.threads import aside
from llamad.servers.around import Around, Child
from llamad.servers.board import Failure, ReplicaKey
from llamad.servers.causes import gpu_missing
from llamad.servers.command import Launch, child_environment

Mark = tuple[int, ...] | None
FileMarks = tuple[Mark, ...]
"""Device, inode, size and mtime of each file that a start needs, the program last; None for one that is not there."""

_launch_numbers = itertools.count(1)


class CannotStartError(Exception):
    """There is no point in a start."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Running:
    """A child and how it came to be; `started_at` is on the loop's clock. The launch of one that was taken over may be
    why what is wanted could not be started now.
    """

    child: Child
    launch: Launch | Failure
    address: Address
    started_at: float
    restarts: int
    adopted: bool = False

    @property
    def model(self) -> Path | None:
        """The file that it loads, where that is known."""
        return self.launch.model if isinstance(self.launch, Launch) else None

    @property
    def gpus_asked(self) -> bool:
        """Whether it was told to use GPUs, as far as that is known."""
        return isinstance(self.launch, Launch) and self.launch.gpus_asked

    @property
    def uses_rpc(self) -> bool:
        """Whether it was told to use rpc-servers, as far as that is known."""
        return isinstance(self.launch, Launch) and self.launch.uses_rpc

    @property
    def may_sleep(self) -> bool:
        """Whether it may put itself to sleep, as far as is known."""
        return not isinstance(self.launch, Launch) or self.launch.may_sleep


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a start needs."""

    key: ReplicaKey
    launch: Launch
    address: Address
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Programs:
    """How programs looked at a moment of the loop's clock."""

    at: float = 0.0
    marks: Mapping[Path, Mark] = field(default_factory=dict)


async def look_at_programs(launches: Iterable[Launch | Failure]) -> Programs:
    """Look at the programs of these launches, in a thread."""
    at, paths = asyncio.get_running_loop().time(), {one.binary for one in launches if isinstance(one, Launch)}
    return Programs(at, await aside(lambda: {path: mark(path) for path in paths}))


async def file_marks(config: ServerConfig, launch: Launch | Failure, around: Around) -> FileMarks:
    """What the files that a start needs look like now; a thread looks, since a network disk may take its time."""
    return await aside(_marks, config, launch, around.environ.get("PATH"))


def _marks(config: ServerConfig, launch: Launch | Failure, path: str | None) -> FileMarks:
    named = [file for _, file in model_file(config)] if isinstance(launch, Failure) else launch.files
    found = shutil.which(config.llama_server or "llama-server", path=path)
    return (*(one for file in named for one in _marks_of(file)), mark(Path(found) if found else None))


def _marks_of(named: NamedFile) -> Iterator[Mark]:
    """Of each part of a file that is read; of anything else only whether it can be used, since what a server writes, or
    somebody puts into its folder, is no reason to start it again.
    """
    if named.use in (Use.MODEL, Use.READ):
        yield from map(mark, parts_of(named.path))
    else:
        yield () if file_fault(named, {}) is None else None


def mark(path: Path | None) -> Mark:
    """Device, inode, size and mtime of a file, and what may be done with it; None where it is not there."""
    if path is None:
        return None
    try:
        seen = status(path)
    except OSError:
        return None
    allowed = sum(way for way in (os.R_OK, os.X_OK) if os.access(path, way))
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, allowed


async def pointless(launch: Launch, around: Around) -> Failure | None:
    """Why a new process would not come up, as far as a look tells: at its files, and at the GPUs that it sees."""
    failure = await aside(around.inspect, launch)
    if failure is not None or not launch.gpus_asked or launch.uses_rpc:  # GPUs of other hosts are in no list
        return failure
    gpus = await around.list_gpus(launch)
    return None if gpus is None or gpus else gpu_missing()


async def prepare(key: ReplicaKey, launch: Launch, around: Around) -> Prepared:
    """Look at the world before a start; CannotStartError names what is missing."""
    if (failure := await pointless(launch, around)) is not None:
        raise CannotStartError(failure)
    try:
        secrets = {name: await aside(around.secret, credential) for name, credential in launch.credentials}
    except LlamadError as error:
        raise CannotStartError(Failure("credential-missing", error.message, error.hint, permanent=True)) from None
    environment = child_environment(launch, around.environ, secrets, cache=around.directories.cache)
    return Prepared(key, launch, launch.port or _fresh_socket(key, around), environment)


def _fresh_socket(key: ReplicaKey, around: Around) -> UnixAddress:
    """A socket of its own for each start, so that a replacement can come up beside the old one."""
    folder = around.directories.servers
    while (path := folder / f"{key.server}-{key.index}-{next(_launch_numbers)}.sock").exists():
        pass  # one of an earlier llamad, perhaps still in use
    if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
        raise CannotStartError(
            Failure(
                "socket-path-too-long",
                f"{path} has more than the {UNIX_PATH_LIMIT} bytes that a unix socket may have",
                "shorten the server's name or $RUNTIME_DIRECTORY",
                permanent=True,
            )
        )
    return UnixAddress(path)


def start(prepared: Prepared, around: Around, *, started_at: float, restarts: int) -> Running:
    """Spawn the child; OSError where the kernel refuses."""
    if isinstance(prepared.address, UnixAddress):
        around.make_folder(prepared.address.path.parent)
    child = around.launcher(prepared.key, prepared.launch, prepared.address, prepared.environment)
    return Running(child, prepared.launch, prepared.address, started_at, restarts)


_SPAWN_HINTS = {
    errno.EMFILE: "raise LimitNOFILE= of the unit",
    errno.ENFILE: "the whole machine is out of file descriptors: see fs.file-max",
    errno.EAGAIN: "the limit of processes is reached: see TasksMax= of the unit, and ulimit -u",
    errno.ENOMEM: "the machine is out of memory",
    errno.ENOSPC: "free some space on the file system of $RUNTIME_DIRECTORY",
    errno.E2BIG: "args, extra_args and env together are too long for the kernel",
}


def spawn_failure(error: OSError) -> Failure:
    """Why the kernel refused to start a process, as a cause that is tried again: soon, where the machine lacks what may
    be there again at any time.
    """
    hint = _SPAWN_HINTS.get(error.errno or 0)
    message = f"cannot start a process: {error.strerror or error}"
    return Failure("cannot-spawn", message, hint, passing=error.errno in _SPAWN_HINTS.keys() - {errno.E2BIG})
