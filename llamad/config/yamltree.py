"""YAML as a tree in which every key and value knows its place. Pure.

Built from the parser's events, not by PyYAML's constructor: that one drops positions, lets a later duplicate key win,
and reads `1:30` as 90 and `2024-01-01` as a date. Aliases share nodes, so a bomb of aliases costs nothing to build; the
number of values they stand for is bounded all the same, because whoever walks the tree walks all of them.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from llamad.config.problems import Position, Problem
from llamad.config.syntax import syntax_problem
from llamad.config.unseen import quote_words, unseen_at, unseen_words, without_unseen
from llamad.host.address import is_plain

MAX_DEPTH = 32
MAX_VALUES = 100_000
"""Values a file may stand for once its aliases are expanded (200 servers with everything written out are 10,000)."""

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where PyYAML was built with libyaml
_CORE = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_BOOL = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULL = ("", "~", "null", "Null", "NULL")

Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Node:
    """One value: a scalar (then `text` is how it was written), a tuple of nodes, or a mapping of entries."""

    position: Position
    value: "Scalar | tuple[Node, ...] | Mapping[str, Entry]"
    text: str = ""
    size: int = 1
    """The values it stands for, itself included."""
    depth: int = 1
    """The levels it has, itself included."""

    @property
    def entries(self) -> "Mapping[str, Entry]":
        """The entries of a mapping; nothing for any other value."""
        return self.value if isinstance(self.value, Mapping) else {}

    def get(self, *path: str | int) -> "Node | None":
        """The node at a path of keys and indices, where there is one."""
        node = self
        for step in path:
            if isinstance(node.value, tuple) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
            elif isinstance(node.value, Mapping) and str(step) in node.value:
                node = node.value[str(step)].node
            else:
                return None
        return node

    def plain(self) -> object:
        """The value as dicts, lists and scalars; keys are text as written."""
        if isinstance(self.value, Mapping):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value`; `key` is where the key stands."""

    key: Position
    node: Node


def mapping(position: Position, entries: Mapping[str, Entry]) -> Node:
    """A mapping node of these entries."""
    return _collection(position, entries, [entry.node for entry in entries.values()])


def _collection(position: Position, value: "tuple[Node, ...] | Mapping[str, Entry]", children: list[Node]) -> Node:
    size = 1 + sum(child.size for child in children)
    return Node(position, value, size=size, depth=1 + max((child.depth for child in children), default=0))


def parse_tree(file: Path, text: str) -> tuple[Node | None, list[Problem]]:
    """Read one file's text. Returns its top value (None where nothing could be read, or where a character in it can be
    part of no value) and what is wrong.
    """
    problem = Problem(Position(file, 1, 1), "", "this is not valid YAML: an escape in it stands for no character")
    for parser in (_Parser, yaml.SafeLoader):  # the second time for its better words
        builder = _Builder(file)
        try:
            top = builder.document(iter(yaml.parse(text, Loader=parser)))
            return (None if builder.unfit else top), [*builder.unfit, *builder.problems]
        except _RefusedError as refused:
            return None, [*builder.unfit, *builder.problems, refused.problem]
        except yaml.YAMLError as error:
            problem = syntax_problem(file, text, error)
        except (ValueError, OverflowError):  # PyYAML's own parser, of "\U00110000"
            pass
    return None, [problem]


class _RefusedError(Exception):
    """The rest of the file is not looked at."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(slots=True)
class _Builder:
    """Turns the events of one document into nodes."""

    file: Path
    problems: list[Problem] = field(default_factory=list)
    unfit: list[Problem] = field(default_factory=list)
    """Texts that nothing can be made of: no path, no argument and no message may hold their characters."""
    anchors: dict[str, Node | None] = field(default_factory=dict)
    """None while the anchored value is still being read."""
    total: int = 0

    def document(self, events: Iterator[yaml.Event]) -> Node | None:
        top: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(event, "", "a second document begins here: a file holds one")
            elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
                top = self._node(event, events, ())
        return top

    def _at(self, event: yaml.Event) -> Position:
        mark = event.start_mark
        assert mark is not None
        return Position(self.file, mark.line + 1, mark.column + 1)

    def _refuse(self, event: yaml.Event, path: str, message: str) -> _RefusedError:
        return _RefusedError(Problem(self._at(event), path, message))

    def _too_deep(self, event: yaml.Event) -> _RefusedError:
        return self._refuse(event, "", f"nested more than {MAX_DEPTH} levels deep")

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: tuple[str, ...]) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._counted(event, self._alias(event, path), path)
        if len(path) >= MAX_DEPTH:
            raise self._too_deep(event)
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, events, path)
        else:
            node = self._mapping(event, events, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _counted(self, event: yaml.Event, node: Node, path: tuple[str, ...]) -> Node:
        self.total += node.size
        if len(path) + node.depth > MAX_DEPTH:
            raise self._too_deep(event)
        if self.total > MAX_VALUES:
            raise self._refuse(event, ".".join(path), f"the file stands for more than {MAX_VALUES} values")
        return node

    def _alias(self, event: yaml.AliasEvent, path: tuple[str, ...]) -> Node:
        name = event.anchor
        if name not in self.anchors:
            raise self._refuse(event, ".".join(path), f"*{name} names an anchor (&{name}) that is not above it")
        node = self.anchors[name]
        if node is None:
            raise self._refuse(event, ".".join(path), f"*{name} contains itself")
        return node

    def _scalar(self, event: yaml.ScalarEvent, path: tuple[str, ...]) -> Node:
        tag = event.tag
        text = event.value
        if not event.style:
            self._look_at_plain(event, path)
        value: Scalar = text
        if tag is None or tag == "!":
            value = _resolve(text) if tag is None and event.implicit[0] else text
        elif tag != _CORE + "str":
            value = _resolve(text)
            wanted = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(tag.removeprefix(_CORE))
            if wanted is None or type(value) is not wanted:
                self._tag(event, path)
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
            self._unfit(event, path, "must be without NUL and without half characters (\\ud800 to \\udfff)")
        return self._counted(event, Node(self._at(event), value, text), path)

    def _look_at_plain(self, event: yaml.ScalarEvent, path: tuple[str, ...]) -> None:
        """What was written without quotes holds no character by intent that nobody sees."""
        at = unseen_at(event.value)
        words = quote_words(event.value) if at is None else unseen_words(event.value[at])
        if words is not None:
            where = self._at(event)
            if at is not None and "\n" not in event.value:
                where = replace(where, column=where.column + at)
            shown = ".".join(without_unseen(step) for step in path)
            self.unfit.append(Problem(where, shown, words))

    def _unfit(self, event: yaml.Event, path: tuple[str, ...], words: str) -> None:
        self.unfit.append(Problem(self._at(event), ".".join(path), words))

    def _tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, path: tuple[str, ...]) -> None:
        tag = str(event.tag).replace(_CORE, "!!")
        self.problems.append(Problem(self._at(event), ".".join(path), f"the tag {tag} has no meaning here"))

    def _sequence(self, event: yaml.SequenceStartEvent, events: Iterator[yaml.Event], path: tuple[str, ...]) -> Node:
        if event.tag not in (None, "!", _CORE + "seq"):
            self._tag(event, path)
        items: list[Node] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(self._node(item, events, (*path, str(len(items)))))
        return _collection(self._at(event), tuple(items), items)

    def _mapping(self, event: yaml.Event, events: Iterator[yaml.Event], path: tuple[str, ...]) -> Node:
        assert isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _CORE + "map"):
            self._tag(event, path)
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._refuse(key, ".".join(path), "a key is one word or text, not a list, a mapping or an alias")
            where = self._at(key)
            here = (*path, key.value if is_plain(key.value) else repr(key.value))
            if not is_plain(key.value):
                self._unfit(key, here, "a key must be without control characters")
            elif not key.style:
                self._look_at_plain(key, here)
            node = self._node(next(events), events, here)
            if key.value == "<<" and key.implicit[0]:
                merged += self._sources(node, here)
            elif key.value in entries:
                first = entries[key.value].key
                self.problems.append(
                    Problem(where, ".".join(here), f"is written twice, the first time in line {first.line}")
                )
            else:
                entries[key.value] = Entry(where, node)
        for source in merged:
            entries = {**source.entries, **entries}
        return mapping(self._at(event), entries)

    def _sources(self, node: Node, path: tuple[str, ...]) -> list[Node]:
        """What `<<` takes in; the first that has a key wins, as the YAML merge type says."""
        sources = list(node.value) if isinstance(node.value, tuple) else [node]
        for source in sources:
            if not isinstance(source.value, Mapping):
                words = "<< takes a mapping or a list of mappings, usually as an alias (*name)"
                self.problems.append(Problem(source.position, ".".join(path), words))
        return sources


def _resolve(text: str) -> Scalar:
    """What a plain scalar means: YAML 1.1's booleans, as llama-server's own on and off are among them, else 1.2."""
    if text in _NULL:
        return None
    if text.lower() in _BOOL and text in (text.lower(), text.capitalize(), text.upper()):
        return _BOOL[text.lower()]
    if _INT.fullmatch(text) and len(text) < 30:
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text
