"""No OSError is swallowed without a word: whoever catches one raises, passes on why, tells the log, returns what its
docstring says of such a case, or has a comment that says why nobody has to know.

The worst fault so far was one: a chown that the sandbox forbade, in silence, locked every user out.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamad

ROOT = Path(llamad.__file__).parent
BROAD = {"OSError", "IOError", "EnvironmentError", "PermissionError", "Exception", "BaseException"}
"""What stands for many causes. FileNotFoundError, ProcessLookupError and the like say what happened by their names."""
TELLING = {"debug", "info", "warning", "error", "exception", "log", "warn", "about", "say", "set_exception"}


def swallowed(source: str) -> Iterator[int]:
    """The lines of handlers that keep an OSError to themselves."""
    lines, tree = source.splitlines(), ast.parse(source)
    promised = set(_promised(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
            last = node.body[-1].end_lineno or node.lineno
            if node not in promised and not _is_used(node) and not _explained(lines, node.lineno, last):
                yield node.lineno
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                if _suppresses(item.context_expr) and not _explained(lines, node.lineno, node.body[0].lineno):
                    yield node.lineno


def _is_broad(kind: ast.expr | None) -> bool:
    return kind is None or any(isinstance(part, ast.Name) and part.id in BROAD for part in ast.walk(kind))


def _suppresses(call: ast.expr) -> bool:
    if not isinstance(call, ast.Call) or ast.unparse(call.func) not in ("suppress", "contextlib.suppress"):
        return False
    return any(_is_broad(argument) for argument in call.args)


def _promised(tree: ast.Module) -> Iterator[ast.ExceptHandler]:
    """Handlers that do nothing but return, in a function with a contract."""
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(function):
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Return):
                    yield node


def _is_used(handler: ast.ExceptHandler) -> bool:
    for node in ast.walk(ast.Module(handler.body, [])):
        if isinstance(node, (ast.Raise, ast.JoinedStr)) or (isinstance(node, ast.Name) and node.id == handler.name):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TELLING:
            return True
    return False


def _explained(lines: list[str], first: int, last: int) -> bool:
    """Whether a comment stands in the lines, or just above them; ruff's own words are none."""
    return any("#" in line and "# noqa" not in line for line in lines[max(0, first - 2) : last])


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_oserror_is_swallowed_without_a_word(path: Path) -> None:
    assert [f"{path}:{line}" for line in swallowed(path.read_text())] == []


TRY = "try:\n    f()\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (f"{TRY}except OSError:\n    pass\n", [3]),
        (f"{TRY}except (ValueError, PermissionError):\n    g(None)\n", [3]),
        ("def f():\n    try:\n        g()\n    except OSError:\n        return None\n", [4]),
        ('def f():\n    """None where not."""\n    try:\n        g()\n    except OSError:\n        return None\n', []),
        (f"{TRY}except PermissionError:\n    return_(f'cannot read {{1}}')\n", []),
        ("with suppress(OSError):\n    f()\n", [1]),
        ("with contextlib.suppress(OSError, KeyError):\n    f()\n", [1]),
        (f"{TRY}except FileNotFoundError:\n    pass\n", []),
        (f"{TRY}except OSError:  # nobody reads it\n    pass\n", []),
        (f"{TRY}except OSError as error:\n    log.warning('x %s', error)\n", []),
        (f"{TRY}except OSError:\n    raise Bad('x') from None\n", []),
        ("with suppress(OSError):  # it is only a comfort\n    f()\n", []),
        ("with suppress(ProcessLookupError):\n    f()\n", []),
    ],
)
def test_the_rule_itself(source: str, found: list[int]) -> None:
    assert list(swallowed(source)) == found
