"""Answers as a client gets them: an upstream's head, read and written anew, and the gateway's own."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from llamad.gateway.fields import FieldMemory, MalformedError, connection_options, read_length, sort_fields, without
from llamad.gateway.types import Answer, Headers, RequestHead

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_memory = FieldMemory()


@dataclass(slots=True)
class AnswerHead:
    """An upstream's answer, its head read. `length` and `chunked` frame the body; where neither does, it ends with the
    connection.
    """

    status: int
    status_line: bytes
    lines: list[bytes]
    length: int | None
    chunked: bool
    keep_alive: bool
    events: bool
    """Whether the body is a stream of server-sent events."""


def read_answer(block: bytes) -> AnswerHead:
    """Read an upstream's head: all before the empty line. MalformedError where it is none or its end is unclear."""
    first, *rest = block.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise MalformedError(502, "the server's answer is not HTTP/1.1")
    lines, noted = sort_fields(_memory.read(rest))
    modern = status_line[1] == b"1"
    length, transfer = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    if transfer is not None and (length is not None or not modern or transfer.lower() != b"chunked"):
        raise MalformedError(502, "the end of the server's answer cannot be told: unclear Transfer-Encoding")
    options = noted.get(b"connection")
    if options is not None:
        named = connection_options(options)
        modern = modern and b"close" not in named
        lines = without(lines, named)
    return AnswerHead(
        int(status_line[2]),
        b"HTTP/1.1 " + status_line[2] + b" " + (status_line[3] or b""),
        lines,
        None if length is None else read_length(length),
        transfer is not None,
        modern,
        noted.get(b"content-type", b"").startswith(b"text/event-stream"),
    )


def client_head(answer: AnswerHead, request: RequestHead, *, cors: Headers, keep_alive: bool) -> bytes:
    """The head that the client gets for an upstream's answer."""
    parts = [answer.status_line, *answer.lines, b"x-request-id: " + request.request_id.encode()]
    if answer.chunked:
        if request.version >= (1, 1):
            parts.append(b"transfer-encoding: chunked")
    elif answer.length is not None and answer.status != 204:
        parts.append(b"content-length: %d" % answer.length)
    if cors:
        parts += _written(cors)
    if not keep_alive:
        parts.append(b"connection: close")
    parts.append(b"\r\n")
    return b"\r\n".join(parts)


def own_answer(answer: Answer, request: RequestHead, *, cors: Headers, keep_alive: bool) -> bytes:
    """The whole of an answer that the gateway gives itself."""
    reason = _REASONS.get(answer.status, "Unknown")
    parts = [
        f"HTTP/1.1 {answer.status} {reason}\r\ndate: {_date()}\r\nx-request-id: {request.request_id}".encode(),
        *_written(answer.headers),
        *_written(cors),
    ]
    bodyless = answer.status in (204, 304)
    if not bodyless:
        parts += [b"content-type: " + answer.content_type, b"content-length: %d" % len(answer.body)]
    if not keep_alive:
        parts.append(b"connection: close")
    parts.append(b"\r\n")
    return b"\r\n".join(parts) + (b"" if bodyless or request.method == "HEAD" else answer.body)


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
