"""Rows and columns: golden."""

import pytest

from llamad.cli.layout import Table, fitted, wrapped

TABLE = Table(
    ("NAME", "STATE", "SIZE", "NOTE"),
    (("qwen", "ready", "10G", "-"), ("embed", "failed", "1G", "the model is not there (put it there)")),
    frozenset({"SIZE"}),
    ("SIZE", "STATE"),
)


def test_what_fits_stays_as_it_is() -> None:
    assert fitted(TABLE, TABLE.width) == (TABLE, [])
    assert TABLE.width == max(map(len, TABLE.plain()))


def test_notes_go_below_first_and_then_the_least_important_columns() -> None:
    table, below = fitted(TABLE, TABLE.width - 1)
    assert list(table.plain()) == ["NAME   STATE   SIZE", "qwen   ready    10G", "embed  failed    1G"]
    assert below == ["embed: the model is not there (put it there)"]
    assert fitted(TABLE, 19)[0].titles == ("NAME", "STATE", "SIZE")
    assert fitted(TABLE, 18)[0].titles == ("NAME", "STATE")
    assert fitted(TABLE, 3)[0].titles == ("NAME",)


def test_a_table_without_notes_loses_columns_only() -> None:
    assert fitted(TABLE.without("NOTE"), 13) == (TABLE.without("NOTE").without("SIZE"), [])


def test_notes_are_wrapped_between_words() -> None:
    assert fitted(TABLE, 30)[1] == ["embed: the model is not there", "  (put it there)"]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("", [""]),
        ("short", ["short"]),
        ("  a.yaml:1:1: servers.x: unknown key", ["  a.yaml:1:1:", "    servers.x: unknown", "    key"]),
        ("a /path/that/is-longer-than-all in-one-word", ["a", "  /path/that/is-longer-than-all", "  in-one-word"]),
    ],
)
def test_wrapping_keeps_the_indent(line: str, parts: list[str]) -> None:
    assert wrapped(line, 22) == parts


def test_an_empty_table_is_its_titles() -> None:
    assert list(Table(("A", "B"), ()).plain()) == ["A  B"]
