"""From a tree of YAML to typed values, every complaint in an operator's words and at its place. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llamad.config.model import Section
from llamad.config.problems import Position, Problem
from llamad.config.syntax import no_space
from llamad.config.values import CONFLICT, PATTERN_WORDS
from llamad.config.yamltree import Node

S = TypeVar("S", bound=Section)

_TYPES: Mapping[str, str] = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "model_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("more than", "gt"),
}
MAX_LISTED = 10
"""Keys that a message still lists."""
_EMPTY_MEANS_SOMETHING = frozenset({"listen"})
"""Keys whose default is a list, and which mean something else when empty."""


@dataclass(frozen=True, slots=True)
class Typed(Generic[S]):
    """A section as values; a key in `bad` was wrong and has its default here."""

    value: S
    bad: frozenset[str]
    problems: list[Problem]


_NOTHING: Mapping[str, object] = {}
Elsewhere = Callable[[str, Node], str | None]
"""Given an unknown key and its value: where it belongs, if that is known."""


def nowhere(_key: str, _value: Node) -> None:
    """No unknown key belongs anywhere."""


def below_section(model: type[Section], key: str) -> str | None:
    """Of which section of `model` an unknown key is one, if of any."""
    sections = {name: type(one.default) for name, one in model.model_fields.items() if isinstance(one.default, Section)}
    of = [f"{name}:" for name, section in sections.items() if key in section.model_fields]
    return f"it belongs below {' or '.join(of)}" if of else None


def typed(
    model: type[S],
    node: Node,
    path: tuple[str, ...],
    *,
    given: Mapping[str, object] = _NOTHING,
    fallback: Mapping[str, object] = _NOTHING,
    also_known: tuple[str, ...] = (),
    elsewhere: Elsewhere = nowhere,
) -> Typed[S]:
    """Read `node`, the value at `path`, as `model`. `given` are values that do not come from the file (as its keys they
    are unknown), `fallback` those of keys that have no default, `also_known` keys that are read elsewhere; `elsewhere`
    tells where an unknown key of this very section belongs.
    """
    fields = [name for name in model.model_fields if name not in given]
    data, problems = _known(model, node, path, list(dict.fromkeys((*fields, *also_known))), elsewhere)
    dropped: set[tuple[str, ...]] = set()
    while True:
        try:
            value = model.model_validate({**fallback, **data, **given})
            return Typed(value, frozenset(key for key, *_ in dropped), problems)
        except ValidationError as error:
            details = error.errors(include_url=False)
            problems += [_problem(node, path, one) for one in details if not _rests_on(one, dropped)]
            now = {_drop(model, data, one["loc"]) for one in details}
            assert not now <= dropped, details  # else this would never end
            dropped |= now


def _drop(model: type[Section], data: dict[str, object], place: tuple[int | str, ...]) -> tuple[str, ...]:
    """Takes what was wrong at `place` out of `data`, so that the rest can be judged: the key in its innermost section.
    Returns its path.
    """
    key = str(place[0])
    default, below = model.model_fields[key].default, data.get(key)
    if len(place) > 1 and isinstance(default, Section) and isinstance(below, dict):
        return (key, *_drop(type(default), below, place[1:]))
    data.pop(key, None)
    return (key,)


def _rests_on(error: ErrorDetails, dropped: set[tuple[str, ...]]) -> bool:
    """Whether a conflict is one of a default that stands in for what was wrong."""
    section = tuple(map(str, error["loc"]))
    return error["type"] == CONFLICT and any((*section, key) in dropped for key in error["ctx"]["keys"])


def not_a_mapping(node: Node, path: tuple[str, ...]) -> Problem:
    """What is said where a section is anything else."""
    hint = no_space(node.value) if isinstance(node.value, str) else None
    return Problem(node.position, ".".join(path), f"must be {_TYPES['mapping_type']}, not {shown(node)}", hint=hint)


def unknown_key(position: Position, path: tuple[str, ...], known: list[str], *, hint: str | None = None) -> Problem:
    """An unknown key, with the nearest of those that are known; with `hint` where none is all but the same."""
    near = get_close_matches(path[-1].replace("-", "_"), known, n=1, cutoff=0.6 if hint is None else 0.8)
    if near:
        hint = f"did you mean {near[0]}?"
    elif hint is None and path[-1] == "name":
        hint = "a server's name is the key above it"
    elif hint is None and len(known) <= MAX_LISTED:
        hint = f"known are {', '.join(known)}"
    return Problem(position, ".".join(path), "unknown key", hint=hint)


def shown(node: Node) -> str:
    """A value as a message shows it: text in quotes, the rest as it was written."""
    if isinstance(node.value, Mapping):
        return "a mapping"
    if isinstance(node.value, tuple):
        return "a list"
    if node.value is None:
        return "nothing"
    return repr(node.value) if isinstance(node.value, str) else node.text


def _known(
    model: type[Section], node: Node, path: tuple[str, ...], known: list[str], elsewhere: Elsewhere = nowhere
) -> tuple[dict[str, object], list[Problem]]:
    """The known keys as plain data. A list or mapping left empty (`args:`) is as if it were not written."""
    if node.value is not None and not isinstance(node.value, Mapping):
        return {}, [not_a_mapping(node, path)]
    data: dict[str, object] = {}
    problems = []
    for key, entry in node.entries.items():
        here = (*path, key)
        if key not in known:
            hint = elsewhere(key, entry.node)
            problems.append(unknown_key(entry.key, here, known, hint=hint))
            continue
        field = model.model_fields[key]
        holds_many = isinstance(field.default, Section | Mapping | tuple) and key not in _EMPTY_MEANS_SOMETHING
        if entry.node.value is None and holds_many:
            continue
        if isinstance(field.default, Section) and entry.node.entries:
            data[key], below = _known(type(field.default), entry.node, here, list(type(field.default).model_fields))
            problems += below
        else:
            data[key] = entry.node.plain()
    return data, problems


def _problem(node: Node, path: tuple[str, ...], error: ErrorDetails) -> Problem:
    """One of pydantic's errors: where in the tree, and in words. A wrong key is told of at the key."""
    *steps, last = error["loc"]
    if last != "[key]":
        steps.append(last)
    position = node.position
    here = path
    for step in steps:
        below = node.get(step)
        if below is None:  # pydantic also names the member of a union
            break
        position = node.entries[str(step)].key if last == "[key]" and step == steps[-1] else below.position
        node = below
        here = (*here, str(step))
    return Problem(position, ".".join(here), _words(node, error))


def _words(node: Node, error: ErrorDetails) -> str:
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == CONFLICT:
        return str(context["words"])
    if kind in _TYPES:
        quotes = f': write "{node.text}"' if kind == "string_type" and node.text else ""
        if kind == "tuple_type" and isinstance(node.value, str):
            quotes = f": write [{json.dumps(node.value, ensure_ascii=False)}]"
        return f"must be {_TYPES[kind]}, not {shown(node)}{quotes}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        unit = "s" if isinstance(node.value, str) else ""  # only durations are text
        return f"must be {words} {context[name]:g}{unit}, not {shown(node)}"
    if kind == "string_pattern_mismatch":
        return f"{error['input']!r} {PATTERN_WORDS[context['pattern']]}"
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
        near = get_close_matches(node.text, re.split(r", | or ", expected), n=1)
        return f"must be {expected}, not {shown(node)}" + (f": did you mean {near[0]}?" if near else "")
    return f"cannot be {shown(node)}"
