"""Listening sockets that systemd hands over: from its fd store, and from llamad.socket."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llamad.gateway.listen import SOCKET_UNIT_NAME, descriptor_name, inherit
from llamad.host.address import TcpAddress, UnixAddress


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


def test_the_socket_of_a_socket_unit_is_told_by_where_it_is_bound(listening: socket.socket) -> None:
    address = TcpAddress("127.0.0.1", listening.getsockname()[1])
    handed = {SOCKET_UNIT_NAME: [handed_over(listening)]}
    [taken] = inherit(handed, [address])[address]
    taken.close()
    assert handed == {SOCKET_UNIT_NAME: []}


def test_the_unix_socket_of_a_socket_unit_too() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as sock:
        path = Path(folder) / "s"
        sock.bind(str(path))
        sock.listen()
        [taken] = inherit({SOCKET_UNIT_NAME: [handed_over(sock)]}, [UnixAddress(path)])[UnixAddress(path)]
        taken.close()


def test_a_socket_of_another_address_is_left(listening: socket.socket) -> None:
    fd = handed_over(listening)
    handed = {SOCKET_UNIT_NAME: [fd]}
    assert inherit(handed, [TcpAddress("127.0.0.1", 1)]) == {TcpAddress("127.0.0.1", 1): []}
    assert handed == {SOCKET_UNIT_NAME: [fd]}
    os.close(fd)


def test_a_socket_that_does_not_listen_is_left() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = TcpAddress("127.0.0.1", sock.getsockname()[1])
        for name in (SOCKET_UNIT_NAME, descriptor_name(address)):
            handed = {name: [sock.fileno()]}
            assert not inherit(handed, [address]).get(address)
            assert handed == {name: [sock.fileno()]}
