"""The last accepted configuration, kept as a copy: what a llamad that restarts goes on with where the files on disk are
broken by then, and what tells a file that was emptied from one that was always empty.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from llamad.config.files import DROP_INS
from llamad.config.loader import Loaded
from llamad.host.dirs import Directories
from llamad.host.files import read_bytes

log = logging.getLogger(__name__)
_FOLDER = "accepted"


def accepted_file(file: Path, directories: Directories) -> Path:
    """Where the copy of FILE is. Relative paths in it still start at FILE's folder: `load(..., copy_of=FILE)`."""
    return directories.runtime / _FOLDER / file.name


def keep_accepted(files: Iterable[Path], file: Path, directories: Directories) -> None:
    """Copy what was accepted, in one step: whoever dies on the way leaves the old copy. One that cannot be made costs
    only the comfort. Nothing is done where it is the copy itself that was read.
    """
    target = accepted_file(file, directories)
    files = tuple(files)
    if target in files:
        return
    try:
        fresh = Path(tempfile.mkdtemp(dir=directories.runtime, prefix=f"{_FOLDER}-"))  # for nobody else to read
        (fresh / DROP_INS).mkdir()
        for one in files:
            (fresh / _place(one, file)).write_bytes(read_bytes(one))
        link = directories.runtime / f"{_FOLDER}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(fresh.name)
        os.replace(link, target.parent)  # a folder could not be replaced in one step, a link to one can
    except OSError as error:
        log.warning("cannot keep a copy of the configuration: %s", error, extra={"event": "accepted-copy"})
    current = target.parent.resolve().name
    for old in directories.runtime.glob(f"{_FOLDER}-*"):
        if old.name != current:
            shutil.rmtree(old, ignore_errors=True)


def emptied(loaded: Loaded, running: Iterable[str], file: Path, directories: Directories) -> str | None:
    """The problem line where a file is empty by now and servers that run would end by it, which is a mistake and no
    wish; else None. One that is gone is a wish, and so is one that was accepted as empty.
    """
    if loaded.config is None or not set(running) - loaded.config.servers.keys():
        return None
    copies = accepted_file(file, directories).parent
    for one in loaded.files:
        copy = copies / _place(one, file)
        was_full = not _is_empty(copy) if copy.exists() else one == file
        if was_full and _is_empty(one):
            return f"{one}:1:1: the file is empty, but servers run: taken for a mistake"
    return None


def _place(one: Path, file: Path) -> Path:
    return Path(file.name) if one == file else Path(DROP_INS, one.name)


def _is_empty(path: Path) -> bool:
    try:
        return not read_bytes(path).strip()
    except OSError:
        return False
