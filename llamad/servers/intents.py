"""From an accepted configuration to what is to run. Pure."""

from collections.abc import Mapping
from pathlib import Path

from llamad.config.loader import Loaded
from llamad.config.model import Config, ServerConfig
from llamad.config.problems import Problem, ProblemKind
from llamad.servers.board import Failure
from llamad.servers.command import Launch, build_launch
from llamad.servers.plan import Intent


def intents(config: Config, loaded: Loaded) -> dict[str, Intent]:
    """What is wanted of each server. One whose program is not there, or does not know an option, gets its failure in
    the place of a launch: it does not run, but it is on the board with the reason.
    """
    return {name: _intent(server, config, loaded) for name, server in config.servers.items()}


def _intent(server: ServerConfig, config: Config, loaded: Loaded) -> Intent:
    if server.external:
        return Intent(server)
    full = server.model_copy(update={"llama_server": server.llama_server or config.llama_server})
    launch_or_failure = [_launch(full, index, loaded, config.models_dir) for index in range(server.replicas)]
    return Intent(full, tuple(launch_or_failure))


def _launch(server: ServerConfig, index: int, loaded: Loaded, models_dir: Path) -> Launch | Failure:
    problems = loaded.of(server.name)
    for problem in problems:
        if problem.kind is ProblemKind.OPTION:
            return _failure("unknown-option", problem)
    binary = loaded.binaries.get(server.name)
    if binary is None:
        for problem in problems:
            if problem.path.endswith("llama_server"):
                return _failure("binary-silent" if problem.passing else "binary-missing", problem)
        return Failure("binary-missing", f"{server.llama_server} is not usable", permanent=True)
    return build_launch(server, index, binary, models_dir)


def _failure(cause: str, problem: Problem) -> Failure:
    return Failure(cause, f"{problem.path}: {problem.message}", problem.hint, permanent=not problem.passing)


def refusals(loaded: Loaded, wanted: Mapping[str, Intent], running: Mapping[str, Intent]) -> tuple[Problem, ...]:
    """The problems for which a reload is refused: an option that the binary does not know, of any server; and what is
    wrong in the world with a server that runs (a typo must not stop a running model). What an equal server already
    had is no reason: it is not touched.
    """
    changed = {name for name in {*wanted, *running} if wanted.get(name) != running.get(name)}

    def refuses(problem: Problem) -> bool:
        if problem.kind is ProblemKind.TEXT:
            return True
        if problem.kind is ProblemKind.OPTION:
            return problem.server in changed
        return problem.kind is ProblemKind.WORLD and problem.server in changed and problem.server in running

    return tuple(filter(refuses, loaded.problems))
