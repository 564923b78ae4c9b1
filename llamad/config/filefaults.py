"""What is wrong with a file or a folder that a server's configuration names. It looks at the disk: call it in a
thread.
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamad.config.optionfiles import NamedFile, Use
from llamad.host.files import open_regular, within
from llamad.host.gguf import GgufError, read_header, split_part
from llamad.host.sandbox import hidden_hint, unreadable_hint

_MOST_PARTS = 999
"""Of a split model; a name that speaks of more is somebody's own."""
_FETCH_AGAIN = "llama.cpp loads whole GGUF files only: fetch it again"
_SANDBOX = "as a service, llamad writes below /var/lib/llamad and where ReadWritePaths= of the unit allows"


@dataclass(frozen=True, slots=True)
class FileFault:
    """`kind` is missing, unreadable, corrupt or unwritable; with `passing` it may be over by itself."""

    kind: str
    path: Path
    words: str
    hint: str | None = None
    passing: bool = False

    @property
    def message(self) -> str:
        """The path and what is wrong with it."""
        return f"{self.path} {self.words}"


def parts_of(path: Path) -> list[Path]:
    """All files of a split model (`name-00001-of-0000N.gguf`), which llama-server finds by itself; else only `path`."""
    part = split_part(path.name)
    if part is None or part.count > _MOST_PARTS:
        return [path]
    numbers = range(1, part.count + 1)
    return list(dict.fromkeys([path, *(path.with_name(replace(part, number=one).file_name) for one in numbers)]))


def first_part(path: Path) -> Path | None:
    """The file to name in the place of another part of a split model; None where `path` is the right one."""
    part = split_part(path.name)
    if part is None or part.count > _MOST_PARTS or part.number == 1:
        return None
    return path.with_name(replace(part, number=1).file_name)


def file_fault(named: NamedFile, environ: Mapping[str, str]) -> FileFault | None:
    """Why llama-server cannot use what is named; None where nothing is wrong with it."""
    if named.use in (Use.MODEL, Use.READ):
        faults = (_read_fault(one, named.use, environ) for one in parts_of(named.path))
        return next((fault for fault in faults if fault is not None), None)
    try:
        return within(named.path, lambda: _place_fault(named.path, named.use, environ))
    except OSError as error:  # a disk that does not answer
        return _open_fault(named.path, environ, error)


def _read_fault(path: Path, use: Use, environ: Mapping[str, str]) -> FileFault | None:
    try:
        if use is Use.MODEL or path.suffix.lower() == ".gguf":
            read_header(path)
        else:
            within(path, lambda: os.close(open_regular(path)))
    except IsADirectoryError:
        words = "is a folder, not a model" if use is Use.MODEL else "is a folder, not a file"
        return FileFault("missing", path, words, "name the .gguf file in it" if use is Use.MODEL else None)
    except OSError as error:
        return _open_fault(path, environ, error)
    except GgufError as error:
        return FileFault("corrupt", path, f"is not usable: {error}", _FETCH_AGAIN)
    return None


def _open_fault(path: Path, environ: Mapping[str, str], error: OSError) -> FileFault:
    words = f"cannot be read: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return FileFault("missing", path, "is not there", _missing_hint(path, environ))
    if isinstance(error, PermissionError):
        return FileFault("unreadable", path, "cannot be read: permission denied", unreadable_hint(path, environ))
    if error.errno in (
        errno.EINVAL,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    ):  # no other look will find it better
        return FileFault("unreadable", path, words)
    return FileFault("unreadable", path, words, "look at the disk", passing=True)


def _place_fault(path: Path, use: Use, environ: Mapping[str, str]) -> FileFault | None:
    """Of what is no file to read."""
    if use is Use.FOLDER:
        return _folder_fault(path, environ, os.R_OK | os.X_OK)
    if use is Use.FILLED or (path.is_dir() and use is Use.MADE):
        return _folder_fault(path, environ, os.W_OK | os.X_OK)
    if path.is_dir():
        return FileFault("unwritable", path, "is a folder, not a file")
    if path.exists():
        return None if os.access(path, os.W_OK) and use is Use.WRITTEN else _unwritable(path)
    return _folder_fault(path.parent, environ, os.W_OK | os.X_OK)


def _missing_hint(path: Path, environ: Mapping[str, str]) -> str | None:
    if "~" in path.parts or any(part.startswith("$") for part in path.parts):
        return f"{'~ is' if '~' in path.parts else 'variables are'} not expanded: write the whole path"
    if "http:" in path.parts or "https:" in path.parts:
        return "a URL is no file: fetch it, and write where it is"
    return hidden_hint(path, environ)


def _folder_fault(path: Path, environ: Mapping[str, str], access: int) -> FileFault | None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _open_fault(path, environ, error)
    if not stat.S_ISDIR(mode):
        return FileFault("missing", path, "is not a folder")
    if os.access(path, access):
        return None
    if access & os.W_OK:
        return _unwritable(path)
    return FileFault("unreadable", path, "cannot be read: permission denied", unreadable_hint(path, environ))


def _unwritable(path: Path) -> FileFault:
    return FileFault("unwritable", path, "cannot be written by llamad", _SANDBOX)
