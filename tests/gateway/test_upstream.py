"""Connections to the servers, and the pools that keep them."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llamad.gateway import upstream
from llamad.gateway.shared import Tasks
from llamad.gateway.upstream import MAX_IDLE, IdleCount, Pool, Upstream, Upstreams
from llamad.host.address import TcpAddress, UnixAddress
from tests.folders import short_folder
from tests.gateway.fleets import until
from tests.gateway.gate import BOUND
from tests.gateway.memory import Remembers


class Wants:
    """A Receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Upstream | str] = asyncio.Queue()
        self.data = b""
        self.ended: list[Exception | None] = []
        self.lacking: list[bool] = []

    def opened(self, upstream: Upstream) -> None:
        upstream.receiver = self
        self.told.put_nowait(upstream)

    def not_opened(self, reason: str, *, lacking: bool) -> None:
        self.told.put_nowait(reason)
        self.lacking.append(lacking)

    def received(self, data: bytes) -> None:
        self.data += data

    def lost(self, error: Exception | None) -> None:
        self.ended.append(error)

    async def outcome(self) -> Upstream | str:
        """The connection, or why there is none."""
        return await asyncio.wait_for(self.told.get(), BOUND)


@pytest.fixture
async def tasks(_no_task_left: None) -> AsyncIterator[Tasks]:
    one = Tasks()
    yield one
    await one.close()


def a_pool(tasks: Tasks) -> Pool:
    return Pool(UnixAddress(Path("/nowhere")), tasks.spawn, 0.0)


def a_connection(pool: Pool) -> Upstream:
    one = Upstream(pool)
    one.connection_made(Remembers())
    return one


def closed(one: Upstream) -> bool:
    return one.transport.is_closing()


def test_the_last_one_used_is_used_next_and_old_ones_are_closed(tasks: Tasks) -> None:
    pool = a_pool(tasks)
    first, second, third = (a_connection(pool) for _ in range(3))
    first.keep()
    pool.sweep(3.0)
    second.keep()
    third.keep()
    assert pool.take() is third
    assert third.reused
    third.keep()
    pool.sweep(4.5)
    assert [closed(one) for one in (first, second, third)] == [True, False, False]
    pool.sweep(7.5)
    assert closed(third)
    assert pool.take() is None


def test_one_that_is_closing_is_not_used(tasks: Tasks) -> None:
    pool = a_pool(tasks)
    one = a_connection(pool)
    one.keep()
    one.transport.close()
    assert pool.take() is None


def test_no_more_are_kept_than_the_limit(tasks: Tasks) -> None:
    pool = a_pool(tasks)
    many = [a_connection(pool) for _ in range(MAX_IDLE + 1)]
    for one in many:
        one.keep()
    assert [closed(one) for one in many] == [True] + [False] * MAX_IDLE


def test_pool_is_the_same_while_anything_is_connected(tasks: Tasks) -> None:
    first, second = UnixAddress(Path("/a")), UnixAddress(Path("/b"))
    pools = Upstreams(tasks.spawn, lambda: 0.0)
    one = pools.pool(first)
    connection = a_connection(one)
    connection.keep()
    pools.sweep(1.0)
    assert pools.pool(second) is not one
    assert pools.pool(first) is one
    connection.connection_lost(None)
    pools.sweep(1.0)
    assert pools.pool(first) is not one


async def test_connection_that_cannot_be_is_told(tasks: Tasks) -> None:
    wants = Wants()
    a_pool(tasks).connect(wants)
    assert "/nowhere: No such file" in str(await wants.outcome())
    Pool(TcpAddress("127.0.0.1", 1), tasks.spawn, 0.0).connect(wants)
    assert "127.0.0.1:1" in str(await wants.outcome())


async def test_a_host_that_goes_without_a_word_is_noticed(tasks: Tasks) -> None:
    """A far host that lost power hung its clients until their own time-outs."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with server:
        wants = Wants()
        Pool(TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1]), tasks.spawn, 0.0).connect(wants)
        one = await wants.outcome()
        assert isinstance(one, Upstream)
        sock = one.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        one.drop()
        await until(lambda: writers)
        writers[0].close()


async def test_a_lack_of_descriptors_is_not_the_servers_silence(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    async def opens(self: Pool, one: Upstream) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Pool, "_open", opens)
    wants = Wants()
    a_pool(tasks).connect(wants)
    assert "Too many open files" in str(await wants.outcome())
    assert wants.lacking == [True]


async def test_idle_connections_of_all_servers_together_are_bounded(tasks: Tasks) -> None:
    pools = Upstreams(tasks.spawn, lambda: 0.0, IdleCount(4))
    kept = []
    for number in range(10):
        one = a_connection(pools.pool(UnixAddress(Path(f"/{number}"))))
        one.keep()
        kept.append(one)
    assert [closed(one) for one in kept] == [False] * 4 + [True] * 6
    assert pools.pool(UnixAddress(Path("/0"))).take() is kept[0]
    assert pools.count.now == 3


async def test_connecting_has_an_end(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "CONNECT_SECONDS", 0.01)
    wants = Wants()
    with short_folder() as folder:
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), str(folder / "s"), backlog=0)
        server.get_loop().remove_reader(server.sockets[0].fileno())  # it listens, and takes nobody
        pool = Pool(UnixAddress(folder / "s"), tasks.spawn, 0.0)
        for _ in range(2):
            pool.connect(wants)
            outcome = await wants.outcome()
            if isinstance(outcome, Upstream):
                outcome.drop()
        assert "within" in str(outcome)
        server.close()


async def test_connection_that_is_closed_at_once_is_none(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    async def opens(self: Pool, one: Upstream) -> None:
        one.connection_made(Remembers())
        one.connection_lost(None)

    monkeypatch.setattr(Pool, "_open", opens)
    wants = Wants()
    a_pool(tasks).connect(wants)
    assert "closed the connection at once" in str(await wants.outcome())


@pytest.mark.parametrize("where", ["before", "after"])
async def test_connecting_can_be_given_up_at_any_time(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    made: list[Upstream] = []

    async def opens(self: Pool, one: Upstream) -> None:
        if where == "after":
            one.connection_made(Remembers())
            made.append(one)
        await asyncio.Event().wait()

    monkeypatch.setattr(Pool, "_open", opens)
    pool, wants = a_pool(tasks), Wants()
    task = pool.connect(wants)
    await asyncio.sleep(0)
    unused = [pool.unused]
    task.cancel()
    await asyncio.wait([task])
    assert [*unused, pool.unused] == [False, True]
    assert wants.told.empty()
    assert all(closed(one) for one in made)


async def test_what_comes_is_given_to_whoever_asked_and_to_nobody_else(tasks: Tasks) -> None:
    with short_folder() as folder:
        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_unix_server(lambda _, writer: writers.append(writer), str(folder / "s"))
        pool, wants = Pool(UnixAddress(folder / "s"), tasks.spawn, 0.0), Wants()
        pool.connect(wants)
        one = await wants.outcome()
        assert isinstance(one, Upstream)
        assert not one.reused
        await until(lambda: writers)
        writers[0].write(b"mine")
        await until(lambda: wants.data == b"mine")
        one.keep()
        writers[0].write(b"nobody's")
        await until(lambda: not pool.open)
        assert wants.data == b"mine"
        assert wants.ended == []
        assert pool.take() is None
        writers[0].close()
        server.close()
