"""Where an answer's body ends, and what is done about one that breaks off or is framed wrongly."""

import pytest

from llamad.gateway.fields import MalformedError
from llamad.gateway.follow import ChunkFollower, LengthBody, UntilClose

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
