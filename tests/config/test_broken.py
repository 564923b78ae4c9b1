"""Broken configurations, each with every line that `llamad check` prints about it.

A case is the file, then `=>`, then the problems as `LINE:COL: path: message`; `~~` is the machine's root.
"""

import re
from pathlib import Path

import pytest

from llamad.config.problems import ProblemKind
from tests.config.files import a_place

CASES = Path(__file__).with_name("broken.txt")
CASE = re.compile(r"^=== (.+)\n((?:.*\n)*?)=>\n((?:.*\n)*?)(?=^===|\Z)", re.MULTILINE)


def _cases() -> list[tuple[str, str, list[str]]]:
    return [(name, text, lines.splitlines()) for name, text, lines in CASE.findall(CASES.read_text())]


@pytest.mark.parametrize(("text", "expected"), [pytest.param(text, lines, id=name) for name, text, lines in _cases()])
def test_every_problem_is_told(tmp_path: Path, text: str, expected: list[str]) -> None:
    place = a_place(tmp_path)
    loaded = place.load(text)
    assert place.lines(loaded) == expected
    assert (loaded.config is None) == any(one.kind is ProblemKind.TEXT for one in loaded.problems)
    assert all(one.server is not None for one in loaded.problems if one.kind is ProblemKind.OPTION)


def test_the_table_is_read_whole() -> None:
    cases = _cases()
    assert len(cases) == CASES.read_text().count("\n=>\n")
    assert len(cases) >= 100
    assert all(lines for _, _, lines in cases)
