"""What is said of a text that is no YAML: the parser's words are for those who wrote parsers, and often point to where
it noticed, not to where the mistake is. Pure.
"""

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import yaml

from llamad.config.problems import Position, Problem
from llamad.config.unseen import unseen_at, unseen_words

_COLON = re.compile(r":(\s|$)")
_VALUE = re.compile(r":\s+[^\s#|>&]")
_NO_SPACE = re.compile(r"\s*(?:- )?([\w-]+):(?!//)([^\s:].*)")
_NO_MAPPING_HERE = ("mapping values are not allowed here", "mapping values are not allowed in this context")
_BLOCK_FOUND = re.compile(r"but found '<block (mapping|sequence) start>'")
_CONFLICT = re.compile(r"<{7} ")
_CLOSING = {"[": "]", "{": "}"}

Said = tuple[int, int, str]
"""Line and column (from 0), and what is wrong there."""


def syntax_problem(file: Path, text: str, error: yaml.YAMLError) -> Problem:
    """Why `text` is no YAML, in an operator's words and where the mistake is; in the parser's words where it is none of
    the usual ones.
    """
    if isinstance(error, yaml.MarkedYAMLError):
        line, column, words = _said(text, error)
    else:  # a ReaderError: a character YAML does not allow
        before = text[: getattr(error, "position", 0)]
        line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
        words = f"this is not valid YAML: the character {text[len(before) : len(before) + 1]!r} is not allowed"
    return Problem(Position(file, line + 1, column + 1), "", words)


def _said(text: str, error: yaml.MarkedYAMLError) -> Said:
    lines = text.splitlines()
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    conflict = next((at for at, one in enumerate(lines) if _CONFLICT.match(one)), None)
    if conflict is not None and conflict <= line:
        return conflict, 0, "the marks of a merge (git) stand here: write what is to hold in their place"
    if line < len(lines) and lines[line][column : column + 1] == "\t":
        return line, column, "a tab: YAML is indented with spaces only"
    for near in (line, _above(lines, line)):  # what has the wrong indent is often noticed in the next line
        if near is not None and near < len(lines) and (at := unseen_at(lines[near])) is not None:
            return near, at, unseen_words(lines[near][at])
    for usual in (_unclosed_quote, _unclosed_bracket, _missing_colon, _second_colon, _indent, _reserved):
        if (said := usual(text, lines, error, line, column)) is not None:
            return said
    words = " ".join(part for part in (error.context, error.problem) if part)
    return line, column, f"this is not valid YAML: {words}"


def no_space(text: str) -> str | None:
    """What to do about `key:value`, which YAML takes for one text; None for any other text."""
    match = _NO_SPACE.fullmatch(text)
    return match and f"put a space after the colon: {match[1]}: {match[2]}"


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def _above(lines: list[str], line: int) -> int | None:
    """The nearest line above that holds something."""
    return next((at for at in range(min(line, len(lines)) - 1, -1, -1) if lines[at].split("#")[0].strip()), None)


def _tokens(text: str) -> Iterator[yaml.Token]:
    """The tokens as far as there are any."""
    with suppress(yaml.YAMLError):
        yield from yaml.scan(text, Loader=yaml.SafeLoader)


def _unclosed_quote(text: str, _lines: list[str], error: yaml.MarkedYAMLError, _line: int, _column: int) -> Said | None:
    problem, opened = str(error.problem), error.context_mark
    if problem == "found unexpected end of stream" and opened is not None:
        return opened.line, opened.column, "the quote that opens here is never closed"
    mark = error.problem_mark
    if "'<scalar>'" not in problem or mark is None:
        return None
    before = deque(takewhile(lambda token: token.start_mark.index < mark.index, _tokens(text)), maxlen=1)
    quoted = before.pop() if before else None
    if not isinstance(quoted, yaml.ScalarToken) or quoted.style not in ("'", '"'):
        return None
    first, last = quoted.start_mark, quoted.end_mark
    if first.line == last.line:
        return mark.line, mark.column, "text after a closing quote: the quotes have to hold all of it"
    return first.line, first.column, f"the quote that opens here is not closed before line {last.line + 1}"


def _unclosed_bracket(
    _text: str, lines: list[str], error: yaml.MarkedYAMLError, line: int, _column: int
) -> Said | None:
    opened = error.context_mark
    if not str(error.context).startswith("while parsing a flow") or opened is None:
        return None
    bracket = lines[opened.line][opened.column : opened.column + 1] if opened.line < len(lines) else ""
    if bracket not in _CLOSING or (line == opened.line and "stream end" not in str(error.problem)):
        return None
    return opened.line, opened.column, f"the '{bracket}' that opens here is never closed with '{_CLOSING[bracket]}'"


def _missing_colon(_text: str, lines: list[str], error: yaml.MarkedYAMLError, line: int, column: int) -> Said | None:
    """The parser notices a key without its `:` at the next `:` only, and takes all that is before it for one text."""
    key: int | None
    if error.problem == "could not find expected ':'" and error.context_mark is not None:
        key = error.context_mark.line
    elif (str(error.problem) in _NO_MAPPING_HERE and ":" not in lines[line][:column]) or _ends_early(
        lines, error, line
    ):
        key = _above(lines, line)
    else:
        return None
    if key is None or _COLON.search(lines[key]) or lines[key].lstrip().startswith("- "):
        return None
    words = no_space(lines[key].rstrip()) or "no ':' follows this key: write KEY: VALUE"
    return key, _indent_of(lines[key]), words


def _ends_early(lines: list[str], error: yaml.MarkedYAMLError, line: int) -> bool:
    """Whether a comment ends the text above, which the parser else takes together with what follows."""
    above = _above(lines, line)
    if above is None or line >= len(lines) or not _BLOCK_FOUND.search(str(error.problem)):
        return False
    return _indent_of(lines[above]) == _indent_of(lines[line])


def _second_colon(_text: str, lines: list[str], error: yaml.MarkedYAMLError, line: int, column: int) -> Said | None:
    problem = str(error.problem)
    here = problem in _NO_MAPPING_HERE or (str(error.context).startswith("while parsing a flow") and "':'" in problem)
    if not here or not _COLON.search(lines[line][:column]):
        return None
    return line, column, "a second ': ' in one value: put the value in quotes, or begin a new line"


def _indent(_text: str, lines: list[str], error: yaml.MarkedYAMLError, line: int, _column: int) -> Said | None:
    above = _above(lines, line)
    if above is None or line >= len(lines):
        return None
    mine, other = _indent_of(lines[line]), _indent_of(lines[above])
    if str(error.problem) in _NO_MAPPING_HERE and mine > other and _VALUE.search(lines[above]):
        words = (
            f"indented deeper than line {above + 1}, whose key has its value already: begin it in column {other + 1}"
        )
        return line, mine, words
    if not _BLOCK_FOUND.search(str(error.problem)):
        return None
    indents = {_indent_of(lines[at]): at for at in range(line) if lines[at].split("#")[0].strip()}
    near = (
        max((one for one in indents if one < mine), default=None),
        min((one for one in indents if one > mine), default=None),
    )
    columns = " or ".join(f"{one + 1} (as line {indents[one] + 1})" for one in near if one is not None)
    return line, mine, f"indented like no line above it: begin it in column {columns}"


def _reserved(_text: str, _lines: list[str], error: yaml.MarkedYAMLError, line: int, column: int) -> Said | None:
    problem, start = str(error.problem), error.context_mark
    if match := re.fullmatch(r"found character '(.)' that cannot start any token", problem):
        return line, column, f"no plain text may begin with '{match[1]}': put it in quotes"
    if start is not None and error.context in ("while scanning an alias", "while scanning an anchor"):
        sign = "*" if error.context.endswith("alias") else "&"
        return start.line, start.column, f"text that begins with '{sign}' has to be in quotes"
    if problem.startswith("found unknown escape character"):
        return line, column, "a backslash is special in double quotes: use single quotes"
    return None
