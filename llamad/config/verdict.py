"""What becomes of a configuration with its problems, in the words that every place uses: `check`, `plan`, `reload`, a
start, STATUS=. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llamad.config.problems import Problem, ProblemKind, told
from llamad.errors import ExitCode

_SHOWN = 3
"""Places that the line which sums up names at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problems` are all, in the order of the files; `refused` those of them for which it is not accepted."""

    problems: tuple[Problem, ...] = ()
    refused: tuple[Problem, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """Every problem, a line each."""
        return told(self.problems)

    @property
    def exit_code(self) -> ExitCode:
        """78 where it is refused, 1 where it is accepted and something of it would not work, else 0."""
        if self.refused:
            return ExitCode.CONFIG
        return ExitCode.FAILED if _harmful(self.problems) else ExitCode.OK

    @property
    def summary(self) -> str:
        """One line: how many problems there are, what comes of them, and because of which."""
        harmful = told(_harmful(self.problems))
        count = f"{len(harmful)} problem{'' if len(harmful) == 1 else 's'}"
        if self.refused:
            return f"{count}: the configuration is refused because of {_places(self.refused)}"
        if harmful:
            return f"{count}: the configuration is accepted all the same, but what they name does not work yet"
        return "the configuration is accepted"

    @property
    def status(self) -> str | None:
        """For STATUS=, which has room for one line; None where it is accepted."""
        if not self.refused:
            return None
        more = len(told(_harmful(self.problems))) - 1
        return f"configuration refused: {self.refused[0]}" + (f" (and {more} more)" if more else "")


def _harmful(problems: Iterable[Problem]) -> list[Problem]:
    return [one for one in problems if one.kind is not ProblemKind.REMARK]


def _places(refused: tuple[Problem, ...]) -> str:
    """The places at fault; their files, where they are many."""
    places = list(dict.fromkeys(str(one.position) for one in refused))
    if len(places) <= _SHOWN:
        return ", ".join(places)
    files = list(dict.fromkeys(str(one.position.file) for one in refused))
    named = ", ".join(files[:_SHOWN]) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
    return f"{len(told(refused))} of them, in {named}"
