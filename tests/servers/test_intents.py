"""From an accepted configuration to what is to run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamad.config.files import Files
from llamad.config.loader import Loaded
from llamad.config.model import Config, ServerConfig
from llamad.config.options import Binary, parse_help
from llamad.config.problems import Position, Problem, ProblemKind
from llamad.servers.board import Failure
from llamad.servers.command import Launch
from llamad.servers.intents import intents, refusals
from llamad.servers.plan import Intent
from tests.stories import a_server, an_intent

HELP = (Path(__file__).parents[1] / "config" / "llama-server-help.txt").read_text()
BINARY = Binary(Path("/opt/llama-server"), 1, 2, parse_help(HELP))


def a_problem(path: str, kind: ProblemKind, server: str | None = "a") -> Problem:
    return Problem(Position(Path("x.yaml"), 1, 1), path, "is wrong", kind, server, hint="mend it")


def a_config(*servers: ServerConfig, **more: Any) -> Config:
    return Config(models_dir=Path("/models"), servers={one.name: one for one in servers}, **more)


def loaded(*problems: Problem, binaries: Mapping[str, Binary] | None = None) -> Loaded:
    return Loaded(None, problems, Files(Path("/x"), {}), {"a": BINARY} if binaries is None else binaries)


def test_each_replica_has_its_launch() -> None:
    wanted = intents(a_config(a_server(replicas=2, port=9000)), loaded())
    launches = wanted["a"].launches
    assert [launch.port.port for launch in launches if isinstance(launch, Launch) and launch.port] == [9000, 9001]


def test_the_program_is_the_servers_own_or_the_one_for_all() -> None:
    own = a_server("b", llama_server="/own")
    wanted = intents(a_config(a_server(), own, llama_server="/all"), loaded(binaries={"a": BINARY, "b": BINARY}))
    assert [wanted[name].config.llama_server for name in "ab"] == ["/all", "/own"]


def test_an_external_server_has_no_launch() -> None:
    server = a_server(url="http://10.0.0.1")
    assert intents(a_config(server), loaded(binaries={})) == {"a": Intent(server)}


@pytest.mark.parametrize(
    ("problem", "binaries", "cause", "message"),
    [
        (a_problem("servers.a.args.x", ProblemKind.OPTION), None, "unknown-option", "servers.a.args.x: is wrong"),
        (a_problem("llama_server", ProblemKind.WORLD), {}, "binary-missing", "llama_server: is wrong"),
        (a_problem("servers.a.model", ProblemKind.WORLD), {}, "binary-missing", "llama-server is not usable"),
    ],
)
def test_what_cannot_be_launched_has_its_reason(
    problem: Problem, binaries: dict[str, Binary] | None, cause: str, message: str
) -> None:
    (failure,) = intents(a_config(a_server()), loaded(problem, binaries=binaries))["a"].launches
    assert isinstance(failure, Failure)
    assert (failure.cause, failure.message, failure.permanent) == (cause, message, True)


def test_a_program_that_did_not_answer_in_time_is_tried_again() -> None:
    problem = replace(a_problem("llama_server", ProblemKind.WORLD), passing=True)
    (failure,) = intents(a_config(a_server()), loaded(problem, binaries={}))["a"].launches
    assert isinstance(failure, Failure)
    assert (failure.cause, failure.permanent) == ("binary-silent", False)


def test_a_missing_model_is_left_to_the_start() -> None:
    problem = a_problem("servers.a.model", ProblemKind.WORLD)
    assert isinstance(intents(a_config(a_server()), loaded(problem))["a"].launches[0], Launch)


OLD, NEW = an_intent("a"), an_intent("a", aliases=("x",))


@pytest.mark.parametrize(
    ("kind", "server", "running", "refused"),
    [
        (ProblemKind.TEXT, None, {"a": NEW}, True),
        (ProblemKind.TEXT, "a", {"a": NEW}, True),
        (ProblemKind.OPTION, "a", {"a": OLD}, True),
        (ProblemKind.OPTION, "a", {}, True),
        (ProblemKind.OPTION, "a", {"a": NEW}, False),
        (ProblemKind.WORLD, "a", {"a": OLD}, True),
        (ProblemKind.WORLD, "a", {}, False),
        (ProblemKind.WORLD, "a", {"a": NEW}, False),
        (ProblemKind.WORLD, None, {"a": OLD}, False),
        (ProblemKind.REMARK, "a", {"a": OLD}, False),
    ],
)
def test_what_refuses_a_reload(
    kind: ProblemKind, server: str | None, running: dict[str, Intent], *, refused: bool
) -> None:
    problem = a_problem("servers.a.model", kind, server)
    assert refusals(loaded(problem), {"a": NEW}, running) == ((problem,) if refused else ())
