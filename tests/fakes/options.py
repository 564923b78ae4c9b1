"""The fake's command line: it takes exactly the options its help names, and refuses as the real one does."""

from __future__ import annotations

import os

from tests.fakes.mood import fail, raw, setting

HELP_FILE = __file__.rpartition("/")[0] + "/help.txt"
_NUMERIC = ("N", "PORT", "SECONDS", "INDEX")
values: dict[str, str] = {}
"""What was given, by the longest long spelling; a flag is "1", its negation ""."""


def parse(argv: list[str]) -> None:
    """Fill `values`, or end."""
    text = _help()
    table, names = _table(text)
    values.update({option: os.environ[name] for name, option in names.items() if os.environ.get(name)})
    given = iter(argv)
    for word in given:
        spelling = word.replace("_", "-") if word.startswith("--") else word
        if spelling not in table:
            fail(f"error: invalid argument: {spelling}")
        name, argument, positive = table[spelling]
        value: str | None = ("1" if positive else "") if not argument else next(given, None)
        if value is None:
            _refuse(spelling, "expected value for argument", argument)
            return
        _check(spelling, argument, value)
        _say_and_end(name, text)
        values[name] = value


def _help() -> str:
    fd = os.open(setting("HELP_FILE") or HELP_FILE, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20).decode()
    finally:
        os.close(fd)


def _table(text: str) -> tuple[dict[str, tuple[str, str, bool]], dict[str, str]]:
    """Spelling -> (longest long spelling, argument word or "", positive), and LLAMA_ARG_ name -> that spelling."""
    table: dict[str, tuple[str, str, bool]] = {}
    names: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            head = line[:37] if line[37:40] == "   " else line
            words = head.split()
            spelled = [word.rstrip(",") for word in words if word.startswith("-")]
            argument = " ".join(word for word in words if not word.startswith("-"))
            name = max((one for one in spelled if one.startswith("--") and not one.startswith("--no-")), key=len)
            table.update({one: (name, argument, not one.startswith(("--no-", "-no"))) for one in spelled})
        elif "(env: " in line:
            names[line.split("(env: ")[1].rstrip(")")] = name
    return table, names


def _refuse(spelling: str, what: str, argument: str) -> None:
    fail(
        f'error while handling argument "{spelling}": {what}\n\nusage:\n{spelling} {argument}\n\n\n'
        "to show complete usage, run with -h"
    )


def _check(spelling: str, argument: str, value: str) -> None:
    numeric = value.lstrip("+-").replace(".", "", 1)[:1].isdigit()
    if argument in _NUMERIC and not numeric and "layers" not in spelling:
        _refuse(spelling, "stoi", argument)
    choices = argument.strip("[]{}<>").replace("|", ",").split(",") if argument[:1] in ("[", "{") else []
    if choices and value not in choices:
        _refuse(spelling, f"error: unknown value for {spelling}: '{value}'\n", argument)


def _say_and_end(name: str, text: str) -> None:
    if name == "--usage":  # the longest spelling of --help
        raw(text.encode(), 1)
    elif name == "--version":
        raw(b"version: 11434 (fake)\nbuilt with nothing for Linux x86_64\n")
    elif name == "--list-devices":
        gpu = b"(none)" if setting("NO_GPU") else b"CUDA0: a fake GPU (24576 MiB, 24000 MiB free)"
        raw(b"Available devices:\n  " + gpu + b"\n", 1)
    else:
        return
    os._exit(0)
