"""One GET over real sockets: what is answered, and every way of not answering."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.servers.probe import MAX_BODY, MAX_INTERIM, CannotProbeError, ProbeAnswer, ProbeError, probe
from tests.folders import short_folder
from tests.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[tuple[Address, list[bytes]]]:
    """A unix server that hands each connection to `serve`, once its request is read; and the requests so far."""
    requests: list[bytes] = []
    done = asyncio.Event()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            await serve(reader, writer)
        finally:
            writer.close()
            done.set()

    with short_folder() as folder:
        async with await asyncio.start_unix_server(one, folder / "s"):
            yield UnixAddress(folder / "s"), requests
            await asyncio.wait_for(done.wait(), 30)


def says(*parts: bytes) -> Serve:
    """Answers with these bytes, one write each, and closes."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return serve


async def says_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()  # until the prober goes


def a_response(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


async def test_an_answer_is_whole_however_it_comes() -> None:
    response = a_response(b'{"status":"ok"}')
    for parts in ([response], [bytes([one]) for one in response]):
        async with server(says(*parts)) as (address, requests):
            answer = await probe(address, "/health", timeout=5)
        assert answer == ProbeAnswer(200, b'{"status":"ok"}')
        assert answer.json() == {"status": "ok"}
        assert requests == [b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"]


async def test_a_key_goes_as_a_bearer_token() -> None:
    async with server(says(a_response(b"[]"))) as (address, requests):
        await probe(address, "/slots", timeout=5, key="s3cret")
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in requests[0]


async def test_chunks_are_put_together() -> None:
    chunked = b"HTTP/1.1 503 Loading\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"
    async with server(says(chunked)) as (address, _):
        assert await probe(address, "/", timeout=5) == ProbeAnswer(503, b"[1]")


async def test_a_second_answer_is_not_heard() -> None:
    async with server(says(a_response(b"1") + a_response(b"2"))) as (address, _):
        assert await probe(address, "/", timeout=5) == ProbeAnswer(200, b"1")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000])
def test_a_body_that_is_no_json_is_none(body: bytes) -> None:
    assert ProbeAnswer(200, body).json() is None


@pytest.mark.parametrize(
    ("serve", "text"),
    [
        (says(), "closed the connection"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "closed the connection"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak HTTP"),
        (says(a_response(b"x" * (MAX_BODY + 1))), "answered with more than 4 MB"),
    ],
    ids=["nothing", "half an answer", "another protocol", "too much"],
)
async def test_what_is_no_answer_is_told(serve: Serve, text: str) -> None:
    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            return  # it hung up, as it should

    async with server(quietly) as (address, _):
        with pytest.raises(ProbeError, match=f"^{text}"):
            await probe(address, "/", timeout=5)


async def test_an_upgrade_that_nobody_asked_for_is_an_answer_without_a_body() -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x01"
    async with server(says(upgrade)) as (address, _):
        assert await probe(address, "/", timeout=5) == ProbeAnswer(101, b"")


async def test_silence_is_told_when_the_time_is_over() -> None:
    async with server(says_nothing) as (address, requests):
        with pytest.raises(ProbeError, match=r"^did not answer in 0\.05 s$"):
            await probe(address, "/", timeout=0.05)
    assert len(requests) == 1


async def test_who_is_cancelled_leaves_no_connection() -> None:
    async with server(says_nothing) as (address, requests):
        asking = asyncio.ensure_future(probe(address, "/", timeout=5))
        await until(lambda: requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking  # and the server sees the end of the connection


async def test_nobody_there_is_told() -> None:
    with pytest.raises(ProbeError, match=r"^No such file or directory$"):
        await probe(UnixAddress(Path("/nonexistent/s")), "/", timeout=5)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ProbeError, match=r"refused|Connect call failed"):
            await probe(TcpAddress("127.0.0.1", taken.getsockname()[1]), "/", timeout=5)


async def test_a_tcp_server_is_asked_by_its_name() -> None:
    requests: list[bytes] = []
    done = asyncio.Event()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(a_response(b"1"))
        writer.close()
        done.set()

    async with await asyncio.start_server(one, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        assert await probe(TcpAddress("127.0.0.1", port), "/", timeout=5) == ProbeAnswer(200, b"1")
        await done.wait()
    assert b"Host: 127.0.0.1:%d\r\n" % port in requests[0]


async def test_what_could_not_be_asked_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe without a descriptor counted as a server that does not answer, and the server was killed."""

    async def lacks(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("llamad.servers.probe.connected", lacks)
    with pytest.raises(CannotProbeError, match="Too many open files"):
        await probe(UnixAddress(Path("/nowhere")), "/health", timeout=1)


async def test_a_time_out_while_llamad_itself_was_held_up_is_no_silence() -> None:
    """It may have been stopped, or busy with another server's flood: the answer may lie there unread."""
    async with server(says_nothing) as (address, _):
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.4)
        with pytest.raises(CannotProbeError, match=r"^llamad itself was held up for "):
            await probe(address, "/", timeout=0.3)


async def test_a_body_is_posted_as_json() -> None:
    async with server(says(a_response(b"{}"))) as (address, requests):
        await probe(address, "/completion", timeout=5, key="k", body=b'{"n_predict":1}')
    assert requests[0].startswith(b"POST /completion HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\nContent-Length: 15\r\n" in requests[0]


@pytest.mark.parametrize("body", [b"NaN", b'{"n": Infinity}', b"[-Infinity]", b"[" * 5000, b"{", b""])
def test_what_is_no_json_is_none(body: bytes) -> None:
    assert ProbeAnswer(200, body).json() is None


@pytest.mark.parametrize("body", [b"[%s{}]" % (b"{}," * 1_300_000), b"[%s1]" % (b"1," * 2_000_000), b"[" * MAX_BODY])
def test_an_answer_of_very_many_values_is_not_read(body: bytes) -> None:
    """A server that somebody else runs can send what takes seconds to read, and the loop is everybody's."""
    began = time.thread_time()
    assert ProbeAnswer(200, body).json() is None
    assert time.thread_time() - began < 0.2


def test_a_long_text_is_read() -> None:
    assert ProbeAnswer(200, b'[{"prompt": "%s"}]' % (b"some words, and more. " * 100_000)).json() is not None


@pytest.mark.parametrize("interim", [1, MAX_INTERIM])
async def test_what_says_that_it_goes_on_is_not_the_answer(interim: int) -> None:
    goes_on = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * interim
    async with server(says(goes_on, a_response(b"well"))) as (address, _):
        assert await probe(address, "/health", timeout=5) == ProbeAnswer(200, b"well")


async def test_one_that_goes_on_for_ever_is_given_up() -> None:
    async with server(says(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000)) as (address, _):
        with pytest.raises(ProbeError, match="goes on"):
            await probe(address, "/health", timeout=5)
