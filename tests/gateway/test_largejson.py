"""The reader of large bodies agrees with json.loads, and does not go on for ever."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.gateway.largejson import (
    MAX_BRACKETS,
    MAX_DEPTH,
    MAX_KEYS,
    MAX_MARKS,
    MOST_BRACKETS,
    MOST_QUOTES,
    NotJsonError,
    TooManyError,
    depth_of,
    model_of,
)
from llamad.gateway.modelname import LARGE, UnreadableError, check_nesting, in_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("model"), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["model", "a", 'q"\\', "ü"]) | st.text(), VALUES, max_size=6)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_it_agrees_with_json(
    document: dict[str, Any],
    ascii_only: bool,  # noqa: FBT001 - hypothesis passes it
    indent: int | str | None,
) -> None:
    body = f" {json.dumps(document, ensure_ascii=ascii_only, indent=indent)}\r\n".encode("utf-8", "surrogatepass")
    name = document.get("model")
    found = model_of(body)
    if name is None or isinstance(name, str):
        assert found == name
    else:
        assert isinstance(found, bytes)
        assert json.dumps(name, ensure_ascii=ascii_only, indent=indent)[:1].encode() == found[:1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", None),
        (b" { } ", None),
        (b'{"model": "a", "x": 1, "model": "b"}', "b"),
        (b'{"model": "a", "model": null}', None),
        (b'{"mod\\u0065l": "a"}', "a"),
        (b'{"x": {"model": "no"}, "y": ["model", {"model": 1}, "]"], "z": "\\"model\\":"}', None),
        (b'{"model": [1]}', b"[1]"),
        (b'{"model": 7}', b"7"),
    ],
)
def test_what_it_finds(body: bytes, expected: object) -> None:
    assert model_of(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b'{"a":1}}',
        b'{"a":[1}',
        b'{"a":["x]}',
        b'{"a":"x}',
        b'{"a":"x\n"}',
        b"{'a':1}",
        b'{"a":1]',
        b'{"\\x":1}',
        b'{"model":"' + b"x" * 2000 + b'"}',
    ],
)
def test_what_is_no_object_is_told(body: bytes) -> None:
    with pytest.raises(NotJsonError, match=r"is due|begins with|more follows|is broken"):
        model_of(body)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_break_it(noise: bytes, cut: int) -> None:
    good = json.dumps({"a": [1, {"b": '"'}], "model": "x", "c": None}).encode()
    for body in (noise, b'{"a":' + noise, good[:cut] + noise, good[:cut] + noise + good[cut:]):
        try:
            model_of(body)
        except (NotJsonError, TooManyError):
            continue


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * MAX_BRACKETS + b"1]}",
        b'{"a":' + b"[" * (MAX_BRACKETS + 1),
        b"{" + b'"abcd":1,' * MAX_KEYS + b'"model":"x"}',
        b'{"a":[' + b'"",' * (MAX_MARKS // 2) + b"1]}",
        b'{"a":"' + b'\\"' * (MAX_MARKS // 2) + b'"}',
    ],
)
def test_too_much_is_not_read(body: bytes) -> None:
    with pytest.raises(TooManyError):
        model_of(body)
    with pytest.raises(UnreadableError, match="/servers/NAME/"):
        in_json(body)


def large(model: str) -> bytes:
    return b'{"messages": "' + b"x" * LARGE + b'", "model": ' + model.encode() + b"}"


def test_large_bodies_are_read_by_it() -> None:
    assert in_json(large('"qwen"')) == "qwen"
    assert in_json(large("null")) is None
    with pytest.raises(UnreadableError, match="'model' is 7: it has to be a string"):
        in_json(large("7"))
    with pytest.raises(UnreadableError, match="no JSON object: a value is due"):
        in_json(large(""))
    with pytest.raises(UnreadableError, match="not UTF-8"):
        in_json(large('"qwen"').replace(b"x", b"\xff", 1))


@pytest.mark.parametrize("unit", [b"\\n", b'",  "', b"\\\\"])
def test_the_time_it_takes_grows_with_the_size_only(unit: bytes) -> None:
    body = b'{"a":["' + unit * (MAX_MARKS // 2 - 10) + b'"],"model":"x"'
    begun = time.perf_counter()
    with pytest.raises(NotJsonError):  # its end is missing: nothing is to be tried again another way
        model_of(body)
    assert time.perf_counter() - begun < 3


@given(st.integers(0, MAX_DEPTH), st.integers(1, 20))
def test_the_depth_is_that_of_the_deepest(left: int, more: int) -> None:
    body = b'[{"a": "[[\\"[", "b": []},' + b"[" * left + b"]" * left + b"," + b"[" * MAX_DEPTH + b"[" * more
    assert depth_of(body) == 1 + MAX_DEPTH + more


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * (MOST_BRACKETS // 2 + 1),
        b"[" * (MAX_DEPTH + 1) + b'""' * (MOST_QUOTES // 2 + 1),
        b"[" * (MAX_DEPTH + 1) + b'"' + b"\\n" * (MAX_MARKS + 1) + b'"',
    ],
)
def test_the_depth_of_very_much_is_not_looked_for(body: bytes) -> None:
    with pytest.raises(TooManyError):
        depth_of(body)
    with pytest.raises(UnreadableError, match="too many lists"):
        check_nesting(body)


@pytest.mark.parametrize("body", [b"", b'{"a": [1, [2]]}', b"--x" + b"[" * 9000])
def test_what_cannot_be_deep_is_not_looked_at(body: bytes) -> None:
    assert depth_of(body) == 0
