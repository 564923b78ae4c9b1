"""Malformed and smuggled requests: each gets the right answer, and no server sees more than the client asked."""

import json
from dataclasses import dataclass

import pytest

from tests.gateway.gate import Gate
from tests.gateway.origin import Origin

END = "closed"
OPEN = "open"
Seen = tuple[str, str, bytes]


@dataclass(frozen=True)
class Case:
    """What a client sends, the statuses it gets, in which state the connection is then, what a server sees."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    state: str = END
    seen: tuple[Seen, ...] = ()


def head(*lines: bytes, first: bytes = b"POST /v1/x HTTP/1.1", host: bytes | None = b"Host: gate") -> bytes:
    """A head of these lines."""
    return b"\r\n".join([first, *([host] if host is not None else []), *lines, b"", b""])


def refused(name: str, sent: bytes, status: int = 400) -> Case:
    """One answer, and the connection is closed."""
    return Case(name, sent, (status,))


def passed(name: str, sent: bytes, *seen: Seen, state: str = OPEN) -> Case:
    """All requests are answered with 200."""
    return Case(name, sent, (200,) * len(seen), state, seen)


INNER = b"GET /admin HTTP/1.1\r\nHost: gate\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
X, Y = ("POST", "/v1/x", b""), ("POST", "/v1/x", b"abc")
GET = ("GET", "/props", b"")
GET_LINE = b"GET /props HTTP/1.1"

LENGTHS = [
    refused("both lengths", head(b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n" + INNER),
    refused("both lengths, the other way round", head(CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n" + INNER),
    refused("two lengths that differ", head(b"Content-Length: 3", b"Content-Length: 40") + b"abc" + INNER),
    refused("two lengths that are equal", head(b"Content-Length: 3", b"Content-Length: 3") + b"abc"),
    refused("two lengths in one line", head(b"Content-Length: 3, 3") + b"abc"),
    refused("two lengths, one odd", head(b"content-length:3", b"Content-Length: 3") + b"abc"),
    refused("a negative length", head(b"Content-Length: -1")),
    refused("a signed length", head(b"Content-Length: +3") + b"abc"),
    refused("a hexadecimal length", head(b"Content-Length: 0x3") + b"abc"),
    refused("a length with a fraction", head(b"Content-Length: 3.0") + b"abc"),
    refused("a length in other digits", head("Content-Length: \u0663".encode()) + b"abc"),
    refused("an empty length", head(b"Content-Length:")),
    refused("a length with a space in it", head(b"Content-Length: 1 2")),
    refused("a length with an underscore", head(b"Content-Length: 1_0")),
    refused("a length of 19 digits", head(b"Content-Length: " + b"9" * 19)),
    refused("a length beyond the limit", head(b"Content-Length: " + b"9" * 18), 413),
    refused("a length with a vertical tab", head(b"Content-Length: \x0b3") + b"abc"),
    passed("a length with blanks around it", head(b"Content-Length: \t 3 \t") + b"abc", Y),
    passed("a length with leading zeros", head(b"Content-Length: 0003") + b"abc", Y),
    passed("no length at all", head(), X),
    passed("a body of a GET", head(b"Content-Length: 3", first=GET_LINE) + b"abc", ("GET", "/props", b"abc")),
    passed("a request hidden in a body", head(b"Content-Length: %d" % len(INNER)) + INNER, ("POST", "/v1/x", INNER)),
]
CODINGS = [
    refused("an unknown coding", head(b"Transfer-Encoding: gzip") + INNER, 501),
    refused("two codings", head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    refused("chunked twice in one line", head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", 501),
    refused("chunked twice", head(CHUNKED, CHUNKED) + b"0\r\n\r\n"),
    refused("chunked and then identity", head(CHUNKED, b"Transfer-Encoding: identity") + b"0\r\n\r\n"),
    refused("identity", head(b"Transfer-Encoding: identity") + b"abc", 501),
    refused("xchunked", head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", 501),
    refused("chunked with a vertical tab", head(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n"),
    refused("chunked with a parameter", head(b"Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n", 501),
    refused("chunked in quotes", head(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n", 501),
    refused("an empty coding", head(b"Transfer-Encoding:") + b"0\r\n\r\n", 501),
    refused("a space before the colon", head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n"),
    refused("a folded coding", head(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n"),
    refused("chunked in HTTP/1.0", head(CHUNKED, first=b"POST /v1/x HTTP/1.0") + b"0\r\n\r\n"),
    passed("chunked in capitals", head(b"TRANSFER-ENCODING: Chunked") + b"3\r\nabc\r\n0\r\n\r\n", Y),
    passed("a header that only looks like one", head(b"X-Transfer-Encoding: chunked"), X),
    passed("a name with an underscore", head(b"Transfer_Encoding: chunked", b"Content-Length: 3") + b"abc", Y),
]
CHUNKS = [
    refused("a size with 0x", head(CHUNKED) + b"0x3\r\nabc\r\n0\r\n\r\n"),
    refused("a size with a sign", head(CHUNKED) + b"+3\r\nabc\r\n0\r\n\r\n"),
    refused("a negative size", head(CHUNKED) + b"-1\r\nabc\r\n0\r\n\r\n"),
    refused("an empty size", head(CHUNKED) + b"\r\nabc\r\n0\r\n\r\n"),
    refused("a size with a blank before it", head(CHUNKED) + b" 3\r\nabc\r\n0\r\n\r\n"),
    refused("a size with a blank after it", head(CHUNKED) + b"3 \r\nabc\r\n0\r\n\r\n"),
    refused("a size that is no number", head(CHUNKED) + b"g\r\nabc\r\n0\r\n\r\n"),
    refused("a size that overflows", head(CHUNKED) + b"1" + b"0" * 16 + b"\r\nabc\r\n0\r\n\r\n"),
    refused("a size beyond the limit", head(CHUNKED) + b"fffffff\r\nabc", 413),
    refused("a size line that ends with LF", head(CHUNKED) + b"3\nabc\r\n0\r\n\r\n"),
    refused("a size line that ends with CR", head(CHUNKED) + b"3\rabc\r\n0\r\n\r\n"),
    refused("a chunk that is longer than it says", head(CHUNKED) + b"3\r\nabcd\r\n0\r\n\r\n"),
    refused("a chunk that ends with LF", head(CHUNKED) + b"3\r\nabc\n0\r\n\r\n"),
    refused("a chunk that ends with CR", head(CHUNKED) + b"3\r\nabc\r0\r\n\r\n"),
    refused("an extension with LF in it", head(CHUNKED) + b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    refused("an extension with NUL in it", head(CHUNKED) + b"3;a\x00b\r\nabc\r\n0\r\n\r\n"),
    refused("an extension without end", head(CHUNKED) + b"3;" + b"a" * 300),
    refused("many extensions", head(CHUNKED) + b"1;%b\r\nx\r\n" % (b"a" * 200) * 400),
    refused("a trailer that is no header", head(CHUNKED) + b"0\r\nnot a header\r\n\r\n"),
    refused("a trailer with LF", head(CHUNKED) + b"0\r\nA: b\n\r\n"),
    refused("a trailer without end", head(CHUNKED) + b"0\r\n" + b"A: bbbbbbbbbbbbbbbbbb\r\n" * 4000),
    passed("a size in capitals", head(CHUNKED) + b"00A\r\n0123456789\r\n0\r\n\r\n", ("POST", "/v1/x", b"0123456789")),
    passed("extensions", head(CHUNKED) + b'3;a=b;c="d" \r\nabc\r\n0;e\r\n\r\n', Y),
    passed("trailers", head(CHUNKED, b"Trailer: X") + b"3\r\nabc\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n", Y),
    passed("a request after the last chunk", head(CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n" + head(first=GET_LINE), Y, GET),
]
LINES = [
    refused("lines that end with LF", b"GET /props HTTP/1.1\nHost: gate\n\n"),
    refused("one line that ends with LF", b"GET /props HTTP/1.1\r\nHost: gate\nX: y\r\n\r\n"),
    refused("one line that ends with CR", b"GET /props HTTP/1.1\r\nHost: gate\rX: y\r\n\r\n"),
    refused("a request line that ends with LF", b"GET /props HTTP/1.1\nHost: gate\r\n\r\n"),
    refused("CR CR LF", b"GET /props HTTP/1.1\r\nHost: gate\r\r\n\r\n"),
    refused("an empty line of LF", b"GET /props HTTP/1.1\r\nHost: gate\r\n\n" + INNER),
    refused("a folded header", head(b"X: a\r\n b")),
    refused("a header folded with a tab", head(b"X: a\r\n\tb")),
    refused("a blank line's worth of blanks", head(b" ")),
    refused("a blank before the first header", head(b"Host: gate", host=b" X: y")),
    refused("a header without a colon", head(b"X")),
    refused("a header without a name", head(b": x")),
    refused("a name with a blank", head(b"X Y: z")),
    refused("a name with a colon's neighbour", head(b"X\x00Y: z")),
    refused("a name that is not ASCII", head("Ä: z".encode())),
    refused("a NUL in a value", head(b"X: a\x00b")),
    refused("an escape in a value", head(b"X: a\x1bb")),
    refused("a DEL in a value", head(b"X: a\x7fb")),
    refused("too many headers", head(*[b"X: y"] * 200), 431),
    refused("a header that is too large", head(b"X: " + b"y" * 40_000), 431),
    refused("a head without end", head(b"X: y")[:-4] + b"\r\nX: y" * 8000, 431),
    refused("a target that is too long", b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: gate\r\n\r\n", 414),
    refused("a target without end", b"GET /" + b"a" * 40_000, 414),
    passed("empty lines before the request", b"\r\n\r\n" + head(first=GET_LINE), GET),
    refused("empty lines before nonsense", b"\r\n\r\n: nonsense\r\n\r\n"),
    passed("an empty line before the request", b"\r\n" + head(first=GET_LINE), GET),
    passed("a value beyond ASCII", head("X: ä".encode(), first=GET_LINE), GET),
    passed("an empty value", head(b"X:", b"Y: \t", first=GET_LINE), GET),
]
TARGETS = [
    refused("no Host", head(host=None)),
    refused("two Hosts", head(b"Host: gate")),
    refused("a Host with a path", head(host=b"Host: gate/x")),
    refused("a Host with an at sign", head(host=b"Host: a@gate")),
    refused("a Host with a blank", head(host=b"Host: gate gate")),
    refused("a Host that is a list", head(host=b"Host: gate, other")),
    refused("an absolute target and no Host", head(first=b"GET http://gate/props HTTP/1.1", host=None)),
    refused("an absolute target with a password", head(first=b"GET http://a:b@gate/props HTTP/1.1")),
    refused("an absolute target without a host", head(first=b"GET http:///props HTTP/1.1")),
    refused("another scheme", head(first=b"GET ftp://gate/props HTTP/1.1")),
    refused("no slash", head(first=b"GET props HTTP/1.1")),
    refused("an asterisk of a GET", head(first=b"GET * HTTP/1.1")),
    refused("CONNECT", head(first=b"CONNECT gate:443 HTTP/1.1"), 405),
    refused("TRACE", head(first=b"TRACE / HTTP/1.1"), 405),
    refused("an unknown method", head(first=b"BREW /props HTTP/1.1"), 501),
    refused("a method in small letters", head(first=b"get /props HTTP/1.1"), 501),
    refused("a method that is no token", head(first=b"GE(T /props HTTP/1.1")),
    refused("two blanks in the request line", head(first=b"GET  /props HTTP/1.1")),
    refused("a tab in the request line", head(first=b"GET\t/props HTTP/1.1")),
    refused("a blank after the request line", head(first=b"GET /props HTTP/1.1 ")),
    refused("a blank in the target", head(first=b"GET /pro ps HTTP/1.1")),
    refused("a NUL in the target", head(first=b"GET /pro\x00ps HTTP/1.1")),
    refused("a fragment", head(first=b"GET /props#x HTTP/1.1")),
    refused("a target that is not UTF-8", head(first=b"GET /\xe4 HTTP/1.1")),
    passed("a target in UTF-8", head(first="GET /ä?ü=%41 HTTP/1.1".encode()), ("GET", "/%C3%A4?%C3%BC=%41", b"")),
    passed("two equal Content-Types", head(b"Content-Type: a/b", b"content-type: a/b", first=GET_LINE), GET),
    refused("two different Content-Types", head(b"Content-Type: a/b", b"Content-Type: a/c", first=GET_LINE)),
    refused("a coding that is not known", head(b"Content-Encoding: zstd", b"Content-Length: 1") + b"x", 415),
    refused("HTTP/0.9", b"GET /props\r\n"),
    refused("HTTP/2.0", head(first=b"GET /props HTTP/2.0"), 505),
    refused("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    refused("HTTP/1.1 in small letters", head(first=b"GET /props http/1.1")),
    refused("HTTP/1.10", head(first=b"GET /props HTTP/1.10")),
    refused("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n"),
    refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100),
    refused("an unknown expectation", head(b"Expect: 200-ok"), 417),
    passed("an absolute target", head(first=b"GET http://gate:80/props HTTP/1.1"), GET),
    passed("an absolute target without a path", head(first=b"GET http://gate?a=b HTTP/1.1"), ("GET", "/?a=b", b"")),
    passed("an IPv6 host", head(first=GET_LINE, host=b"Host: [::1]:8080"), GET),
    passed("an empty Host", head(first=GET_LINE, host=b"Host:"), GET),
    passed("HTTP/1.2", head(first=b"GET /props HTTP/1.2"), GET),
    passed("HTTP/1.0", head(first=b"GET /props HTTP/1.0", host=None), GET, state=END),
    passed(
        "HTTP/1.0 that wants to stay", head(b"Connection: keep-alive", first=b"GET /props HTTP/1.0"), GET, state=END
    ),
    passed("an upgrade", head(b"Connection: Upgrade", b"Upgrade: websocket", first=GET_LINE), GET),
    passed("an upgrade to h2c", head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x"), X),
    passed("Connection: close", head(b"Connection: close", first=GET_LINE), GET, state=END),
    passed("Connection: close in a list", head(b"Connection: foo ,CLOSE", first=GET_LINE), GET, state=END),
    passed("nothing after Connection: close", head(b"Connection: close", first=GET_LINE) + INNER, GET, state=END),
    passed("a pair", head(first=GET_LINE) * 2, GET, GET),
    passed("a pair with bodies", (head(b"Content-Length: 3") + b"abc") * 2, Y, Y),
    passed("headers named by Connection", head(b"Connection: Host, Content-Length", b"Content-Length: 3") + b"abc", Y),
    passed("a path with dots", head(first=b"GET /a/../b%2f%00 HTTP/1.1"), ("GET", "/a/../b%2f%00", b"")),
    Case("a good request, then a bad one", head(first=GET_LINE) + head(b"X : y"), (200, 400), seen=(GET,)),
]
CORPUS = LENGTHS + CODINGS + CHUNKS + LINES + TARGETS


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
async def test_corpus(gate: Gate, origin: Origin, case: Case) -> None:
    wire = await gate.wire()
    wire.send(case.sent)
    for status in case.statuses:
        reply = await wire.reply()
        assert reply.status == status
        if status >= 400:
            assert json.loads(reply.body)["error"]["message"]
            assert reply.header("content-type") == "application/json"
    assert (reply.header("connection") == "close") == (case.state == END)
    if case.state == END:
        assert await wire.ended() == b""
    else:
        wire.send(b"GET /health HTTP/1.1\r\nHost: gate\r\n\r\n")
        assert (await wire.reply()).body == b"fine"
    assert [(seen.method, seen.target, seen.body) for seen in origin.requests] == list(case.seen)
    assert not origin.errors
    assert origin.connections <= 1


def test_corpus_is_large() -> None:
    assert len(CORPUS) >= 120
    assert len({case.name for case in CORPUS}) == len(CORPUS)


async def test_clients_that_leave_early_leave_nothing(gate: Gate, origin: Origin) -> None:
    """The same bytes, and half of them, from clients that do not wait."""
    for case in CORPUS:
        origin.requests.clear()
        for sent in (case.sent, case.sent[: len(case.sent) // 2]):
            wire = await gate.wire()
            wire.send(sent)
            await wire.writer.drain()
            await wire.close()
        await gate.until(lambda: gate.server.connections == 0)
        assert all((one.method, one.target, one.body) in case.seen for one in origin.requests), case.name
