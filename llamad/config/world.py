"""What the configuration demands of the machine: models that are there, a folder, credentials, API keys."""

import errno
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamad.config.checks import Written
from llamad.config.filefaults import file_fault, first_part, parts_of
from llamad.config.keyfiles import read_key_file
from llamad.config.optionfiles import NamedFile, Use, is_output
from llamad.config.problems import Problem, ProblemKind
from llamad.config.yamltree import Node
from llamad.host.devices import count_gpus
from llamad.host.files import status
from llamad.host.sandbox import hidden_by


@dataclass(frozen=True, slots=True)
class Reader:
    """Who will read the files: this process, and, where root judges for a service, that service's user as well."""

    environ: Mapping[str, str]
    service_user: str | None = None
    machine: Path = Path("/")
    """Where the kernel's files are."""
    key_files: tuple[Path, ...] = ()
    """Where the API keys are, when no file of them is named (`keyfiles.where_keys_are`)."""

    @property
    def credentials(self) -> Path | None:
        """systemd's credentials of this service; None outside it."""
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        return Path(folder) if folder else None


NamedFiles = Iterable[tuple[tuple[str | int, ...], NamedFile]]
"""What a server's configuration names, each with its key path."""


def file_problems(server: Written, files: NamedFiles, reader: Reader) -> Iterator[Problem]:
    """Whether the model (by its header: llama-server judges the rest), and whatever else the server names, is there and
    can be used.
    """
    for path, named in files:
        first = None if is_output(named.use) else first_part(named.path)
        if first is not None:
            words = f"{named.path.name} is a later part of a split model: name the first one"
            kind = ProblemKind.TEXT if named.use is Use.MODEL else ProblemKind.OPTION
            yield server.problem(words, *path, hint=f"write {first.name}", kind=kind)
            continue
        found = _fault(named, reader)
        if found is not None:
            message, hint = found
            yield server.problem(message, *path, hint=hint, kind=ProblemKind.WORLD)


def _fault(named: NamedFile, reader: Reader) -> tuple[str, str | None] | None:
    fault = file_fault(named, reader.environ)
    if fault is not None:
        return fault.message, fault.hint
    if is_output(named.use):
        return None
    return next((found for one in parts_of(named.path) if (found := _service_fault(one, reader)) is not None), None)


def _service_fault(path: Path, reader: Reader) -> tuple[str, str] | None:
    """A path that root can read and the service cannot."""
    if reader.service_user is None:
        return None
    setting = hidden_by(path)
    if setting:
        hint = f"its sandbox hides that folder ({setting}): put the model into models_dir"
        return f"{path} can be read by root, but not by the service", hint
    blocked = _blocked(path, reader.service_user)
    if blocked:
        verb = "read" if blocked == path else "enter"
        return (
            f"{path} can be read by root, but not by {reader.service_user}",
            f"it may not {verb} {blocked}: see its mode",
        )
    return None


def _blocked(path: Path, user: str) -> Path | None:
    """The first folder or file on the way that `user` may not enter or read, by the mode bits."""
    try:
        who = pwd.getpwnam(user)
    except KeyError:
        return None
    groups = os.getgrouplist(user, who.pw_gid)
    for one in (*reversed(path.parents), path):
        found = status(one)
        shift = 6 if found.st_uid == who.pw_uid else 3 if found.st_gid in groups else 0
        need = 4 if one == path else 1
        if not found.st_mode >> shift & need:
            return one
    return None


def device_problems(server: Written, reader: Reader) -> Iterator[Problem]:
    """GPUs that are asked for by an index which the machine clearly does not have; a UUID nobody can judge."""
    asked = list(_indices(server.node.get("gpus"))) if server.fine("gpus") else []
    there = count_gpus(root=reader.machine) if asked else None
    if there is None:
        return
    hint = "`llamad devices` tells what the kernel shows"
    for path, index in asked:
        if index >= there:
            words = f"there is no GPU {index}: the machine shows {there}, counted from 0"
            if not there:
                words = "no GPU is visible on this machine"
            yield server.problem(words, "gpus", *path, hint=hint, kind=ProblemKind.WORLD)


def _indices(node: Node | None) -> Iterator[tuple[tuple[int, ...], int]]:
    """The GPUs that are given by index, in a list or in lists, each with its path."""
    if node is not None and isinstance(node.value, tuple):
        for at, item in enumerate(node.value):
            yield from (((at, *path), index) for path, index in _indices(item))
    elif node is not None and isinstance(node.value, int):
        yield (), node.value


def credential_problems(server: Written, reader: Reader) -> Iterator[Problem]:
    """Whether systemd gave the credentials that a server names; outside a service nobody can tell."""
    config = server.config
    named: list[tuple[tuple[str, ...], str]] = []
    named += [(("env_credentials", name), credential) for name, credential in config.env_credentials.items()]
    if config.api_key_credential:
        named.append((("api_key_credential",), config.api_key_credential))
    if reader.credentials is not None:
        for path, credential in named:
            if "/" in credential or not (reader.credentials / credential).is_file():
                hint = f"add LoadCredential={credential}:/etc/llamad/{credential} to the unit and restart it"
                yield server.problem(
                    f"the service has no credential {credential!r}", *path, hint=hint, kind=ProblemKind.WORLD
                )
    if config.api_key_file is not None:
        fault = file_fault(NamedFile(config.api_key_file, Use.READ), reader.environ)
        if fault is not None:
            yield server.problem(fault.message, "api_key_file", hint=fault.hint, kind=ProblemKind.WORLD)


def has_api_keys(keys_file: Path | None, reader: Reader) -> bool:
    """Whether the gateway will have an API key to ask for: one in `gateway.api_keys_file`, else one where the service
    has its keys. OSError where they cannot be read.
    """
    found = read_key_file(reader.key_files if keys_file is None else (keys_file,))
    if found is None:
        if keys_file is not None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return False
    lines = (line.strip() for line in found.data.decode("utf-8-sig", errors="replace").splitlines())
    return any(line and not line.startswith("#") for line in lines)
