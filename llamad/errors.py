"""The failures a caller can act on; each carries what a person needs and the exit code a script gets (sysexits.h)."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the `llamad` command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 64
    UNAVAILABLE = 69
    SOFTWARE = 70
    IO = 74
    NOT_ALLOWED = 77
    CONFIG = 78


NO_RESTART = frozenset({ExitCode.CONFIG, ExitCode.UNAVAILABLE})
"""What `llamad run` ends with where a restart would only fail again (the unit's RestartPreventExitStatus=): a
configuration that is wrong, and a `startup: strict` that has failed."""


class LlamadError(Exception):
    """Something an operator can mend: `message` says what is wrong and where, `hint` what to do about it, and
    `problems` are lines that say more, each complete.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = problems

    def __str__(self) -> str:
        return with_hint(self.message, self.hint)


def with_hint(message: str, hint: str | None) -> str:
    """Both in one line."""
    return message if hint is None else f"{message} ({hint})"


class UsageError(LlamadError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class ConfigError(LlamadError):
    """The configuration was not accepted; nothing was changed. `problems` say why."""

    exit_code = ExitCode.CONFIG


class UnavailableError(LlamadError):
    """The daemon is not there, or not able to answer."""

    exit_code = ExitCode.UNAVAILABLE


class NotAllowedError(LlamadError):
    """Who asks may not."""

    exit_code = ExitCode.NOT_ALLOWED


class UnknownServerError(LlamadError):
    """No server has that name or alias; `known` names those there are."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        there = ", ".join(known) if known else "none is configured"
        super().__init__(f"no server is called {name!r}", hint=f"there is: {there}" if known else there)
        self.name = name
        self.known = known


class ServerDownError(LlamadError):
    """A server has no ready replica and will not have one soon. `cause` is the failure's short name
    (`out-of-gpu-memory`, `stopped`), `retry_after` the seconds after which asking again makes sense, if ever.
    """

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, message: str, *, cause: str, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause
        self.retry_after = retry_after
