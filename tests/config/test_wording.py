from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from llamad.config.model import (
    ControlConfig,
    GatewayConfig,
    HealthPolicy,
    LogConfig,
    QueueConfig,
    Section,
    ServerConfig,
)
from llamad.config.wording import shown, typed
from llamad.config.yamltree import Node, parse_tree

FILE = Path("/x.yaml")


class Odd(Section):
    """Kinds that no section has today."""

    either: int | tuple[int, ...] = 0
    short: Annotated[str, Field(max_length=2)] = ""


def tree(text: str) -> Node:
    node, problems = parse_tree(FILE, text)
    assert problems == []
    assert node is not None
    return node


def said(model: type[Section], text: str) -> list[str]:
    return [str(one).removeprefix(f"{FILE}:") for one in typed(model, tree(text), ("s",)).problems]


@pytest.mark.parametrize(
    ("text", "words"),
    [("{a: 1}", "a mapping"), ("[1]", "a list"), ("~", "nothing"), ("on", "on"), ("'5'", "'5'"), ("5", "5")],
)
def test_a_value_as_a_message_shows_it(text: str, words: str) -> None:
    assert shown(tree(text)) == words


def test_a_wrong_key_has_its_default_and_the_others_their_value() -> None:
    result = typed(QueueConfig, tree("{size: many, timeout: 5s}"), ("s",))
    assert (result.value, result.bad) == (QueueConfig(timeout=5), frozenset({"size"}))


def test_a_wrong_key_of_a_section_takes_nothing_else_with_it() -> None:
    result = typed(GatewayConfig, tree("{insecure: true, queue: {size: many, timeout: 5s}}"), ("s",))
    assert (result.value, result.bad) == (
        GatewayConfig(insecure=True, queue=QueueConfig(timeout=5)),
        frozenset({"queue"}),
    )


def test_what_is_given_is_no_key() -> None:
    result = typed(ServerConfig, tree("{name: b}"), ("s",), given={"name": "a"})
    assert result.value == ServerConfig(name="a")
    assert [one.path for one in result.problems] == ["s.name"]


@pytest.mark.parametrize(
    ("model", "text", "line"),
    [
        (LogConfig, "level:", "1:7: s.level: must be debug, info, warning or error, not nothing"),
        (LogConfig, "level: [info]", "1:8: s.level: must be debug, info, warning or error, not a list"),
        (LogConfig, "level: {a: 1}", "1:8: s.level: must be debug, info, warning or error, not a mapping"),
        (ControlConfig, "socket: 5", "1:9: s.socket: must be a path, not 5"),
        (QueueConfig, "size: [1]", "1:7: s.size: must be a whole number, not a list"),
        (QueueConfig, "- size", "1:1: s: must be a mapping (key: value), not a list"),
        (QueueConfig, "xyz: 1", "1:1: s.xyz: unknown key (known are size, timeout)"),
        (HealthPolicy, "interval: 500ms", "1:11: s.interval: must be at least 1s, not '500ms'"),
        (HealthPolicy, "interval: 0.5", "1:11: s.interval: must be at least 1, not 0.5"),
        (GatewayConfig, "max_connections: 0", "1:18: s.max_connections: must be at least 1, not 0"),
        (Odd, "short: abc", "1:8: s.short: cannot be 'abc'"),
    ],
)
def test_words(model: type[Section], text: str, line: str) -> None:
    assert said(model, text) == [line]


def test_a_member_of_a_union_is_no_step_of_the_path() -> None:
    assert said(Odd, "either: [1, x]")[0].startswith("1:9: s.either: ")
