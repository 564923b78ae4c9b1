"""Answers as a client gets them: an upstream's head, read and written anew, and the gateway's own."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from llamad.gateway.fields import (
    FieldLines,
    MalformedError,
    Memory,
    connection_options,
    read_length,
    sort_fields,
    split_length,
    without,
)
from llamad.gateway.http1 import Request
from llamad.gateway.types import Answer, Headers

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_UNBUFFERED = frozenset({b"x-accel-buffering"})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What the heads of many answers of one server have in common: all but Content-Length."""

    status: int
    passed: bytes
    """The status line and the lines that the client gets."""
    chunked: bool
    keep_alive: bool
    events: bool
    """Whether the body is a stream of server-sent events."""
    bodyless: bool
    """Whether no answer of this status has a body, whatever its head says."""


class AnswerHeads:
    """Reads the heads of answers; of those that repeat what was read is remembered."""

    def __init__(self) -> None:
        self._shapes: Memory[AnswerShape] = Memory(entries=512, largest=2048)
        self._lines = FieldLines()

    def read(self, block: bytes) -> tuple[AnswerShape, int | None]:
        """Read an upstream's head, all before the empty line; returns the body's length, if it is told, beside the
        shape. Where neither frames the body, it ends with the connection. MalformedError where it is no head or
        unclear.
        """
        rest, digits = split_length(block)
        shapes = self._shapes
        shape = shapes.young.get(rest) or shapes.get(rest)
        if shape is not None and (digits is None or not shape.chunked):
            return shape, None if digits is None else int(digits)
        shape, length = _read(block, self._lines)
        if digits is not None or length is None:
            shapes.put(rest, shape)
        return shape, length


def read_answer(block: bytes) -> tuple[AnswerShape, int | None]:
    """Read one head, and remember nothing; see AnswerHeads."""
    return AnswerHeads().read(block)


def _read(block: bytes, lines_before: FieldLines) -> tuple[AnswerShape, int | None]:
    first, *rest = block.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise MalformedError(502, "the server's answer is not HTTP/1.1")
    lines, noted = sort_fields(lines_before.read(rest))
    modern = status_line[1] == b"1"
    length, transfer = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    if transfer is not None and (length is not None or not modern or transfer.lower() != b"chunked"):
        raise MalformedError(502, "the end of the server's answer cannot be told: unclear Transfer-Encoding")
    named = connection_options(noted.get(b"connection", b""))
    status_text = b"HTTP/1.1 " + status_line[2] + b" " + (status_line[3] or b"")
    status = int(status_line[2])
    events = noted.get(b"content-type", b"").startswith(b"text/event-stream")
    if events:  # nginx in front would collect the stream
        lines = [*without(lines, _UNBUFFERED), b"x-accel-buffering: no"]
    shape = AnswerShape(
        status=status,
        passed=b"\r\n".join([status_text, *without(lines, named), b""]),
        chunked=transfer is not None,
        keep_alive=modern and b"close" not in named,
        events=events,
        bodyless=status in (204, 304),
    )
    return shape, None if length is None else read_length(length)


def client_head(shape: AnswerShape, length: int | None, request: Request, *, cors: Headers, keep_alive: int) -> bytes:
    """The head that the client gets for an upstream's answer; `keep_alive` is how many seconds the connection is kept
    for another request, 0: it is closed.
    """
    framing = ""
    if length is not None:
        if shape.status != 204:
            framing = f"content-length: {length}\r\n"
    elif shape.chunked and not shape.bodyless and request.head.version >= (1, 1):
        framing = "transfer-encoding: chunked\r\n"
    after = f"keep-alive: timeout={keep_alive}" if keep_alive else "connection: close"
    text = f"x-request-id: {request.id}\r\n{framing}{after}\r\n\r\n".encode()
    if cors:
        text = b"".join([name + b": " + value + b"\r\n" for name, value in cors]) + text
    return shape.passed + text


def own_answer(answer: Answer, request: Request, *, cors: Headers, keep_alive: int) -> bytes:
    """The whole of an answer that the gateway gives itself; `keep_alive` as of `client_head`."""
    reason = _REASONS.get(answer.status, "Unknown")
    parts = [
        f"HTTP/1.1 {answer.status} {reason}\r\ndate: {_date()}\r\nx-request-id: {request.id}".encode(),
        *_written(answer.headers),
        *_written(cors),
    ]
    bodyless = answer.status in (204, 304)
    if not bodyless:
        parts += [b"content-type: " + answer.content_type, b"content-length: %d" % len(answer.body)]
    parts.append(b"keep-alive: timeout=%d" % keep_alive if keep_alive else b"connection: close")
    parts.append(b"\r\n")
    return b"\r\n".join(parts) + (b"" if bodyless or request.head.method == "HEAD" else answer.body)


def _written(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [name + b": " + value for name, value in headers]


def _date() -> str:
    """The Date header, made once a second."""
    global _last_date  # noqa: PLW0603
    now = int(time.time())
    if _last_date[0] != now:
        _last_date = (now, formatdate(now, usegmt=True))
    return _last_date[1]


_last_date = (0, "")
