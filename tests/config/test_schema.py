import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import Config, ServerConfig
from llamad.config.schema import schema
from llamad.config.yamltree import parse_tree
from tests.config.test_example import EXAMPLE as INSTALLED
from tests.config.test_loader import EXAMPLE as CONTRACT

SCHEMA = schema()


def faults(value: object, rule: dict[str, Any], path: str = "") -> list[str]:
    """Where `value` breaks `rule`, by as much of JSON Schema as this schema uses."""
    found: list[str] = []
    if "$ref" in rule:
        found += faults(value, SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]], path)
    if "anyOf" in rule and all(faults(value, one, path) for one in rule["anyOf"]):
        found.append(f"{path}: none of anyOf")
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{path}: not in enum")
    if "type" in rule and not any(_is(value, one) for one in _listed(rule["type"])):
        found.append(f"{path}: not {rule['type']}")
    if isinstance(value, int | float) and (value < rule.get("minimum", value) or value > rule.get("maximum", value)):
        found.append(f"{path}: out of range")
    for key, below, part in _parts(value, rule):
        found += [f"{path}.{key}: unknown"] if part is False else faults(below, part, f"{path}.{key}")
    return found


def _listed(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else types


def _parts(value: object, rule: dict[str, Any]) -> Iterator[tuple[object, object, Any]]:
    """What is in a value, each with its own rule; False where it may not be there."""
    if isinstance(value, dict):
        for key, below in value.items():
            part = rule.get("properties", {}).get(key, rule.get("additionalProperties", {}))
            yield key, below, {} if part is True else part
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield index, item, rule.get("items", {})


def _is(value: object, kind: str) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
        "integer": int,
        "number": (int, float),
    }
    return isinstance(value, kinds[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))


def plain(text: str) -> object:
    node, problems = parse_tree(Path("x"), text)
    assert problems == []
    assert node is not None
    return node.plain()


@pytest.mark.parametrize(
    "text",
    [
        INSTALLED,
        CONTRACT,
        "servers: {a: }",
        "servers: {a: {url: 'http://x:1'}}\ngateway:\n",
        "gateway: {access_log: off, listen: null, memory_budget: {0: 6G, host: 9}}",
        "gateway: {listen: ['127.0.0.1:80', 'unix:/x']}",
        "defaults: {start: manual, restart: {max_retries: null}}",
        "servers: {a: {model: x, gpus: [[0], [GPU-1]], memory: {0: 1G}, idle_timeout: 5}}",
        "servers: {a: {model: x, args: {a: [1, x], b: true, c: null}}}",
    ],
)
def test_what_is_right_is_accepted(text: str) -> None:
    assert faults(plain(text), SCHEMA) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("servres: {}", ".servres: unknown"),
        ("servers: {a: {name: a}}", ".servers: none of anyOf"),
        ("servers: {a: {modle: x}}", ".servers: none of anyOf"),
        ("defaults: {replicas: 0}", ".defaults: none of anyOf"),
        ("log: {level: loud}", ".log: none of anyOf"),
        ("startup: slow", ".startup: not in enum"),
    ],
)
def test_what_is_wrong_is_not(text: str, fault: str) -> None:
    assert faults(plain(text), SCHEMA) == [fault]


def test_it_is_json_and_complete() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert set(SCHEMA["properties"]) == {*Config.model_fields, "defaults"}
    assert set(SCHEMA["$defs"]["ServerConfig"]["properties"]) == set(ServerConfig.model_fields) - {"name"}
    assert "required" not in json.dumps([SCHEMA["$defs"], list(SCHEMA)])


def test_every_key_is_described() -> None:
    missing = [
        f"{name}.{key}"
        for name, section in {"Config": SCHEMA, **SCHEMA["$defs"]}.items()
        for key, value in section["properties"].items()
        if not value.get("description")
    ]
    assert missing == []
