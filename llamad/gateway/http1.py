"""Request heads: read strictly, refused where two readers could differ, written anew for an upstream (RFC 9112)."""

import itertools
import os
import re
from dataclasses import dataclass

from llamad.gateway.fields import FieldMemory, MalformedError, connection_options, read_length, sort_fields, without
from llamad.gateway.types import RequestHead

MAX_HEAD = 32 << 10
MAX_REQUEST_LINE = 8 << 10
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])")
_ABSOLUTE = re.compile(r"https?://([^/?]+)([/?].*)?", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_STRAY = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
_ids = itertools.count(1)
_id_prefix = os.urandom(6).hex()
_memory = FieldMemory()


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


@dataclass(slots=True)
class Request:
    """A request's head, the lines of it that are passed on, and the values that are written anew (fields.Role)."""

    head: RequestHead
    lines: list[bytes]
    noted: dict[bytes, bytes]
    expects_continue: bool


def read_request(block: bytes) -> Request:
    """Read a request's head: all before the empty line. MalformedError with 400, 405, 414, 417, 431, 501 or 505."""
    if len(block) > MAX_HEAD:
        raise MalformedError(431, f"the request's head is larger than {MAX_HEAD} bytes")
    first, *rest = block.split(b"\r\n")
    target = _targets.get(first) or _remember(first)
    fields = _memory.read(rest)
    lines, noted = sort_fields(fields)
    _check_host(target, noted)
    length, chunked = _framing(target, noted)
    keep_alive = target.version >= (1, 1)
    options = noted.get(b"connection")
    if options is not None:
        named = connection_options(options)
        keep_alive = keep_alive and b"close" not in named
        lines = without(lines, named)
    expects = noted.get(b"expect")
    if expects is not None and expects.lower() != b"100-continue":
        raise MalformedError(417, "the only expectation that can be met is 100-continue")
    given = noted.get(b"x-request-id")
    head = RequestHead(
        target.method,
        target.path,
        target.query,
        [field.pair for field in fields],
        length,
        chunked,
        keep_alive,
        target.version,
        given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else f"{_id_prefix}-{next(_ids):x}",
    )
    return Request(head, lines, noted, expects is not None and target.version >= (1, 1))


def stub_head() -> RequestHead:
    """What stands in records for a request whose head could not be read."""
    return RequestHead(
        method="-",
        path="-",
        query="",
        headers=[],
        content_length=None,
        chunked=False,
        keep_alive=False,
        version=(1, 1),
        request_id=f"{_id_prefix}-{next(_ids):x}",
    )


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


def upstream_head(request: Request, target: str, *, length: int, peer: str, fixed: bytes) -> bytes:
    """The head that an upstream gets for `target` (path and query), with a body of `length` bytes. `peer` is the
    client's IP address (`unix` where it has none), `fixed` whole lines for this upstream: its Host, its Authorization.
    """
    head, noted = request.head, request.noted
    before = noted.get(b"x-forwarded-for")
    parts = [
        f"{head.method} {target} HTTP/1.1\r\nx-request-id: {head.request_id}\r\nx-forwarded-for: ".encode(),
        before + b", " if before else b"",
        peer.encode(),
        b"\r\nx-forwarded-proto: ",
        noted.get(b"x-forwarded-proto", b"http"),
        b"\r\nx-forwarded-host: ",
        noted.get(b"x-forwarded-host") or noted.get(b"host", b""),
        b"\r\n",
        fixed,
        b"\r\n".join(request.lines),
    ]
    if request.lines:
        parts.append(b"\r\n")
    if length or head.method in ("POST", "PUT", "PATCH"):
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"\r\n")
    return b"".join(parts)


def _remember(line: bytes) -> Target:
    target = _read_target(line)
    if len(_targets) >= 256:
        _targets.clear()
    if len(line) <= 256:
        _targets[line] = target
    return target


_targets: dict[bytes, Target] = {}


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
    method, target, version = match[1].decode(), match[2].decode(), (int(match[3]), int(match[4]))
    if version[0] != 1:
        raise MalformedError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method in ("CONNECT", "TRACE"):
        raise MalformedError(405, f"{method} is not allowed: this is an API, not a proxy for other hosts")
    if method not in _METHODS:
        raise MalformedError(501, f"the method {method} is not known: there is {', '.join(sorted(_METHODS))}")
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


def _check_host(target: Target, noted: dict[bytes, bytes]) -> None:
    """RFC 9112 section 3.2: HTTP/1.1 has exactly one Host (`sort_fields` refused two)."""
    host = noted.get(b"host")
    if host is None:
        if target.version >= (1, 1):
            raise MalformedError(400, "the request has no Host header")
    elif not _HOST.fullmatch(host):
        raise MalformedError(400, "the Host header is malformed")
    if target.authority is not None:
        if not _HOST.fullmatch(target.authority):
            raise MalformedError(400, "the target's host is malformed")
        noted[b"host"] = target.authority


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
