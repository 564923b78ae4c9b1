"""Which pages may read answers in a browser."""

import pytest

from llamad.gateway.cors import Cors
from llamad.gateway.types import METHODS
from tests.gateway.fleets import a_head

CHAT = "https://chat.example.org"
ALLOWED = [
    (b"access-control-allow-origin", CHAT.encode()),
    (b"vary", b"origin"),
    (b"access-control-expose-headers", b"x-request-id, retry-after"),
]


def preflight(cors: Cors, **headers: str) -> dict[bytes, bytes]:
    answer = cors.preflight(a_head("OPTIONS", **headers))
    assert answer.status == 204
    return dict(answer.headers)


def test_without_origins_nothing_is_said() -> None:
    assert Cors([]).headers(a_head(origin=CHAT)) == []


def test_an_allowed_origin_is_named_back() -> None:
    assert Cors([CHAT + "/", "http://x"]).headers(a_head(origin=CHAT)) == ALLOWED


@pytest.mark.parametrize("origin", ["https://evil.example.org", CHAT + ".evil.org", "null", "*"])
def test_another_origin_gets_nothing_but_vary(origin: str) -> None:
    assert Cors([CHAT]).headers(a_head(origin=origin)) == [(b"vary", b"origin")]
    assert set(preflight(Cors([CHAT]), origin=origin, access_control_request_method="POST")) == {b"allow"}


def test_who_sends_no_origin_gets_vary_where_it_matters() -> None:
    assert Cors([CHAT]).headers(a_head()) == [(b"vary", b"origin")]
    assert Cors(["*"]).headers(a_head()) == []


def test_every_origin() -> None:
    assert Cors(["*"]).headers(a_head(origin="null"))[0] == (b"access-control-allow-origin", b"*")


def test_a_preflight_is_told_methods_and_the_headers_it_asked_for() -> None:
    headers = preflight(
        Cors([CHAT]),
        origin=CHAT,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type",
    )
    assert headers[b"access-control-allow-methods"] == ", ".join(METHODS).encode()
    assert headers[b"access-control-allow-headers"] == b"authorization,content-type"
    assert headers[b"access-control-max-age"] == b"600"


def test_a_preflight_that_asks_for_no_header_is_told_none() -> None:
    headers = preflight(Cors(["*"]), origin=CHAT, access_control_request_method="GET")
    assert b"access-control-allow-headers" not in headers
    assert b"access-control-allow-methods" in headers


@pytest.mark.parametrize("headers", [{}, {"origin": CHAT}, {"access_control_request_method": "POST"}])
def test_other_options_are_told_the_methods(headers: dict[str, str]) -> None:
    assert preflight(Cors([CHAT]), **headers) == {b"allow": ", ".join(METHODS).encode()}
