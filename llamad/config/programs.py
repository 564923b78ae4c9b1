"""The programs that the servers of one configuration name, each asked once for its options."""

from collections.abc import Mapping
from pathlib import Path

from llamad.config.options import Binary, BinaryError, probe_binary


class Programs:
    """For one load. `cache` is the file that keeps answers, `environ` llamad's own environment."""

    def __init__(self, cache: Path, environ: Mapping[str, str]) -> None:
        self._cache = cache
        self._environ = environ
        self._answers: dict[tuple[str, tuple[tuple[str, str], ...]], Binary | BinaryError] = {}
        self._silent: dict[str, BinaryError] = {}

    def ask(self, program: str, env: Mapping[str, str]) -> Binary | BinaryError:
        """What it is, in a server's environment. One that did not answer in time is not asked again in another: a start
        has its own time limit.
        """
        if program in self._silent:
            return self._silent[program]
        asked = (program, tuple(sorted(env.items())))
        if asked not in self._answers:
            try:
                self._answers[asked] = probe_binary(program, cache=self._cache, environ=self._environ, env=env)
            except BinaryError as error:
                self._answers[asked] = error
                if error.passing:
                    self._silent[program] = error
        return self._answers[asked]
