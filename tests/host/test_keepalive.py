"""Whether a TCP connection notices that its other host is gone."""

import socket

from llamad.host.keepalive import bound_sending, watch_peer


def test_what_a_listening_socket_is_told_its_connections_are() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch_peer(server)
        with socket.create_connection(server.getsockname()), server.accept()[0] as taken:
            assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            idle, every, count = (taken.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names)
            assert idle + every * count <= 30


def test_what_was_sent_is_acknowledged_in_time_or_the_connection_ends() -> None:
    with socket.socket() as sock:
        bound_sending(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
