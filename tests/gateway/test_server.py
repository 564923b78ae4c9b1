"""Listening: on what the configuration says, as soon as it can be, and handed on to a successor."""

import asyncio
import logging
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamad.gateway import listen
from llamad.gateway.listen import descriptor_name, inherit
from llamad.gateway.server import GatewayServer
from llamad.gateway.shared import Limits
from llamad.host.address import Address, TcpAddress, UnixAddress
from tests.folders import short_folder
from tests.gateway.gate import BOUND, Rules, get
from tests.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as one:
        yield one


@pytest.fixture
def port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found = sock.getsockname()[1]
        assert isinstance(found, int)
        return found


async def healthy(address: Address) -> bool:
    """Whether a gateway answers there."""
    try:
        if isinstance(address, UnixAddress):
            reader, writer = await asyncio.open_unix_connection(str(address.path))
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.write(get("/health", "Connection: close"))
    answer = await asyncio.wait_for(reader.read(), BOUND)
    writer.close()
    return answer.endswith(b"fine")


async def test_addresses_come_and_go_and_others_stay(folder: Path, port: int) -> None:
    tcp, unix = TcpAddress("127.0.0.1", port), UnixAddress(folder / "g")
    async with GatewayServer(Rules(), Limits()) as server:
        await server.apply([tcp])
        kept = server.sockets[tcp][0].fileno()
        assert await healthy(tcp)
        await server.apply([tcp, unix])
        assert await healthy(unix)
        assert stat.S_IMODE(os.stat(unix.path).st_mode) == 0o660
        await server.apply([tcp])
        assert not await healthy(unix)
        assert not unix.path.exists()
        assert server.sockets[tcp][0].fileno() == kept
        await server.apply([])
        assert not await healthy(tcp)


async def test_connection_outlives_the_address_it_came_by(folder: Path, port: int) -> None:
    tcp = TcpAddress("127.0.0.1", port)
    async with GatewayServer(Rules(), Limits()) as server:
        await server.apply([tcp])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/health"))
        assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200")
        await server.apply([])
        writer.write(get("/health"))
        assert (await asyncio.wait_for(reader.readuntil(b"fine"), BOUND)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_port_that_is_taken_is_tried_again_and_told(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(listen, "LAST_RETRY", 0.02)
    reports: list[str | None] = []
    told = asyncio.Event()

    def report(text: str | None) -> None:
        reports.append(text)
        if text is None:
            told.set()

    taken, free = TcpAddress("127.0.0.1", port), TcpAddress("127.0.0.1", 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        async with GatewayServer(Rules(), Limits(), report=report) as server:
            await server.apply([taken, free])
            assert reports[-1] == f"cannot listen on 127.0.0.1:{port}: something else listens there"
            assert await healthy(TcpAddress("127.0.0.1", server.sockets[free][0].getsockname()[1]))
            other.close()
            async with asyncio.timeout(BOUND):
                await told.wait()
            assert await healthy(taken)


async def test_port_that_stays_taken_is_given_up_with_its_address(port: int) -> None:
    reports: list[str | None] = []
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        async with GatewayServer(Rules(), Limits(), report=reports.append) as server:
            await server.apply([TcpAddress("127.0.0.1", port)])
            await server.apply([])
            assert reports[-1] is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (UnixAddress(Path("/nowhere/at/all")), "No such file"),
        (TcpAddress("192.0.2.1", 8080), "does not have that IP address"),
        (TcpAddress("no-such-host.invalid", 8080), ""),
    ],
)
async def test_address_that_cannot_be_is_told(address: Address, why: str) -> None:
    reports: list[str | None] = []
    async with GatewayServer(Rules(), Limits(), report=reports.append) as server:
        await server.apply([address])
        assert reports[-1] is not None
        assert str(address) in reports[-1]
        assert why in reports[-1]


async def test_socket_that_was_left_behind_is_replaced(folder: Path) -> None:
    address = UnixAddress(folder / "g")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(address.path))
    async with GatewayServer(Rules(), Limits()) as server:
        await server.apply([address])
        assert await healthy(address)


@pytest.mark.parametrize("kind", ["a socket that answers", "a file"])
async def test_what_is_not_ours_is_not_replaced(folder: Path, kind: str) -> None:
    address = UnixAddress(folder / "g")
    reports: list[str | None] = []
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "a file":
            address.path.write_text("precious")
        else:
            other.bind(str(address.path))
            other.listen()
        async with GatewayServer(Rules(), Limits(), report=reports.append) as server:
            await server.apply([address])
            assert "something else" in (reports[-1] or "")
        assert address.path.exists()


async def test_successor_inherits_what_is_listened_on(folder: Path, port: int) -> None:
    """A client that connects between the two is answered by the second."""
    addresses: list[Address] = [TcpAddress("127.0.0.1", port), UnixAddress(folder / "g")]
    handed: dict[str, list[int]] = {}
    async with GatewayServer(Rules(), Limits()) as first:
        await first.apply(addresses)
        for address, sockets in first.sockets.items():
            handed[descriptor_name(address)] = [os.dup(sock.fileno()) for sock in sockets]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get("/health", "Connection: close"))
    async with GatewayServer(Rules(), Limits(), inherited=inherit(handed, addresses)) as second:
        assert not handed
        await second.apply(addresses)
        assert (await asyncio.wait_for(reader.read(), BOUND)).endswith(b"fine")
        writer.close()
        for address in addresses:
            assert await healthy(address)
        await second.apply([])
        assert not (folder / "g").exists()


async def test_what_is_inherited_and_not_wanted_is_closed(folder: Path, port: int) -> None:
    address = TcpAddress("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)) as sock:
        handed = {descriptor_name(address): [os.dup(sock.fileno())]}
    async with GatewayServer(Rules(), Limits(), inherited=inherit(handed, [address])) as server:
        await server.apply([])
    assert not await healthy(address)


def test_what_does_not_listen_is_not_inherited(port: int) -> None:
    address = TcpAddress("127.0.0.1", port)
    with socket.socket() as sock:
        handed = {descriptor_name(address): [sock.fileno()], "other": [0]}
        assert inherit(handed, [address]) == {}
        assert set(handed) == {descriptor_name(address), "other"}


async def test_ipv6_is_listened_on_beside_ipv4(port: int) -> None:
    async with GatewayServer(Rules(), Limits()) as server:
        await server.apply([TcpAddress("127.0.0.1", port), TcpAddress("::1", port)])
        assert await healthy(TcpAddress("127.0.0.1", port))
        assert await healthy(TcpAddress("::1", port))


async def test_many_may_wait_to_be_taken(port: int, folder: Path) -> None:
    """The loops' own servers listen anew with a backlog of 100: the 101st waited a second, or was refused."""
    tcp, unix = TcpAddress("127.0.0.1", port), UnixAddress(folder / "g")
    with socket.create_server(("127.0.0.1", 0), backlog=1) as small:
        inherited = TcpAddress("127.0.0.1", small.getsockname()[1])
        given: dict[Address, list[socket.socket]] = {inherited: [small.dup()]}
    async with GatewayServer(Rules(), Limits(), inherited=given) as server:
        await server.apply([tcp, unix, inherited])
        clients = []
        for address in (tcp, inherited, unix):  # while the loop does not run, nobody is taken
            for _ in range(300):
                client = socket.socket(socket.AF_UNIX if address is unix else socket.AF_INET)
                clients.append(client)
                client.settimeout(0.5)
                client.connect(str(unix.path) if isinstance(address, UnixAddress) else (address.host, address.port))
        for client in clients:
            client.close()


@pytest.fixture
def names(port: int, folder: Path) -> dict[str, Address]:
    """Addresses by the names that the tests below give them."""
    (folder / "link").symlink_to(folder)
    return {
        "loopback": TcpAddress("127.0.0.1", port),
        "localhost": TcpAddress("localhost", port),
        "every": TcpAddress("0.0.0.0", port),
        "every6": TcpAddress("::", port),
        "loopback6": TcpAddress("::1", port),
        "unix": UnixAddress(folder / "g"),
        "other": UnixAddress(folder / "h"),
        "same": UnixAddress(folder / "link" / "g"),
    }


@pytest.mark.parametrize(
    ("before", "after", "asks"),
    [
        (["loopback"], ["every"], "loopback"),
        (["every"], ["loopback"], "loopback"),
        (["loopback"], ["localhost"], "loopback"),
        (["every6", "every"], ["loopback6", "loopback"], "loopback6"),
        (["loopback", "loopback6"], ["every", "every6"], "loopback6"),
        (["loopback", "unix"], ["every", "other"], "loopback"),
        (["unix"], ["same"], "unix"),
        (["same"], ["unix"], "unix"),
    ],
)
async def test_the_new_is_bound_before_the_old_is_closed(
    names: dict[str, Address], before: list[str], after: list[str], asks: str
) -> None:
    """No client finds the port closed, and what waits to be taken is answered."""
    reports: list[str | None] = []
    async with GatewayServer(Rules(), Limits(), report=reports.append) as server:
        await server.apply([names[one] for one in before])
        assert await healthy(names[asks])
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        answers: list[bool] = []
        asking = loop.run_in_executor(None, ask_on, names[asks], stop, answers)
        for wanted in (after, before, after):
            asked = len(answers)
            await until(lambda: len(answers) > asked + 5)  # noqa: B023 - it is over before the next round
            waiting = [connected(names[asks]) for _ in range(30)]  # in the backlog: the loop does not run
            await server.apply([names[one] for one in wanted])
            for sock in waiting:
                sock.setblocking(False)
                await loop.sock_sendall(sock, get("/health", "Connection: close"))
                assert (await asyncio.wait_for(loop.sock_recv(sock, 4096), BOUND)).startswith(b"HTTP/1.1 200")
                sock.close()
        asked = len(answers)
        await until(lambda: len(answers) > asked + 5)
        stop.set()
        await asking
        assert set(answers) == {True}
        assert not [one for one in reports if one]
        for one in after:
            assert await healthy(names[one])


def connected(address: Address) -> socket.socket:
    """A plain connection."""
    if isinstance(address, UnixAddress):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(BOUND)
        try:
            sock.connect(str(address.path))
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection((address.host, address.port), timeout=BOUND)


def ask_on(address: Address, stop: threading.Event, answers: list[bool]) -> None:
    """Ask again and again on new connections, in a thread."""
    while not stop.is_set():
        try:
            with connected(address) as sock:
                sock.sendall(get("/health", "Connection: close"))
                answers.append(sock.recv(4096).startswith(b"HTTP/1.1 200"))
        except OSError as error:
            logging.getLogger("test").error("%s", error)
            answers.append(False)
