"""The floors of the house: a room imports only from floors below its own, and gateway and control never each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamad

ROOT = Path(llamad.__file__).parent
FLOORS = {
    "errors": 1,
    "host": 1,
    "config": 2,
    "metrics": 2,
    "servers": 3,
    "accepted": 3,
    "gateway": 4,
    "control": 4,
    "candidate": 4,
    "credentials": 4,
    "reap": 4,
    "reporter": 4,
    "beginning": 5,
    "front": 5,
    "reload": 5,
    "verbs": 6,
    "daemon": 7,
    "demo": 8,
    "cli": 9,
    "__main__": 10,
}
"""The numbers are an order; design 4 has the rooms of a folder, the parts of the daemon stand just below it."""
ON_ONE_FLOOR = {("host", "errors")}
"""The only neighbours that know each other: everybody may raise the errors."""
SOURCES = sorted(ROOT.rglob("*.py"))
CLIENT = ("llamad.cli.main", "llamad.cli.remote", "llamad.cli.tables", "llamad.cli.terminal", "llamad.control.client")
HEAVY = ("aiohttp", "pydantic", "yaml", "rich", "watchfiles", "prometheus_client", "asyncio", "uvloop", "httptools")


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything of llamad that is imported, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names if one.name.split(".")[0] == "llamad")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "llamad":
                yield from ((node.lineno, f"llamad.{one.name}") for one in node.names)
            elif node.module is not None and node.module.startswith("llamad."):
                yield node.lineno, node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not list(imports(path))
        return
    assert room in FLOORS, f"{room} has no floor yet: give it one"
    wrong = []
    for line, name in imports(path):
        other = name.split(".")[1]
        if other in ("__version__", room):
            continue
        assert other in FLOORS, f"{path}:{line}: {name} is nowhere"
        if FLOORS[other] >= FLOORS[room] and (room, other) not in ON_ONE_FLOOR:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {name}")
    assert wrong == []


def test_every_floor_is_inhabited() -> None:
    assert {room_of(path) for path in SOURCES} - {"__init__"} == set(FLOORS)


def test_the_client_commands_import_nothing_heavy() -> None:
    """They have to start in 0.15 s: neither aiohttp nor the configuration model."""
    code = f"import sys; import {', '.join(CLIENT)}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    words = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
