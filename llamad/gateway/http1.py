"""Request heads: read strictly, refused where two readers could differ, written anew for an upstream (RFC 9112)."""

import itertools
import os
import re
from dataclasses import dataclass, replace
from urllib.parse import quote

from llamad.gateway.decoding import coding_of
from llamad.gateway.fields import (
    SECRETS,
    FieldLines,
    MalformedError,
    Memory,
    connection_options,
    read_length,
    sort_fields,
    split_length,
    without,
)
from llamad.gateway.types import METHODS, WITH_BODY, Headers, Reader, RequestHead

MAX_HEAD = 32 << 10
MAX_REQUEST_LINE = 8 << 10
_LARGEST_KNOWN = 2048
"""Bytes of a head that is remembered."""
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21\x22\x24-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])"
)
_ABSOLUTE = re.compile(r"https?://([^/?]+)([/?].*)?", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_STRAY = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_ids = itertools.count(1)
_id_prefix = os.urandom(6).hex()
_salts = os.urandom(16), os.urandom(16)


@dataclass(frozen=True, slots=True)
class Target:
    """A request line, read. `authority` is the host of a target in absolute form: it goes before the Host header
    (RFC 9112 section 3.2.2).
    """

    method: str
    path: str
    query: str
    version: tuple[int, int]
    authority: bytes | None


@dataclass(frozen=True, slots=True)
class Decided:
    """What the policy said of a head that it lets in."""

    key: str | None
    reader: Reader | None
    cors: Headers


@dataclass(slots=True)
class Shape:
    """What the heads of many requests of one client have in common: all but Content-Length, and their ids."""

    head: RequestHead
    expects_continue: bool
    request_id: str | None
    forwarded_for: bytes
    """The beginning of the X-Forwarded-For line; the client's own address ends it."""
    passed: bytes
    """The other lines that an upstream gets."""
    coding: bytes | None = None
    """How the body is compressed."""
    decided: Decided | None = None
    """Kept here by whoever asked the policy: it need not be asked again for the same head."""


@dataclass(slots=True)
class Request:
    """A request's head, and what it shares with no other: its body's length, if that is told, and its id."""

    head: RequestHead
    shape: Shape
    length: int | None
    id: str
    digest: tuple[int, int] | None = None
    """Of its head, where that can be remembered."""


class Heads:
    """Reads requests' heads. One that the policy let in before is known by its digest, and need be neither read nor
    decided again. No secret is remembered: the digest is two SipHashes (PEP 456) of 64 bits behind secret salts, which
    nobody can aim at, and which take a third of the time of hashlib's.
    """

    def __init__(self) -> None:
        self._shapes: Memory[Shape] = Memory(entries=512, largest=32)
        self._lines = FieldLines()

    def read(self, block: bytes) -> Request:
        """Read a head: all before the empty line. MalformedError with 400, 405, 414, 417, 431, 501 or 505."""
        rest, digits = split_length(block)
        digest, shapes = (hash(_salts[0] + rest), hash(_salts[1] + rest)), self._shapes
        shape = shapes.young.get(digest) or shapes.get(digest)
        known: tuple[int, int] | None = digest
        if shape is not None:
            length = None if digits is None else int(digits)
        else:
            shape, length = _read(block, self._lines)
            if shape.head.chunked or (digits is None and length is not None) or len(rest) > _LARGEST_KNOWN:
                known = None
        return Request(shape.head, shape, length, shape.request_id or f"{_id_prefix}-{next(_ids):x}", known)

    def keep(self, request: Request) -> None:
        """Remember a head and what was decided of it, less what is secret in it."""
        if request.digest is not None:
            head = request.head
            public = [pair for pair in head.headers if pair[0] not in SECRETS]
            self._shapes.put(request.digest, replace(request.shape, head=replace(head, headers=public)))

    def forget(self) -> None:
        """What was decided does not hold any more."""
        self._shapes.clear()


def read_request(block: bytes) -> Request:
    """Read one head, and remember nothing; see Heads."""
    return Heads().read(block)


def _read(block: bytes, lines_before: FieldLines) -> tuple[Shape, int | None]:
    """Read a head; returns the body's length beside its shape."""
    if len(block) > MAX_HEAD:
        raise MalformedError(431, f"the request's head is larger than {MAX_HEAD} bytes")
    first, *rest = block.split(b"\r\n")
    target = _read_target(first)
    fields = lines_before.read(rest)
    lines, noted = sort_fields(fields)
    host = _host(target, noted)
    length, chunked = _framing(target, noted)
    named = connection_options(noted.get(b"connection", b""))
    expects = noted.get(b"expect")
    if expects is not None and expects.lower() != b"100-continue":
        raise MalformedError(417, "the only expectation that can be met is 100-continue")
    given = noted.get(b"x-request-id", b"")
    before = noted.get(b"x-forwarded-for")
    lines = [
        *without(lines, named | {b"content-encoding"}),
        b"x-forwarded-proto: " + noted.get(b"x-forwarded-proto", b"http"),
        b"x-forwarded-host: " + noted.get(b"x-forwarded-host", host),
        b"",
    ]
    modern = target.version >= (1, 1)
    head = RequestHead(
        target.method,
        target.path,
        target.query,
        headers=[field.pair for field in fields if field.pair[0] != b"content-length"],
        chunked=chunked,
        keep_alive=modern and b"close" not in named,
        version=target.version,
        host=host,
    )
    shape = Shape(
        head,
        expects_continue=modern and expects is not None,
        request_id=given.decode() if _REQUEST_ID.fullmatch(given) else None,
        forwarded_for=b"x-forwarded-for: " + (before + b", " if before else b""),
        passed=b"\r\n".join(lines),
        coding=coding_of(noted.get(b"content-encoding")),
    )
    return shape, length


def unread_request() -> Request:
    """What stands in records for a request whose head could not be read."""
    head = RequestHead("-", "-", "", [], chunked=False, keep_alive=False, version=(1, 1))
    shape = Shape(head, expects_continue=False, request_id=None, forwarded_for=b"", passed=b"")
    return Request(head, shape, None, f"{_id_prefix}-{next(_ids):x}")


def check_start(block: bytes, since: int) -> None:
    """Check the beginning of a head that is not complete, so that what can never become one is refused at once and not
    after a time-out; `since` bytes of it were checked before. MalformedError.
    """
    if _STRAY.search(block, max(0, since - 1)):
        raise _not_http(block)
    end = block.find(b"\r\n", 0, MAX_REQUEST_LINE + 2)
    if end >= 0:
        if since <= end + 1:
            _read_target(block[:end])
    elif len(block) > MAX_REQUEST_LINE:
        raise MalformedError(414, f"the request line is longer than {MAX_REQUEST_LINE} bytes")
    if len(block) > MAX_HEAD:
        raise MalformedError(431, f"the request's head is larger than {MAX_HEAD} bytes")


def upstream_head(request: Request, target: str, length: int, peer: str, fixed: bytes) -> bytes:
    """The head that an upstream gets for `target` (path and query), with a body of `length` bytes. `peer` is the
    client's IP address (`unix` where it has none), `fixed` whole lines for this upstream: its Host, its Authorization.
    """
    method, shape = request.head.method, request.shape
    told = f"content-length: {length}\r\n" if length or method in WITH_BODY else ""
    start = f"{method} {target} HTTP/1.1\r\nx-request-id: {request.id}\r\n{told}"
    return b"".join((start.encode(), fixed, shape.passed, shape.forwarded_for, peer.encode(), b"\r\n\r\n"))


def _not_http(line: bytes) -> MalformedError:
    if line.startswith(b"\x16\x03"):
        return MalformedError(400, "this port speaks plain HTTP, and TLS was tried: write http:// instead of https://")
    return MalformedError(400, "this is not HTTP/1.1: METHOD TARGET HTTP/1.1, then headers, each line ended by CR LF")


def _read_target(line: bytes) -> Target:
    if len(line) > MAX_REQUEST_LINE:
        raise MalformedError(414, f"the request line is longer than {MAX_REQUEST_LINE} bytes")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _not_http(line)
    method, target, version = match[1].decode(), _escaped(match[2]), (int(match[3]), int(match[4]))
    if version[0] != 1:
        raise MalformedError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method in ("CONNECT", "TRACE"):
        raise MalformedError(405, f"{method} is not allowed: this is an API, not a proxy for other hosts")
    if method not in METHODS:
        raise MalformedError(501, f"the method {method} is not known: there is {', '.join(METHODS)}")
    authority = None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        authority = absolute[1].encode()
        target = absolute[2] or "/"
        target = "/" + target if target.startswith("?") else target
    if not target.startswith("/") and not (target == "*" and method == "OPTIONS"):
        raise MalformedError(400, "the target of the request is not a path")
    path, _, query = target.partition("?")
    return Target(method, path, query, version, authority)


def _escaped(target: bytes) -> str:
    """A target, with what is UTF-8 in it escaped, as its sender should have done (RFC 3986 section 2.5)."""
    if target.isascii():
        return target.decode()
    try:
        target.decode()
    except UnicodeDecodeError:
        raise MalformedError(400, "the target of the request is neither ASCII nor UTF-8") from None
    return quote(target, safe=_PRINTABLE)


def _host(target: Target, noted: dict[bytes, bytes]) -> bytes:
    """Whom the request is for. RFC 9112 section 3.2: HTTP/1.1 has exactly one Host (`sort_fields` refused two)."""
    host = noted.get(b"host")
    if host is None and target.version >= (1, 1):
        raise MalformedError(400, "the request has no Host header")
    for one in (host, target.authority):
        if one is not None and not _HOST.fullmatch(one):
            raise MalformedError(400, "the request's host is malformed")
    return target.authority or host or b""


def _framing(target: Target, noted: dict[bytes, bytes]) -> tuple[int | None, bool]:
    """The body's length, or that it is chunked (RFC 9112 section 6)."""
    length, transfer = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    if transfer is None:
        return (None if length is None else read_length(length)), False
    if length is not None:
        raise MalformedError(400, "the request has both Content-Length and Transfer-Encoding: send one of them")
    if target.version < (1, 1):
        raise MalformedError(400, "HTTP/1.0 knows no Transfer-Encoding: send Content-Length")
    if transfer.lower() != b"chunked":
        raise MalformedError(501, "the only Transfer-Encoding that is taken is chunked")
    return None, True
