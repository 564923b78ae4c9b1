"""The commands that need no daemon: they read the configuration, the models folder and the devices themselves."""

import json
import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamad.cli.terminal import warn
from llamad.control.documents import DevicesDocument, ModelsDocument
from llamad.control.wire import devices_document, models_document
from llamad.errors import ExitCode
from llamad.host.dirs import Directories, directories

if TYPE_CHECKING:
    from llamad.config.loader import Loaded
    from llamad.config.problems import Problem


_SHOWN = 3
"""Positions that the line which sums up names at most."""


def check(file: Path, *, as_json: bool) -> int:
    """`llamad check`: every problem on standard error, a line each, then one that says what comes of them; 0 or 78."""
    from llamad.config.loader import load
    from llamad.config.problems import told

    user = service_user(file, uid=os.geteuid())
    loaded = load(file, directories_for(file), environ=os.environ, service_user=user)
    servers = [] if loaded.config is None else list(loaded.config.servers)
    problems = (*loaded.problems, *_key_problems(loaded, file, user))
    code = ExitCode.CONFIG if problems else ExitCode.OK
    if as_json:
        report = {
            "file": str(file),
            "files": [str(one) for one in loaded.files],
            "ok": not problems,
            "servers": servers,
            "problems": [_problem_document(problem) for problem in problems],
        }
        print(json.dumps(report, indent=2))
        return code
    if problems:
        warn([*told(problems), _verdict(problems)])
    else:
        print(f"{file}: OK, {_counted(len(servers), 'server')}")
    return code


def _verdict(problems: "Sequence[Problem]") -> str:
    """How many problems there are, and what becomes of a configuration that has them."""
    from llamad.config.problems import ProblemKind, told

    lines, harmless = told(problems), told(one for one in problems if one.kind is ProblemKind.WORLD)
    refusing = len(lines) - len(harmless)
    if not harmless:
        end = "the configuration is refused"
    elif not refusing:
        end = "the configuration is accepted all the same, and what this concerns does not work until it is mended"
    else:
        places = list(dict.fromkeys(str(one.position) for one in problems if one.kind is not ProblemKind.WORLD))
        because = ", ".join(places) if len(places) <= _SHOWN else f"{refusing} of them"
        end = f"the configuration is refused because of {because}"
    return f"{_counted(len(lines), 'problem')}: {end}"


def _key_problems(loaded: "Loaded", file: Path, user: str | None) -> "list[Problem]":
    """What is wrong in the file of API keys, or in the one that the service of `user` has its credential from."""
    from llamad.gateway.keys import load_keys

    if loaded.config is None or any(problem.path == "gateway.api_keys_file" for problem in loaded.problems):
        return []
    environ = os.environ if user is None else {"CREDENTIALS_DIRECTORY": str(file.parent)}
    return load_keys(loaded.config.gateway, environ)[1]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _problem_document(problem: "Problem") -> dict[str, object]:
    return {
        "file": str(problem.position.file),
        "line": problem.position.line,
        "column": problem.position.column,
        "path": problem.path,
        "message": problem.message,
        "kind": problem.kind.value,
        "server": problem.server,
        "hint": problem.hint,
    }


def directories_for(file: Path) -> Directories:
    """The directories of the llamad that will run `file`: the system's service for one below /etc, whoever checks it
    (relative model paths start in the service's state directory, not in the user's).
    """
    uid = 0 if _is_the_systems(file) else os.geteuid()
    return directories(os.environ, uid=uid)


def service_user(file: Path, *, uid: int) -> str | None:
    """For whom root checks `file`: the user of the system's service, where there is one; else nobody else."""
    if uid != 0 or not _is_the_systems(file):
        return None
    try:
        return pwd.getpwnam("llamad").pw_name
    except KeyError:
        return None


def _is_the_systems(file: Path) -> bool:
    return file.absolute().is_relative_to("/etc")


def print_schema() -> int:
    """`llamad schema`: the JSON Schema of the configuration."""
    from llamad.config.schema import schema

    print(json.dumps(schema(), indent=2))
    return ExitCode.OK


def models_in(folder: Path) -> ModelsDocument:
    """What `llamad models` shows without a daemon."""
    from llamad.servers.models import ModelsFolderError, scan

    try:
        return models_document(folder, scan(folder), {}, configs={})
    except ModelsFolderError as error:
        return models_document(folder, (), {}, configs={}, error=str(error))


def devices_here() -> DevicesDocument:
    """What `llamad devices` shows without a daemon."""
    from llamad.host.devices import read_devices

    return devices_document(read_devices(), {})
