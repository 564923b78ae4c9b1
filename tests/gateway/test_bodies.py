"""Request bodies, collected."""

import pytest

from llamad.gateway.bodies import ChunkedBody, SizedBody
from llamad.gateway.fields import MalformedError
from tests.gateway.origin import chunk


def test_sized_body_takes_its_own_and_no_more() -> None:
    body = SizedBody(5)
    assert body.feed(b"abc") == b""
    assert not body.done
    assert body.feed(b"defg") == b"fg"
    assert (bytes(body.body), body.done) == (b"abcde", True)


def test_chunked_body_takes_its_own_and_no_more() -> None:
    body = ChunkedBody(100)
    assert body.feed(chunk(b"abc") + chunk(b"de") + b"0\r\n\r\nnext") == b"next"
    assert (bytes(body.body), body.done) == (b"abcde", True)


def test_limit_is_exact() -> None:
    exact = ChunkedBody(5)
    exact.feed(chunk(b"abc") + chunk(b"de") + b"0\r\n\r\n")
    assert exact.done
    with pytest.raises(MalformedError) as refused:
        ChunkedBody(5).feed(chunk(b"abc") + b"3\r\n")
    assert refused.value.status == 413
    with pytest.raises(MalformedError) as at_once:
        ChunkedBody(5).feed(b"fffffffffffffff\r\n")
    assert at_once.value.status == 413


@pytest.mark.parametrize("start", [b"g", b"3\n", b"3\rx", b"0x", b"3;\x01", b"3 x", b";", b"1" * 16])
def test_what_can_never_be_a_size_is_refused_before_its_line_ends(start: bytes) -> None:
    with pytest.raises(MalformedError) as refused:
        ChunkedBody(100).feed(start)
    assert refused.value.status == 400


def test_many_small_chunks_cost_no_extra() -> None:
    body = ChunkedBody(1 << 20)
    body.feed(chunk(b"x" * 64) * 16_384 + b"0\r\n\r\n")
    assert len(body.body) == 1 << 20


def test_very_many_tiny_chunks_are_refused() -> None:
    body = ChunkedBody(1 << 20)
    with pytest.raises(MalformedError, match="less than 64 bytes") as refused:
        body.feed(chunk(b"x") * 20_000)
    assert refused.value.status == 400
    assert len(body.body) == 16_384
