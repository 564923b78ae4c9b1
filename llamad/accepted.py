"""The last accepted configuration, kept as a copy: what a llamad that restarts goes on with where the files on disk are
broken by then, and what tells a file that was emptied from one that was always empty.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llamad.config.files import DROP_INS, Files, read_disk
from llamad.config.loader import Loaded
from llamad.config.problems import Position, Problem
from llamad.host.dirs import Directories

log = logging.getLogger(__name__)
_FOLDER = "accepted"
_MISTAKE = "but servers run: taken for a mistake"


def keep_accepted(files: Files, directories: Directories) -> None:
    """Keep what was accepted, in one step: whoever dies on the way leaves the old copy. One that cannot be made costs
    only the comfort.
    """
    target = directories.runtime / _FOLDER
    try:
        try:
            _copy(files, target)
        finally:
            _remove_older(target)
    except OSError as error:
        log.warning(
            "cannot keep a copy of the configuration: %s", error.strerror or error, extra={"event": "accepted-copy"}
        )


def _copy(files: Files, target: Path) -> None:
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{_FOLDER}-"))  # for nobody else to read
    (fresh / DROP_INS).mkdir()
    for path, data in files.contents.items():
        (fresh / _place(path, files.main, files.main.name)).write_bytes(data)
    link = target.parent / f"{_FOLDER}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    os.replace(link, target)  # a folder could not be replaced in one step, a link to one can


def _remove_older(target: Path) -> None:
    current = target.resolve().name
    for old in target.parent.glob(f"{_FOLDER}-*"):
        if old.name != current:
            shutil.rmtree(old, ignore_errors=True)


def read_accepted(file: Path, directories: Directories) -> Files | None:
    """What was accepted last of FILE and its drop-ins, under the names that they had; None where there is no copy that
    can be read. It reads: call it in a thread.
    """
    copy = read_disk(directories.runtime / _FOLDER / file.name)
    if copy.main not in copy.contents:
        return None
    contents = {file.parent / path.relative_to(copy.main.parent): data for path, data in copy.contents.items()}
    return replace(copy, main=file, contents=contents, problems=())


def mistakes(loaded: Loaded, running: Iterable[str], accepted: Files | None) -> tuple[Problem, ...]:
    """What is no wish although it could be read as one: servers that run would end since a file is empty by now, or the
    folder of the drop-ins is gone. A drop-in that is gone is a wish, and so is a file that was accepted as empty.
    """
    files = loaded.files
    if loaded.config is None or not set(running) - loaded.config.servers.keys():
        return ()
    before = {Path(files.main.name): b"?"}
    if accepted is not None:  # a draft stands for it, which may be elsewhere and have another name
        before = {_place(path, accepted.main, files.main.name): data for path, data in accepted.contents.items()}
    empty = (
        path
        for path, data in files.contents.items()
        if not data.strip() and before.get(_place(path, files.main, files.main.name), b"").strip()
    )
    found = [
        Problem(Position(path, 1, 1), "", f"the file is empty, {_MISTAKE}", hint="to stop them, write `servers: {}`")
        for path in empty
    ]
    folder = files.main.parent / DROP_INS
    if not files.has_folder and any(path.parent.name for path in before):
        hint = "to stop its servers, leave the folder there and empty"
        found.append(Problem(Position(folder, 1, 1), "", f"the folder is gone, {_MISTAKE}", hint=hint))
    return tuple(found)


def _place(path: Path, main: Path, name: str) -> Path:
    """Where a file stands beside the first one, which is called `name`."""
    return Path(name) if path == main else Path(DROP_INS, path.name)
