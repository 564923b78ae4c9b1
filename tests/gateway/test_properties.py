"""However the bytes are cut on their way, the result is the same."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.gate import post
from tests.gateway.memory import Line
from tests.gateway.origin import EVENT, STREAM_HEAD, chunk, plain
from tests.gateway.test_corpus import CHUNKS, CODINGS, LENGTHS, LINES, TARGETS, Case

Cuts = tuple[int, ...]
ANSWERS = {
    "length": plain(200, b"hello, world"),
    "no body": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "after interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + plain(200, b"x"),
    "stream": STREAM_HEAD + chunk(EVENT) * 3 + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
    "chunks of many sizes": STREAM_HEAD + b"".join(chunk(b"x" * size) for size in (1, 1, 1, 16, 2, 300)) + b"0\r\n\r\n",
    "a trailer": STREAM_HEAD + chunk(b"abc") + b"0\r\nX: y\r\nZ: w\r\n\r\n",
    "a chunk that is too long": STREAM_HEAD + b"3\r\nabcd\r\n0\r\n\r\n",
    "surplus": plain(200, b"hello") + b"more",
    "no answer at all": b"HTTP/1.1 2000 What\r\n\r\n",
}


async def _requests(case: Case, cuts: Cuts) -> tuple[bytes, bool, list[bytes]]:
    line = Line().start()
    await line.send(case.sent, cuts)
    await line.send(b"")
    return line.outcome


async def _answer(answer: bytes, request: bytes, cuts: Cuts) -> bytes:
    line = Line(answer, cuts).start()
    await line.send(request)
    return line.outcome[0]


@pytest.mark.parametrize("section", [LENGTHS, CODINGS, CHUNKS, LINES, TARGETS], ids=lambda cases: cases[0].name)
async def test_request_cut_anywhere_gets_the_same_answer(section: list[Case]) -> None:
    for case in section:
        if len(case.sent) < 300:
            whole = await _requests(case, ())
            for place in range(1, len(case.sent)):
                assert await _requests(case, (place,)) == whole, (case.name, place)
            assert await _requests(case, tuple(range(len(case.sent)))) == whole, case.name


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_answer_cut_anywhere_is_passed_on_the_same(name: str, version: bytes) -> None:
    answer, request = ANSWERS[name], post(b"{}").replace(b"HTTP/1.1", b"HTTP/" + version)
    whole = await _answer(answer, request, ())
    if name in ("a chunk that is too long", "no answer at all"):
        return  # how much of it is passed on before it is seen depends on how it comes
    for place in range(1, len(answer)):
        assert await _answer(answer, request, (place,)) == whole, place
    assert await _answer(answer, request, tuple(range(len(answer)))) == whole


@settings(max_examples=60)
@given(
    body=st.binary(max_size=200),
    sizes=st.lists(st.integers(1, 50), max_size=8),
    answer=st.sampled_from(sorted(set(ANSWERS) - {"a chunk that is too long", "no answer at all"})),
    cuts=st.lists(st.integers(0, 2000), max_size=12).map(tuple),
)
def test_bodies_and_answers_are_the_same_however_they_are_cut(
    body: bytes, sizes: list[int], answer: str, cuts: Cuts
) -> None:
    chunks, rest = b"", body
    for size in sizes:
        if rest:
            chunks, rest = chunks + chunk(rest[:size]), rest[size:]
    chunks += (chunk(rest) if rest else b"") + b"0\r\n\r\n"

    async def check() -> None:
        for request in (post(body), post(b"", "Transfer-Encoding: chunked", length=False) + chunks):
            line = Line(ANSWERS[answer], cuts).start()
            await line.send(request, cuts)
            assert line.bodies == [body]
            assert line.outcome[0] == await _answer(ANSWERS[answer], post(), ())

    asyncio.run(check())


@settings(max_examples=200)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5).map(tuple))
def test_no_bytes_at_all_harm_the_gateway(noise: bytes, cuts: Cuts) -> None:
    async def check() -> None:
        line = Line().start()
        await line.send(noise + b"\r\n\r\n", cuts)
        assert line.rules.held == 0
        assert line.rules.begun == len(line.rules.records)
        if noise.strip(b"\r\n"):
            assert b"HTTP/1.1 4" in line.down.out or b"HTTP/1.1 5" in line.down.out

    asyncio.run(check())
