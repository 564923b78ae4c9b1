"""Pipes that are read without being emptied."""

import os
from collections.abc import Iterator

import pytest

from llamad.host.pipes import drop, peek


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for end in ends:
        os.close(end)


def test_what_was_peeked_at_is_still_there(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"one\ntwo\n")
    assert peek(pipe[0], 100) == b"one\ntwo\n"
    assert os.read(pipe[0], 100) == b"one\ntwo\n"


def test_what_is_dropped_is_gone_and_the_rest_is_not(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"one\ntwo\n")
    drop(pipe[0], len(peek(pipe[0], 4)))
    assert peek(pipe[0], 100) == b"two\n"


def test_an_empty_pipe_would_block(pipe: tuple[int, int]) -> None:
    with pytest.raises(BlockingIOError):
        peek(pipe[0], 100)


def test_the_end_is_empty() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    assert peek(read_end, 100) == b""
    os.close(read_end)


def test_more_than_fits_at_once_comes_in_turns(pipe: tuple[int, int]) -> None:
    sent = bytes(range(256)) * 200
    os.write(pipe[1], sent)
    got = b""
    while len(got) < len(sent):
        piece = peek(pipe[0], 10_000)
        drop(pipe[0], len(piece))
        got += piece
    assert got == sent


def test_what_is_no_pipe_is_an_error(tmp_path: os.PathLike[str]) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid"):
        peek(fd, 1)
    os.close(fd)
