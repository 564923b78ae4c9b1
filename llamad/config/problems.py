"""What can be wrong with a configuration, and where."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from llamad.errors import with_hint


class ProblemKind(Enum):
    """What a problem stops."""

    TEXT = "text"
    """Wrong in the file: nothing of the file is accepted."""
    OPTION = "option"
    """An option the binary does not know: refuses a reload; at a start it fails its server only."""
    WORLD = "world"
    """Wrong on the machine (model not there, binary missing): fails its server; refuses a reload that would stop a
    running one.
    """
    REMARK = "remark"
    """Worth knowing; stops nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `path` is the key path (`servers.qwen.args.ctx-size`); `server` the server it
    concerns, where it concerns one; `hint` what to do, where the message does not already say it.
    """

    position: Position
    path: str
    message: str
    kind: ProblemKind = ProblemKind.TEXT
    server: str | None = None
    hint: str | None = None
    passing: bool = False
    """It may be over by itself: worth another try."""

    def __str__(self) -> str:
        where = f"{self.position}: {self.path}: " if self.path else f"{self.position}: "
        return where + with_hint(self.message, self.hint)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one argument or variable of a server, at a key path within it (`args.ctx_size`,
    `extra_args.0`). `at_key`: it is the key, not its value, that is wrong.
    """

    path: tuple[str | int, ...]
    message: str
    hint: str | None = None
    at_key: bool = True
    kind: ProblemKind = ProblemKind.OPTION


def told(problems: Iterable[Problem]) -> tuple[str, ...]:
    """The lines of these problems; what several servers have in common (their program is not there) is one line."""
    return tuple(dict.fromkeys(map(str, problems)))
