"""Options of llama-server whose value names a file or a folder: which, for what, and what becomes of a relative one.
Pure.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from llamad.config.helptext import Option


class Use(Enum):
    """What llama-server does with a path, and so what has to be there."""

    MODEL = "model"
    """The server's own model."""
    READ = "file"
    """It reads that file."""
    FOLDER = "folder"
    """It reads files in that folder."""
    WRITTEN = "written file"
    """It writes that file, which need not exist."""
    FILLED = "written folder"
    """It writes into that folder, which has to exist."""
    MADE = "made folder"
    """It writes into that folder, and makes it."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A path that a server's configuration names."""

    path: Path
    use: Use


_ARGUMENT = re.compile(r"(^|_)(FNAME|FILE|PATH|DIR)\b")
_FOLDERS = ("--path", "--media-path")
_OUTPUTS = {
    "--log-file": Use.WRITTEN,
    "--lookup-cache-dynamic": Use.WRITTEN,
    "--prompt-cache": Use.WRITTEN,
    "--output": Use.WRITTEN,
    "--slot-save-path": Use.FILLED,
    "--log-prompts-dir": Use.MADE,
    "--logdir": Use.MADE,
}
_REMOTE = re.compile(r"--(spec-draft-)?hf-")
"""These name files of a repository."""


@lru_cache(maxsize=1024)
def use_of(option: Option) -> Use | None:
    """What the option's value names, where that is a file or a folder of this machine."""
    argument = option.argument
    if argument is None or any(_REMOTE.match(spelling) for spelling in option.spellings):
        return None
    for spelling in option.spellings:
        if spelling in _OUTPUTS:
            return _OUTPUTS[spelling]
    if not _ARGUMENT.search(argument) and not any(spelling.endswith("-file") for spelling in option.spellings):
        return None
    is_folder = any(one in _FOLDERS or one.endswith("-dir") for one in option.spellings) or argument == "DIR"
    return Use.FOLDER if is_folder else Use.READ


def is_output(use: Use) -> bool:
    """Whether llama-server writes there."""
    return use in (Use.WRITTEN, Use.FILLED, Use.MADE)


def resolved(option: Option, text: str, folder: Path) -> str:
    """The value with each relative path in it begun at `folder`."""
    pieces = [f"{folder / path}{rest}" if path else rest for path, rest in _pieces(option, text)]
    return (option.separator or "").join(pieces)


def named_files(option: Option, text: str, folder: Path) -> Iterator[NamedFile]:
    """The files and folders that a value of the option names."""
    use = use_of(option)
    if use is not None:
        yield from (NamedFile(folder / path, use) for path, _ in _pieces(option, text) if path)


def _pieces(option: Option, text: str) -> Iterator[tuple[str, str]]:
    """Each path of a value, and what follows it there (`:0.5` of FNAME:SCALE)."""
    scaled = ":SCALE" in (option.argument or "")
    for one in text.split(option.separator) if option.separator else (text,):
        match = re.fullmatch(r"(.*)(:[-+.\deE]+)", one) if scaled else None
        yield (match[1], match[2]) if match else (one, "")
