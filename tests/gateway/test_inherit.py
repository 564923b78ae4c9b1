"""Listening sockets that systemd hands over: from its fd store, and from llamad.socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llamad.gateway.bind import why_not_bound
from llamad.gateway.listen import descriptor_name, inherit
from llamad.gateway.server import GatewayServer
from llamad.gateway.shared import Limits
from llamad.gateway.socketunit import SOCKET_UNIT_NAME, UnitSockets, unit_sockets
from llamad.host.address import Address, TcpAddress, UnixAddress
from tests.folders import short_folder
from tests.gateway.gate import BOUND, Rules, get


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def handed_over(sock: socket.socket) -> int:
    return os.dup(sock.fileno())


def test_a_stored_socket_is_taken_by_the_name_of_its_address(listening: socket.socket) -> None:
    address = TcpAddress("localhost", 8080)  # as configured, whatever it was bound to
    handed = {descriptor_name(address): [handed_over(listening)]}
    [taken] = inherit(handed, [address])[address]
    with closing(taken):
        assert taken.getsockname() == listening.getsockname()
    assert not handed


def test_a_socket_that_does_not_listen_is_left() -> None:
    with socket.socket() as sock, open("/dev/null", "rb") as file:
        sock.bind(("127.0.0.1", 0))
        address = TcpAddress("127.0.0.1", sock.getsockname()[1])
        handed = {descriptor_name(address): [sock.fileno()], SOCKET_UNIT_NAME: [sock.fileno(), file.fileno()]}
        assert not inherit(handed, [address]).get(address)
        assert unit_sockets(handed).at(socket.AF_INET, ("127.0.0.1", address.port)) is None
        assert handed == {descriptor_name(address): [sock.fileno()], SOCKET_UNIT_NAME: [sock.fileno(), file.fileno()]}


async def answer(address: Address) -> bytes:
    """What a client is answered there; TimeoutError where nobody takes it."""
    async with asyncio.timeout(BOUND):
        if isinstance(address, UnixAddress):
            reader, writer = await asyncio.open_unix_connection(str(address.path))
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(get("/health", "Connection: close"))
        got = await reader.read()
        writer.close()
        return got


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_the_sockets_of_a_socket_unit_stay_whatever_is_listened_on(kind: str) -> None:
    """Clients hung in a socket that nobody took them from, and llamad found "something else" on its own port when it
    was to listen there again.
    """
    with short_folder() as folder, socket.socket() if kind == "tcp" else socket.socket(socket.AF_UNIX) as unit:
        unit.bind(("127.0.0.1", 0) if kind == "tcp" else str(folder / "s"))
        unit.listen()
        own: Address = TcpAddress(*unit.getsockname()) if kind == "tcp" else UnixAddress(folder / "s")
        reports: list[str | None] = []
        sockets = unit_sockets({SOCKET_UNIT_NAME: [handed_over(unit)]})
        async with GatewayServer(Rules(), Limits(linger=0.1), report=reports.append, unit=sockets) as server:
            other = UnixAddress(folder / "o")
            for _ in range(2):
                await server.apply([own])
                assert reports[-1:] == [None]
                assert (await answer(own)).endswith(b"fine")
                await server.apply([other])
                assert (await answer(other)).endswith(b"fine")
                assert reports[-1:] == [f"llamad.socket listens on {own}, which gateway.listen does not name"]
                assert b" 503 " in (got := await answer(own))
                assert b"gateway.listen names others" in got
                assert why_not_bound(own, {}, server.unit) is None
        assert unit.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "it is systemd's"
        if isinstance(own, UnixAddress):
            assert own.path.exists()


async def test_a_port_that_a_socket_unit_has_otherwise_is_told_of() -> None:
    with socket.create_server(("0.0.0.0", 0)) as unit:
        port = unit.getsockname()[1]
        sockets = UnitSockets([unit.dup()])
        reports: list[str | None] = []
        async with GatewayServer(Rules(), Limits(), report=reports.append, unit=sockets) as server:
            await server.apply([TcpAddress("127.0.0.1", port)])
            assert f"llamad.socket has 0.0.0.0:{port}: name that, or change the socket unit" in (reports[-1] or "")
            await server.apply([TcpAddress("0.0.0.0", port), UnixAddress(Path("/nowhere/x"))])
            assert (await answer(TcpAddress("127.0.0.1", port))).endswith(b"fine")
            assert server.unit.owns(server.sockets[TcpAddress("0.0.0.0", port)][0])
