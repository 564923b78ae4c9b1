"""Every file that llamad reads is read by `llamad.host.files`: nobody else opens one.

A read that is not bounded in kind, size and time hangs llamad for ever, or eats its memory, as soon as somebody puts a
pipe, a device or a dead disk in the place of the file.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamad

ROOT = Path(llamad.__file__).parent
DOOR = "host/files.py"
OPENS = {
    "cli/main.py": "standard streams that were closed become /dev/null",
    "host/lock.py": "the lock file, whose content nobody reads",
    "servers/process.py": "/proc/PID/stat, kept open for a llamad that cannot see it by its path",
}
"""Files that may use os.open for something else than to write, and what for."""
READING = {"read_text", "read_bytes", "copyfile", "copytree", "copy", "copy2", "copyfileobj", "fromfile", "open_code"}


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in READING and not _is_own(node):
            yield f"{node.lineno}: {node.attr}"
        elif isinstance(node, ast.Call) and _opens(node):
            yield f"{node.lineno}: {ast.unparse(node)}"


def _is_own(node: ast.Attribute) -> bool:
    """`files.read_text`, or a copy of something that is no file (`dict.copy()`)."""
    return node.attr == "copy" and not (isinstance(node.value, ast.Name) and node.value.id == "shutil")


def _opens(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in ("open", "open_code") and not _only_writes(call, 1)
    if not isinstance(function, ast.Attribute):
        return False
    module = function.value.id if isinstance(function.value, ast.Name) else ""
    if function.attr == "open" and module == "os":
        return len(call.args) < 2 or "O_WRONLY" not in ast.unparse(call.args[1])
    if function.attr == "fdopen" or (function.attr == "open" and module in ("io", "codecs", "gzip", "bz2", "lzma")):
        return not _only_writes(call, 1)
    if function.attr != "open":
        return False
    named = {word.arg for word in call.keywords}
    is_a_path = (not call.args and not named) or _text(call.args) or bool(named & {"mode", "encoding", "buffering"})
    return is_a_path and not _only_writes(call, 0)


def _text(args: list[ast.expr]) -> bool:
    return bool(args) and isinstance(args[0], ast.Constant) and isinstance(args[0].value, str)


def _only_writes(call: ast.Call, place: int) -> bool:
    modes = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place : place + 1]
    return any(
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and not set(mode.value) & set("r+")
        for mode in modes
    )


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_else_opens_a_file_to_read(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name == DOOR:
        return
    found = [one for one in faults(path.read_text(encoding="utf-8")) if not (name in OPENS and "os.open" in one)]
    assert found == [], f"{name}: read it by llamad.host.files"


@pytest.mark.parametrize(
    "source",
    [
        "open(path)",
        "open(path, 'r+b')",
        "path.open()",
        "path.open('rb')",
        "path.open(encoding='utf-8')",
        "path.read_text()",
        "await to_thread(path.read_bytes)",
        "os.open(path, os.O_RDONLY)",
        "os.open(path, flags)",
        "os.fdopen(fd)",
        "io.open(path)",
        "shutil.copyfile(a, b)",
        "shutil.copy(a, b)",
    ],
)
def test_every_way_to_open_one_is_seen(source: str) -> None:
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "front.open(config, handed)",
        "await listener.open(inherited)",
        "os.fdopen(fd, 'wb')",
        "path.open('wb')",
        "open(path, 'w')",
        "os.open(path, os.O_WRONLY | os.O_CLOEXEC)",
        "settings.copy()",
        "read_text(path)",
    ],
)
def test_what_reads_no_file_is_let_be(source: str) -> None:
    assert not list(faults(source))
