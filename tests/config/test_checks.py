from pathlib import Path

from llamad.config.checks import Written
from llamad.config.model import ServerConfig
from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.yamltree import parse_tree

FILE = Path("/x.yaml")
NODE, _ = parse_tree(FILE, "args:\n  ctx_size: 1\nextra_args: [x]\nport:\n")
assert NODE is not None
WRITTEN = Written("a", Position(FILE, 9, 9), NODE, NODE, ServerConfig(name="a"), frozenset({"port"}))


def test_a_problem_stands_at_the_deepest_value_that_was_written() -> None:
    place = {
        (): (9, 9),
        ("args", "ctx_size"): (2, 13),
        ("args", "nothing"): (2, 3),
        ("extra_args", 0): (3, 14),
        ("nothing", "at", "all"): (9, 9),
    }
    assert {path: WRITTEN.problem("x", *path).position for path in place} == {
        path: Position(FILE, *where) for path, where in place.items()
    }


def test_or_at_its_key() -> None:
    assert WRITTEN.problem("x", "args", "ctx_size", at_key=True).position == Position(FILE, 2, 3)
    assert WRITTEN.problem("x", "extra_args", 0, at_key=True).position == Position(FILE, 3, 14)


def test_a_problem_names_its_server() -> None:
    assert WRITTEN.problem("words", "args", "c", hint="do", kind=ProblemKind.WORLD) == Problem(
        Position(FILE, 2, 3), "servers.a.args.c", "words", ProblemKind.WORLD, "a", "do"
    )


def test_what_was_given_and_read() -> None:
    assert [WRITTEN.has(key) for key in ("args", "port", "model")] == [True, False, False]
    assert [WRITTEN.fine("args"), WRITTEN.fine("args", "port")] == [True, False]
