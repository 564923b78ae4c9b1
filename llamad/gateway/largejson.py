"""`model` out of a large JSON body without building what is in it, and how deep a body is nested. Pure.

`json.loads` of 60 MB of `[],[],...` holds the loop for 13 s and a gigabyte; of 6 MB of token ids for 0.2 s. Here only
the top level is read, and the rest skipped by regular expressions whose possessive quantifiers never go back. What is
inside values is not validated: the server does that.
"""

import json
import re
from itertools import accumulate

MAX_DEPTH = 500
"""Lists and objects within each other. llama-server walks through them by recursion, of its templates and schemas too:
some ten thousand end it, and 200 KB hold as many.
"""
MOST_BRACKETS, MOST_QUOTES = 1_000_000, 500_000
"""Brackets, and quotes around strings, among which the depth is looked for: about 0.1 s each."""
MAX_BRACKETS = 400_000
"""Brackets that are skipped at most: about 0.1 s."""
MAX_MARKS = 4_000_000
"""Quotes and backslashes at most: about 0.2 s. Text has one in dozens of bytes."""
MAX_KEYS = 10_000
_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_OPEN = re.compile(_SPACE + rb"\{" + _SPACE)
_KEY = re.compile(rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE)
_PLAIN = re.compile(_STRING + rb"|[-+.0-9A-Za-z]++")
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]")
_STRINGS = re.compile(_STRING)
_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?" + _SPACE + rb"[\[{]")
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]
_NO_BRACKETS = bytes(byte for byte in range(256) if not _STEPS[byte])
_NEXT = re.compile(_SPACE + rb"([,}])" + _SPACE)


class NotJsonError(Exception):
    """It is no JSON object; the message says why."""


class TooManyError(Exception):
    """It has more values than are worth skipping."""


def depth_of(body: bytes) -> int:
    """How deep lists and objects are nested, where that may be more than MAX_DEPTH; else 0. TooManyError."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH or not _BEGINS.match(body):
        return 0
    if body.count(b'"') - body.count(b'\\"') > MOST_QUOTES or body.count(b"\\") > MAX_MARKS:
        raise TooManyError
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if len(brackets) > MOST_BRACKETS:
        raise TooManyError
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def model_of(body: bytes) -> object:
    """The value of the last `model` at the top level: a str, None where there is none or null, or whatever else
    stands there, in its written form (bytes). NotJsonError, TooManyError.
    """
    if body.count(b'"') + body.count(b"\\") > MAX_MARKS:
        raise TooManyError
    opened = _OPEN.match(body)
    if opened is None:
        raise NotJsonError("an object begins with {")
    position = opened.end()
    if body[position:].strip(b" \t\r\n") == b"}":
        return None
    brackets = 0
    found: object = None
    for _ in range(MAX_KEYS):
        key = _due(_KEY.match(body, position), "a name in quotes and a colon", position)
        start = key.end()
        if body[start : start + 1] in (b"[", b"{"):
            position, brackets = _skip(body, start, brackets)
        else:
            position = _due(_PLAIN.match(body, start), "a value", start).end()
        if _text(key[1]) == "model":
            found = _value(body[start : min(position, start + 1024)])
        follows = _due(_NEXT.match(body, position), "a comma or }", position)
        position = follows.end()
        if follows[1] == b"}":
            if position != len(body):
                raise NotJsonError(f"the object ends at byte {position}, and more follows")
            return found
    raise TooManyError


def _skip(body: bytes, position: int, brackets: int) -> tuple[int, int]:
    """After the list or object that begins at `position`, and how many brackets were seen so far."""
    depth = 0
    match = _TO_BRACKET.match
    while True:
        position = _due(match(body, position), "a closing bracket", position).end()
        depth += 1 if body[position - 1] in b"[{" else -1
        brackets += 1
        if brackets > MAX_BRACKETS:
            raise TooManyError
        if not depth:
            return position, brackets


def _due(match: re.Match[bytes] | None, what: str, position: int) -> re.Match[bytes]:
    if match is None:
        raise NotJsonError(f"{what} is due at byte {position}")
    return match


def _value(written: bytes) -> object:
    if written == b"null":
        return None
    return _text(written) if written.startswith(b'"') else written


def _text(written: bytes) -> str:
    """A string as it was meant."""
    try:
        return str(json.loads(written))
    except ValueError:
        raise NotJsonError("a string is broken, or too long for a name") from None
