"""The manual and the completions know what the program knows: its commands, options and configuration keys."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from llamad import __version__
from llamad.cli.main import parser
from llamad.config.model import Config
from llamad.errors import ExitCode

PACKAGING = Path(__file__).parents[2] / "packaging"
FILLED_IN_BY_THE_LOADER = {"name"}


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (choices,) = (action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(choices)


def options(command: str) -> set[str]:
    """The options of a command, `--help` apart: every command has it."""
    spelled = {one for action in commands()[command]._actions for one in action.option_strings}
    return spelled - {"-h", "--help"}


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Every key that may be written, of all sections."""
    for name, field in model.model_fields.items():
        yield name
        for section in _sections(field.annotation):
            yield from keys(section)


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def plain(page: str) -> str:
    """A manual page without its roff."""
    text = (PACKAGING / "man" / page).read_text()
    text = re.sub(r"\\f[BIRP]", "", text).replace("\\-", "-").replace('"', "")
    return re.sub(r"^\.[A-Z]{1,2} ?", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_manual_tells_every_command_and_option(command: str) -> None:
    text = plain("llamad.8")
    assert re.search(rf"\bllamad {command}\b|\| *{command}\b", text), f"llamad {command}"
    missing = {one for one in options(command) if not re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", text)}
    assert not missing


def test_the_manual_tells_every_exit_code() -> None:
    text = plain("llamad.8")
    section = text[text.index("EXIT STATUS") : text.index("SIGNALS")]
    assert {int(code) for code in re.findall(r"^(\d+)$", section, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_the_manual_tells_every_configuration_key() -> None:
    words = set(re.findall(r"[a-z_]+", plain("llamad.yaml.5")))
    assert set(keys(Config)) - FILLED_IN_BY_THE_LOADER - words == set()


@pytest.mark.parametrize("page", ["llamad.8", "llamad.yaml.5"])
def test_the_manual_is_of_this_version(page: str) -> None:
    head = (PACKAGING / "man" / page).read_text().splitlines()[0]
    assert f'"llamad {__version__}"' in head


def complete(*words: str) -> set[str]:
    """What bash offers after these words."""
    script = f"""
        source {PACKAGING}/completions/llamad.bash
        llamad() {{ echo '{{"servers": [{{"name": "qwen", "replicas": [{{"index": 0}}]}}, {{"name": "embed"}}]}}'; }}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _llamad
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_offers_every_command() -> None:
    assert complete("llamad", "") == {*commands(), "--help", "--version"}
    assert complete("llamad", "st") == {"status", "start", "stop"}


@pytest.mark.parametrize("command", sorted(commands()))
def test_bash_offers_every_option_of_a_command(command: str) -> None:
    assert complete("llamad", command, "-") == {*options(command), "--help"}


def test_bash_offers_the_servers_there_are() -> None:
    assert {"qwen", "embed"} <= complete("llamad", "restart", "")
    assert complete("llamad", "restart", "qw") == {"qwen"}


@pytest.mark.parametrize("name", ["_llamad", "llamad.fish"])
def test_the_other_shells_know_every_command_and_option(name: str) -> None:
    text = (PACKAGING / "completions" / name).read_text()
    for command in commands():
        offered = {f"'{command}:", f'"{command}:'} if name == "_llamad" else {f"-a {command} "}
        assert any(one in text for one in offered), command
    spelled = {one for command in commands() for one in options(command)}
    if name == "llamad.fish":
        offered_options = {f"--{one}" for one in re.findall(r" -l (\S+)", text)} | {
            f"-{one}" for one in re.findall(r" -s (\S)", text)
        }
    else:
        offered_options = set(re.findall(r"(?<![\w-])--?[a-z]+", text))
    assert spelled <= offered_options
