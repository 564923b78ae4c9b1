"""Bytes to lines, the ring, and its followers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.host.visible import visible
from llamad.servers.output import Follower, Line, LineSplitter, Output


def a_line(text: str = "x", replica: int = 0) -> Line:
    return Line(1.0, 20, text, replica)


@pytest.mark.parametrize(
    ("chunks", "lines", "rest"),
    [
        ([b"one\ntwo\n"], ["one", "two"], []),
        ([b"o", b"ne\nt", b"wo"], ["one"], ["two"]),
        ([b"one\r\n\r\ntwo\r\n"], ["one", "", "two"], []),
        ([b" 10 %\r 50 %\r100 %\n"], ["100 %"], []),
        ([b"\x1b[1mr\n"], ["r"], []),
        ([b"\n\n"], ["", ""], []),
        ([b""], [], []),
        ([b"caf\xc3", b"\xa9\n"], ["café"], []),
        ([b"\xff\xfe bad\n"], ["\ufffd\ufffd bad"], []),
        ([b"a \0 b\n"], ["a \ufffd b"], []),
        ([b"0123456789ABC\n"], ["01234567", "89ABC"], []),
        ([b"0123456789"], ["01234567"], ["89"]),
        ([b"0123", b"4567", b"89\n"], ["01234567", "89"], []),
        ([b"01234567\n"], ["01234567"], []),
        (["1234567€\n".encode()], ["1234567", "€"], []),
        ([b"\xbf" * 9 + b"\n"], ["\ufffd" * 4, "\ufffd" * 5], []),  # no character begins anywhere
    ],
)
def test_bytes_become_lines(chunks: list[bytes], lines: list[str], rest: list[str]) -> None:
    splitter = LineSplitter(max_line=8)
    assert [line for chunk in chunks for line in splitter.feed(chunk)] == lines
    assert splitter.flush() == rest
    assert splitter.flush() == []


def test_no_client_hides_the_beginning_of_a_line_or_steers_a_terminal() -> None:
    bar = b"\x1b[34m0.00.1.1\x1b[0m x\r0.00.006.794 E over\n"
    said = bar + b"0.00.006.794 W srv  x: type: a\r0.00.006.794 E b\x1b]0;t\x07\n"
    assert LineSplitter().feed(said) == [
        "0.00.006.794 E over",
        "0.00.006.794 W srv  x: type: a\\r0.00.006.794 E b\\x1b]0;t\\x07",
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)), st.data())
def test_where_the_bytes_are_cut_makes_no_difference(lines: list[str], data: st.DataObject) -> None:
    raw = "".join(line + "\n" for line in lines).encode()
    splitter, found, at = LineSplitter(), list[str](), 0
    while at < len(raw):
        size = data.draw(st.integers(1, len(raw)))
        found += splitter.feed(raw[at : at + size])
        at += size
    assert found + splitter.flush() == [visible(line) for line in lines]


def test_a_line_without_end_is_held_to_its_bound() -> None:
    splitter = LineSplitter(max_line=100)
    pieces = [piece for _ in range(1000) for piece in splitter.feed(b"x" * 77)]
    assert sum(map(len, pieces)) + len("".join(splitter.flush())) == 77_000
    assert max(map(len, pieces)) == 100


def test_the_ring_keeps_the_newest() -> None:
    output = Output(max_lines=3)
    for i in range(5):
        output.add(a_line(str(i)))
    assert [line.text for line in output.lines()] == ["2", "3", "4"]
    assert [line.text for line in output.lines(2)] == ["3", "4"]
    assert output.lines(0) == output.lines(-1) == []
    assert len(output.lines(99)) == 3


def test_the_ring_is_bounded_in_bytes_too_but_keeps_one_line() -> None:
    output = Output(max_bytes=10)
    for text in ("aaaa", "bbbb", "cccc"):
        output.add(a_line(text))
    assert [line.text for line in output.lines()] == ["bbbb", "cccc"]
    output.add(a_line("d" * 50))
    assert [line.text for line in output.lines()] == ["d" * 50]
    output.add(a_line("e"))
    assert [line.text for line in output.lines()] == ["e"]


async def test_a_follower_gets_what_comes_and_only_that() -> None:
    output = Output()
    output.add(a_line("before"))
    async with output.follow() as lines, asyncio.timeout(30):
        output.add(a_line("one"))
        output.add(a_line("two", replica=1))
        assert [await anext(lines), await anext(lines)] == [a_line("one"), a_line("two", replica=1)]
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        assert not waiting.done()
        output.add(a_line("three"))
        assert (await waiting).text == "three"
        output.add(a_line("last"))
        assert [line.text async for line in _first(lines, 1)] == ["last"]


async def _first(lines: Follower, count: int) -> AsyncIterator[Line]:
    async for line in lines:
        yield line
        count -= 1
        if not count:
            return


async def test_a_slow_follower_loses_the_oldest_and_is_told() -> None:
    output = Output()
    async with output.follow(max_behind=2) as slow, output.follow() as quick, asyncio.timeout(30):
        for i in range(5):
            output.add(a_line(str(i)))
        assert [(await anext(slow)).text, (await anext(slow)).text] == ["3", "4"]
        assert slow.take_lost() == 3
        assert slow.take_lost() == 0
        assert (await anext(quick)).text == "0"
        assert quick.take_lost() == 0


async def test_a_follower_that_leaves_is_forgotten() -> None:
    output = Output()
    async with output.follow() as gone:
        pass
    output.add(a_line("later"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(gone)
