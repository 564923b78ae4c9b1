"""What becomes of a configuration, in the words that every place uses."""

from pathlib import Path

import pytest

from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.verdict import Verdict


def a_problem(number: int, kind: ProblemKind = ProblemKind.TEXT, *, file: str = "/x.yaml") -> Problem:
    return Problem(Position(Path(file), number, 1), "", f"wrong {number}", kind)


TEXTS = tuple(a_problem(number) for number in range(1, 5))
WORLD, REMARK = a_problem(7, ProblemKind.WORLD), a_problem(8, ProblemKind.REMARK)


@pytest.mark.parametrize(
    ("verdict", "code", "summary", "status"),
    [
        (Verdict(), 0, "the configuration is accepted", None),
        (Verdict((REMARK,)), 0, "the configuration is accepted", None),
        (
            Verdict((WORLD, REMARK)),
            1,
            "1 problem: the configuration is accepted all the same, but what they name does not work yet",
            None,
        ),
        (
            Verdict((TEXTS[0], WORLD, REMARK), TEXTS[:1]),
            78,
            "2 problems: the configuration is refused because of /x.yaml:1:1",
            "configuration refused: /x.yaml:1:1: wrong 1 (and 1 more)",
        ),
        (
            Verdict(TEXTS, TEXTS),
            78,
            "4 problems: the configuration is refused because of 4 of them, in /x.yaml",
            "configuration refused: /x.yaml:1:1: wrong 1 (and 3 more)",
        ),
        (
            Verdict((WORLD,), (WORLD,)),
            78,
            "1 problem: the configuration is refused because of /x.yaml:7:1",
            "configuration refused: /x.yaml:7:1: wrong 7",
        ),
    ],
)
def test_what_comes_of_it(verdict: Verdict, code: int, summary: str, status: str | None) -> None:
    assert (verdict.exit_code, verdict.summary, verdict.status) == (code, summary, status)
    assert verdict.lines == tuple(str(one) for one in verdict.problems)


def test_of_many_files_some_are_named() -> None:
    many = tuple(a_problem(1, file=f"/{name}.yaml") for name in "abcde")
    assert Verdict(many, many).summary.endswith("because of 5 of them, in /a.yaml, /b.yaml, /c.yaml and 2 more")
