"""Compressed bodies: undone in bounds, or refused in words."""

import gzip
import zlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.gateway.decoding import Decoder, coding_of
from llamad.gateway.fields import MalformedError

gzipped = partial(gzip.compress, mtime=0)  # two workers have to find the same tests
BODY = b'{"model": "one", "prompt": "' + b"x" * 3_000_000 + b'"}'
LIMIT = 4 << 20


def decoded(coding: bytes, data: bytes, limit: int = LIMIT) -> bytes:
    decoder = Decoder(coding, data, limit)
    while not decoder.done:
        before = len(decoder.body)
        decoder.step()
        assert len(decoder.body) - before <= 1 << 20
    return bytes(decoder.body)


def raw(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        (b"gzip", gzipped(BODY)),
        (b"x-gzip", gzipped(BODY)),
        (b"gzip", gzipped(BODY[:100]) + gzipped(BODY[100:])),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", raw(BODY)),
    ],
)
def test_a_body_is_what_was_meant(coding: bytes, data: bytes) -> None:
    assert decoded(coding, data) == BODY


@pytest.mark.parametrize("more", range(1, 300, 23))
def test_what_zlib_took_and_still_holds_belongs_to_the_body(more: int) -> None:
    """The last bytes of a body without a checksum behind it may be taken in before there is room to write them out."""
    body = b"a" * ((1 << 20) + more)
    assert decoded(b"deflate", raw(body)) == body


def test_an_empty_one_is_empty() -> None:
    assert decoded(b"gzip", gzipped(b"")) == b""


def test_a_bomb_is_ended_at_the_limit() -> None:
    for coding, data in ((b"gzip", gzipped(bytes(64 << 20))), (b"deflate", zlib.compress(bytes(64 << 20)))):
        with pytest.raises(MalformedError) as refused:
            decoded(coding, data)
        assert refused.value.status == 413


def test_a_body_of_very_many_members_is_refused() -> None:
    with pytest.raises(MalformedError, match="something else"):
        decoded(b"gzip", gzipped(b"") * 1000)


@pytest.mark.parametrize(
    ("coding", "data", "what"),
    [
        (b"gzip", b"not gzip", "broken"),
        (b"gzip", gzipped(BODY)[:-1], "not complete"),
        (b"gzip", gzipped(BODY)[:40], "not complete"),
        (b"gzip", gzipped(bytes(1 << 20))[:-8], "not complete"),
        (b"gzip", gzipped(BODY) + b"more", "broken"),
        (b"deflate", zlib.compress(BODY) + b"more", "something else"),
        (b"deflate", b"\xff\xff", "broken"),
        (b"gzip", BODY, "broken"),
    ],
)
def test_what_is_not_what_it_says_is_refused_in_words(coding: bytes, data: bytes, what: str) -> None:
    with pytest.raises(MalformedError, match=what) as refused:
        decoded(coding, data)
    assert refused.value.status == 400
    assert "Content-Encoding" in refused.value.message


@given(st.binary(min_size=1, max_size=200), st.sampled_from([b"gzip", b"deflate"]))
def test_no_bytes_break_it(data: bytes, coding: bytes) -> None:
    decoder = Decoder(coding, data, 1000)
    try:
        while not decoder.done:
            decoder.step()
    except MalformedError:
        pass


@pytest.mark.parametrize(
    ("value", "coding"), [(None, None), (b"identity", None), (b"", None), (b"GZIP", b"gzip"), (b"deflate", b"deflate")]
)
def test_codings(value: bytes | None, coding: bytes | None) -> None:
    assert coding_of(value) == coding


@pytest.mark.parametrize("value", [b"zstd", b"br", b"gzip, gzip", b"compress", b"\xff"])
def test_a_coding_that_is_not_known_is_named(value: bytes) -> None:
    with pytest.raises(MalformedError, match="Content-Encoding") as refused:
        coding_of(value)
    assert refused.value.status == 415
