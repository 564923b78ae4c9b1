"""Which model a request asks for: in a JSON body, a multipart form or the query. Pure.

Every function returns the name, or None where none is given; Malformed says in words what is wrong with the input.
"""

import json
import re
from urllib.parse import parse_qsl

from llamad.gateway import largejson

LARGE = 64 << 10
"""Bytes from which on a body is not read as a whole."""
MAX_PARTS = 64
MAX_PART_HEAD = 8 << 10
MAX_PREAMBLE = 1 << 10
"""Bytes before the first boundary, which mean nothing (RFC 2046, 5.1.1)."""
MAX_NAME = 1 << 10
MAX_FIELDS = 100
_decode, _raw_decode = json.JSONDecoder().decode, json.JSONDecoder().raw_decode
"""What json.loads comes to, with and without its search for white space: nearly every request needs one of them."""
_TOO_DEEP = f"the body is nested too deeply: at most {largejson.MAX_DEPTH} lists and objects may be within each other"
_BOM = "\ufeff"
"""llama-server lets it pass before JSON."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(r';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^;" \t]*)[ \t]*')


class UnreadableError(Exception):
    """The body or the query makes no sense; the message is for the client."""


def check_nesting(body: bytes) -> None:
    """UnreadableError where a JSON body has more within each other than llama-server survives."""
    try:
        if largejson.depth_of(body) > largejson.MAX_DEPTH:
            raise UnreadableError(_TOO_DEEP)
    except largejson.TooManyError:
        raise UnreadableError("the body has too many lists, objects or strings") from None


def in_json(body: bytes) -> str | None:
    """`model` of a JSON object. Of two the last counts, as in nlohmann/json, which llama-server reads with."""
    try:
        name = _whole(body) if len(body) <= LARGE else _skimmed(body)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"the body is not UTF-8 (byte {error.start}): send JSON in UTF-8") from None
    if name is None or isinstance(name, str):
        return name
    shown = name.decode(errors="replace") if isinstance(name, bytes) else json.dumps(name)
    raise UnreadableError(f"'model' is {shown[:50]}: it has to be a string")


def _whole(body: bytes) -> object:
    """`model` of a body that is worth reading as a whole."""
    try:
        text = body.decode()
        document, end = _raw_decode(text) if text.startswith("{") else (None, -1)
        if end != len(text):
            document = _decode(text.removeprefix(_BOM))  # white space is around the object, or there is none
    except json.JSONDecodeError as error:
        raise UnreadableError(_not_json("is empty" if not body.strip() else f"is not JSON: {error}")) from None
    except RecursionError:
        raise UnreadableError(_TOO_DEEP) from None
    except UnicodeDecodeError:
        raise
    except ValueError:
        raise UnreadableError("the body has a number with too many digits") from None
    if type(document) is not dict:
        raise UnreadableError(_not_json("is JSON, but no object"))
    return document.get("model")


def _skimmed(body: bytes) -> object:
    """`model` of a large body."""
    body.decode()
    try:
        return largejson.model_of(body.removeprefix(_BOM.encode()))
    except largejson.NotJsonError as error:
        raise UnreadableError(_not_json(f"is no JSON object: {error}")) from None
    except largejson.TooManyError:
        many = "the body has too many lists and objects to look for its model"
        raise UnreadableError(f"{many}: ask for /servers/NAME/... instead, which does not look") from None


def _not_json(what: str) -> str:
    return f'the body {what}; send an object such as {{"model": "NAME", ...}}'


def in_form(body: bytes, content_type: str) -> str | None:
    """The field `model` of multipart/form-data (RFC 7578); of two the last counts. Nothing else of it is read."""
    delimiter = b"--" + _boundary(content_type)
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter, 0, MAX_PREAMBLE) + 2
    if start == 1:
        raise UnreadableError("the form does not begin with its boundary")
    name = None
    position = start + len(delimiter)
    delimiter = b"\r\n" + delimiter
    for _ in range(MAX_PARTS):
        if body.startswith(b"--", position):
            return name
        start = _line_end(body, position)
        head_end = body.find(b"\r\n\r\n", start - 2, start + MAX_PART_HEAD)
        end = body.find(delimiter, max(head_end + 2, start - 2))
        if head_end < 0 or end < 0:
            raise UnreadableError("the form ends in the middle of a part, or a part's head is too long")
        if _field_name(body[start:head_end]) == "model":
            name = _field_value(body[head_end + 4 : end])
        position = end + len(delimiter)
    raise UnreadableError(f"the form has more than {MAX_PARTS} parts")


def _boundary(content_type: str) -> bytes:
    found = _parameters(content_type).get("boundary", "")
    if not _BOUNDARY.fullmatch(found):
        raise UnreadableError("the Content-Type of a form names its boundary: multipart/form-data; boundary=...")
    return found.encode()


def _line_end(body: bytes, position: int) -> int:
    """After the CRLF that ends a delimiter's line; spaces may stand before it (RFC 2046, 5.1.1)."""
    start = position
    while body[start : start + 1] in (b" ", b"\t"):
        start += 1
    if not body.startswith(b"\r\n", start):
        raise UnreadableError("a boundary of the form is not followed by a line end")
    return start + 2


def _field_name(head: bytes) -> str | None:
    """The name of a form's plain field; None for a file."""
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            found = _parameters(value)
            return None if "filename" in found else found.get("name")
    return None


def _field_value(value: bytes) -> str:
    if len(value) > MAX_NAME:
        raise UnreadableError("the field 'model' is too long for a name")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UnreadableError("the field 'model' is not UTF-8") from None


def _parameters(value: str) -> dict[str, str]:
    """`; name=value` of a header's value, quotes taken off; the first of a name counts."""
    out: dict[str, str] = {}
    position = max(value.find(";"), 0)
    while (match := _PARAMETER.match(value, position)) is not None:
        text = match[2]
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        out.setdefault(match[1].lower(), text)
        position = match.end()
    return out


def in_query(query: str) -> str | None:
    """`model` of `?model=NAME`; naming two different ones is refused."""
    if "model" not in query:
        return None
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise UnreadableError("the query makes no sense: too many fields, or %-escapes that are not UTF-8") from None
    names = {value for name, value in fields if name == "model"}
    if len(names) > 1:
        raise UnreadableError("the query names two models: ?model= may stand there once")
    return names.pop() if names else None
