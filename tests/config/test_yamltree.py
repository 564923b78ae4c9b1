import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llamad.config import yamltree
from llamad.config.problems import Position
from llamad.config.yamltree import MAX_DEPTH, MAX_VALUES, Node, parse_tree

FILE = Path("/x.yaml")


def tree(text: str) -> Node:
    node, problems = parse_tree(FILE, text)
    assert problems == []
    assert node is not None
    return node


def said(text: str) -> list[str]:
    return [str(one).removeprefix(f"{FILE}:") for one in parse_tree(FILE, text)[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("007", "007"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("9" * 40, "9" * 40),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("1e999", "1e999"),
        (".nan", ".nan"),
        ("on", True),
        ("Off", False),
        ("YES", True),
        ("no", False),
        ("true", True),
        ("tRuE", "tRuE"),
        ("~", None),
        ("null", None),
        ("none", "none"),
        ("'on'", "on"),
        ('"5"', "5"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("!!bool on", True),
        ("!!null ''", None),
        ("! 5", "5"),
        ("|\n  two\n  lines", "two\nlines"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = tree(text).value
    assert (found, type(found)) == (value, type(value))


def test_every_key_and_value_knows_its_place() -> None:
    node = tree("a:\n  bé: [1, two]\n  c: x\n")
    assert node.plain() == {"a": {"bé": [1, "two"], "c": "x"}}
    two = node.get("a", "bé", 1)
    assert two is not None
    assert (two.position, two.value) == (Position(FILE, 2, 11), "two")
    assert node.entries["a"].node.entries["c"].key == Position(FILE, 3, 3)


@pytest.mark.parametrize("path", [("b",), ("a", 3), ("a", "x"), ("a", 0, "x")])
def test_a_path_that_leads_nowhere(path: tuple[str | int, ...]) -> None:
    assert tree("a: [1]").get(*path) is None


def test_an_empty_document_has_no_top() -> None:
    assert parse_tree(FILE, "# nothing\n") == (None, [])


def test_tags_on_collections() -> None:
    assert tree("!!map {a: !!seq [1]}").plain() == {"a": [1]}
    assert said("!!set {a: 1}") == ["1:1: the tag !!set has no meaning here"]
    assert said("a: !x [1]") == ["1:4: a: the tag !x has no meaning here"]


def test_aliases_share_and_merge() -> None:
    node = tree("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, k: 3}\nd: {'<<': 4}")
    assert node.plain() == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 1, "l": 2},
        "c": {"k": 3, "l": 2},
        "d": {"<<": 4},
    }
    assert node.get("a") is node.get("b")


def test_a_bomb_of_aliases_is_refused_cheaply() -> None:
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 25)]
    assert said("\n".join(lines)) == [f"5:45: a4.7: the file stands for more than {MAX_VALUES} values"]


def test_a_file_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltree, "MAX_VALUES", 3)
    assert said("[1, 2, 3]") == []
    assert said("a: [1, 2, 3, 4]") == ["1:14: a.3: the file stands for more than 3 values"]


def test_depth_is_bounded_through_aliases_too() -> None:
    half = MAX_DEPTH // 2
    deep = "[" * half + "]" * half
    assert said(f"a: &a {deep}\nb: {'[' * half}*a{']' * half}") == [
        f"2:{half + 4}: nested more than {MAX_DEPTH} levels deep"
    ]
    assert tree(f"a: &a {deep}\nb: {'[' * (half - 2)}*a{']' * (half - 2)}").get("b") is not None


def test_a_syntax_error_beyond_the_last_line() -> None:
    assert said("a: [1") == ["1:4: the '[' that opens here is never closed with ']'"]


def test_it_reads_the_same_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x {k: [1, é]}\nb: {<<: *x, l: on}\n"
    expected = tree(text)
    monkeypatch.setattr(yamltree, "_Parser", yaml.SafeLoader)
    assert tree(text) == expected


def test_an_escape_of_no_character_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamltree, "_Parser", yaml.SafeLoader)
    assert said('a: "\\U00110000"') == ["1:1: this is not valid YAML: an escape in it stands for no character"]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc 019:#-.é\n", max_size=8).filter(lambda text: not text.startswith("-.")),  # a number in YAML 1.2 only
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain)
def test_what_is_dumped_is_read_back(value: object) -> None:
    assert _same(tree(yaml.safe_dump(value)).plain(), value)


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@given(st.text())
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    node, problems = parse_tree(FILE, text)
    assert node is None or node.position.file == FILE
    assert all(one.position.line >= 1 and one.position.column >= 1 for one in problems)


@pytest.mark.parametrize("text", ['{a: 1} "x"', "[a] b"])
def test_what_is_none_of_the_usual_mistakes_has_the_parsers_words(text: str) -> None:
    (line,) = said(text)
    assert line.endswith("this is not valid YAML: expected '<document start>', but found '<scalar>'")
