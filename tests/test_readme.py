"""The README tells what the code does."""

import argparse
import re
from pathlib import Path

import pytest
import yaml

from llamad.cli.main import parser
from llamad.config.model import GatewayConfig, ServerConfig
from llamad.servers.state import MEANING, diagram

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(subparsers.choices)


def test_the_diagram_is_the_one_that_is_printed_from_the_table() -> None:
    assert diagram() + "\n" in blocks("")


def test_every_state_has_its_meaning() -> None:
    table = README.split("<!-- states")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE) == [
        (str(state), meaning) for state, meaning in MEANING.items()
    ]


def test_every_command_is_told_and_no_other() -> None:
    told = set(re.findall(r"^\| `llamad (\w+)", README, re.MULTILINE))
    assert told == set(commands())


@pytest.mark.parametrize("line", re.findall(r"^\| `llamad (.+?)` \|", README, re.MULTILINE))
def test_the_options_told_are_those_there_are(line: str) -> None:
    name, *words = re.findall(r"[\w-]+", line)
    one = commands()[name]
    known = {option for action in one._actions for option in action.option_strings} - {"-h", "--help", "--socket"}
    told = {word for word in words if word.startswith("-")}
    both = [set(action.option_strings) for action in one._actions if len(action.option_strings) > 1]
    assert told <= known
    assert {option for option in known - told if not any(option in names and names & told for names in both)} == set()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_configurations_are_right(text: str) -> None:
    document = yaml.safe_load(text)
    assert document.keys() <= {"servers", "gateway"}
    GatewayConfig.model_validate(document.get("gateway", {}))
    for name, server in document.get("servers", {}).items():
        ServerConfig.model_validate({"name": name, **server})


def test_it_says_where_llama_server_comes_from_and_names_nothing_that_cannot_be_had() -> None:
    """Debian 13 has no llama-server, and llamad is not on PyPI."""
    assert "### llama-server" in README
    assert re.findall(r"pip install [^`]*llamad\b", README) == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b((?:packaging|systemd)/[\w./-]*\w)", README))))
def test_the_files_told_are_there(name: str) -> None:
    assert (ROOT / name).exists()
