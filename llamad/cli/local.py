"""What the commands look at themselves, without a daemon: the configuration, the models folder, the devices."""

import json
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from llamad.cli.terminal import warn
from llamad.control.documents import DevicesDocument, ModelsDocument
from llamad.control.wire import check_document, devices_document, models_document
from llamad.errors import ConfigError, ExitCode, LlamadError, UnavailableError
from llamad.host.dirs import Directories, directories, own_directories
from llamad.host.files import status
from llamad.host.users import become_owner_of

if TYPE_CHECKING:
    from llamad.control.client import Client, Document


_NOBODY = "no llamad answers"
_VIEWS = {
    "llamad": "as the running llamad sees it",
    "service": "as its service would see it",
    "self": "as you see it",
}


def check(file: Path | None, default: Path, client: "Client", *, as_json: bool) -> int:
    """`llamad check`: every problem on standard error, a line each, then one that says what comes of them; 0, 1 or 78.
    The running llamad is asked, of its own configuration where no FILE is named; where none answers, this process looks
    itself, at `default` where no FILE is named.
    """
    report, why = _as_llamad_sees_it(file, client)
    if report is None:
        report = _as_seen_here(default if file is None else _whole(file, default.name), alone=why == _NOBODY)
    if as_json:
        print(json.dumps(report, indent=2))
        return int(report["exit_code"])
    view = _VIEWS[report["view"]] + (f"; {why}" if why else "")
    if report["view"] == "self" and os.geteuid() != 0 and _is_the_systems(Path(report["file"])):
        view += "; sudo llamad check tells how its service would see it"
    if report["lines"]:
        warn([*report["lines"], f"{report['summary']} ({view})"])
    else:
        print(f"{report['file']}: OK, {_counted(len(report['servers']), 'server')} ({view})")
    return int(report["exit_code"])


def _as_llamad_sees_it(file: Path | None, client: "Client") -> "tuple[Document | None, str | None]":
    """What the running llamad says; where none does, why."""
    try:
        return client.post("check", body=None if file is None else files_of(file)), None
    except UnavailableError:
        return None, _NOBODY
    except LlamadError as error:
        not_allowed = error.exit_code == ExitCode.NOT_ALLOWED
        return None, "you may not ask llamad" if not_allowed else f"llamad was not asked: {error.message}"


def _whole(file: Path, name: str) -> Path:
    """The first file of the configuration that FILE is a drop-in of; FILE where it is none."""
    from llamad.config.files import DROP_INS, is_drop_in

    folder = file.absolute().parent
    main = folder.parent / name
    try:
        status(main)
    except OSError:  # then it is read for itself
        return file
    return main if folder.name == DROP_INS and is_drop_in(file) else file


def files_of(file: Path) -> "Document":
    """A configuration to be judged in the place of the one on disk, as the control socket takes it; ConfigError where
    it cannot be read.
    """
    from llamad.config.files import read_disk
    from llamad.config.problems import ProblemKind, told

    files = read_disk(file.absolute())
    if unread := told(one for one in files.problems if one.kind is ProblemKind.TEXT):
        raise ConfigError(f"{file} cannot be read", problems=unread)
    contents = {str(path): data.decode(errors="surrogateescape") for path, data in files.contents.items()}
    return {"file": str(files.main), "files": contents}


def _as_seen_here(file: Path, *, alone: bool) -> "Document":
    """What this process sees; `alone`: no llamad runs, whose ports could be taken for somebody else's."""
    from llamad.config.keyfiles import where_keys_are
    from llamad.config.loader import load
    from llamad.config.problems import ProblemKind
    from llamad.config.verdict import Verdict
    from llamad.gateway.bind import listen_problems
    from llamad.gateway.keys import load_keys
    from llamad.host.address import UnixAddress

    user = service_user(file, uid=os.geteuid())
    if user is not None:  # root runs no program that the service's user may have put there
        become_owner_of(directories_for(file).state)
    key_files = where_keys_are(file, os.environ, user)
    loaded = load(file, directories_for(file), environ=os.environ, service_user=user, key_files=key_files)
    config, problems = loaded.config, loaded.problems
    if config is not None and not any(problem.path == "gateway.api_keys_file" for problem in problems):
        problems += tuple(load_keys(config.gateway, key_files)[1])
    if config is not None and alone:  # the folder of a unix socket may be one that the service makes
        sockets = [one for one in config.gateway.listen if isinstance(one, UnixAddress)]
        problems += tuple(listen_problems(loaded, dict.fromkeys(sockets, ())))
    # no llamad runs that could refuse more than this
    refused = tuple(one for one in problems if one.kind in (ProblemKind.TEXT, ProblemKind.OPTION))
    servers = () if config is None else tuple(config.servers)
    view = "self" if user is None else "service"
    return dict(check_document(view, file.absolute(), loaded.files.contents, servers, Verdict(problems, refused)))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


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


def models_folder(file: Path) -> Path:
    """The folder of models of the configuration FILE; the usual one where it names none or cannot be read."""
    from llamad.config.loader import models_dir

    try:
        status(file)
    except OSError:  # there is none, or not for us
        return own_directories().models
    return models_dir(file, directories_for(file))


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
