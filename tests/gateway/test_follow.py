"""Where an answer's body ends, and what is done about one that breaks off or is framed wrongly."""

from collections import deque
from dataclasses import replace

import pytest

from llamad.gateway.answers import read_answer
from llamad.gateway.fields import MalformedError
from llamad.gateway.follow import WHOLE, ChunkFollower, LengthBody, Unchunked, UntilClose, body_of
from tests.gateway.fleets import a_head
from tests.gateway.origin import chunk

WRONG = "not chunked as it says"


def test_a_body_of_a_known_length_cannot_be_brought_to_an_end_by_hand() -> None:
    body = LengthBody(10)
    assert body.feed(b"12345") == b"12345"
    assert not body.done
    assert body.repair() is None


def test_what_comes_beyond_the_length_is_not_passed_on() -> None:
    body = LengthBody(3)
    assert body.feed(b"12345") == b"123"
    assert body.done
    assert body.surplus


def test_a_body_that_ends_with_the_connection_needs_no_repair() -> None:
    body = UntilClose()
    assert body.feed(b"12345") == b"12345"
    assert body.repair() == b""


def test_a_chunk_that_does_not_end_where_it_says_is_wrong() -> None:
    with pytest.raises(MalformedError, match=WRONG):
        ChunkFollower().feed(b"3\r\nabcXX")


def test_so_is_one_that_began_in_an_earlier_piece() -> None:
    follower = ChunkFollower()
    follower.feed(b"5\r\nab")
    with pytest.raises(MalformedError, match=WRONG):
        follower.feed(b"cdeXX")


def test_and_one_whose_end_was_cut_in_two() -> None:
    follower = ChunkFollower()
    follower.feed(b"3\r\nabc\r")
    with pytest.raises(MalformedError, match=WRONG):
        follower.feed(b"X3\r\n")


@pytest.mark.parametrize("line", [b"zz", b"12345678901234567890", b"\n"])
def test_what_can_be_no_size_is_wrong_before_its_line_ends(line: bytes) -> None:
    with pytest.raises(MalformedError, match=WRONG):
        ChunkFollower().feed(line)


@pytest.mark.parametrize("wrong", [b"3\r\nabcx\n0\r\n\r\n", b"3\r\nabc\rx0\r\n\r\n"])
def test_a_chunk_without_its_end_is_wrong_wherever_the_bytes_are_cut(wrong: bytes) -> None:
    for first in range(len(wrong) + 1):
        for second in range(first, len(wrong) + 1):
            pieces = [piece for piece in (wrong[:first], wrong[first:second], wrong[second:]) if piece]
            follower = ChunkFollower()
            with pytest.raises(MalformedError, match=WRONG):
                deque(map(follower.feed, pieces), maxlen=0)


def test_a_trailer_has_a_bound() -> None:
    follower = ChunkFollower()
    with pytest.raises(MalformedError, match="trailer that is too long"):
        follower.feed(b"0\r\nA: " + b"x" * 100_000)


def test_a_chunk_that_breaks_off_is_brought_to_its_end() -> None:
    follower = ChunkFollower()
    passed = follower.feed(b"6\r\nab")
    repair = follower.repair()
    assert repair is not None
    whole = ChunkFollower()
    assert whole.feed(passed + repair + b"0\r\n\r\n").endswith(b"0\r\n\r\n")
    assert whole.done


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", LengthBody),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", ChunkFollower),
        (b"HTTP/1.1 200 OK", UntilClose),
    ],
)
def test_the_head_says_how_the_end_is_found(head: bytes, kind: type) -> None:
    assert type(body_of(*read_answer(head), a_head(), 0)) is kind


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_some_answers_have_no_body_whatever_they_say(method: str, status: int) -> None:
    answer = read_answer(b"HTTP/1.1 %d X\r\nContent-Length: 5" % status)
    body = body_of(*answer, a_head(method), 5)
    assert body.done
    assert body.feed(b"abcde") == b""
    assert body.surplus


def test_an_answer_that_is_whole_need_not_be_followed() -> None:
    answer = read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5")
    assert body_of(*answer, a_head(), 5) is WHOLE
    assert body_of(*answer, a_head(), 6) is not WHOLE


def test_an_old_client_has_the_chunks_taken_off() -> None:
    head = replace(a_head(), version=(1, 0))
    body = body_of(*read_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"), head, 0)
    assert type(body) is Unchunked
    assert body.repair() == b""
    assert body.feed(chunk(b"ab") + b"2\r\nc") == b"abc"
    assert body.feed(b"d\r\n0\r\n\r\nx") == b"d"
    assert body.done
    assert body.surplus
    with pytest.raises(MalformedError) as refused:
        Unchunked().feed(b"nonsense")
    assert refused.value.status == 502


def test_a_size_line_is_held_back_until_it_is_whole() -> None:
    body = ChunkFollower()
    assert body.feed(chunk(b"a") * 3 + b"1") == chunk(b"a") * 3
    assert body.repair() == b""
    assert [body.feed(piece) for piece in (b"0", b"\r", b"\nabc")] == [b"", b"", b"10\r\nabc"]
    assert body.repair() == b"\n" * 13 + b"\r\n"


@pytest.mark.parametrize("trailer", [b"", b"X: y\r\n", b"X: y\r\nContent-Length: 9\r\n"])
def test_trailers_are_left_out(trailer: bytes) -> None:
    body = ChunkFollower()
    assert body.feed(chunk(b"a") + b"0\r\n" + trailer + b"\r\nmore") == chunk(b"a") + b"0\r\n\r\n"
    assert body.done
    assert body.surplus


def test_a_chunk_that_is_too_long_to_fill_is_not_repaired() -> None:
    body = ChunkFollower()
    body.feed(b"fffffff\r\nabc")
    assert body.repair() is None
