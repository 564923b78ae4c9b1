"""Noticing that a TCP connection's other host is gone without a word: no power, no network (tcp(7)).

No event tells of that, and who only waits would wait for ever.
"""

import socket

_SILENT_AFTER = 15
_ASK_EVERY = 5
_UNANSWERED = 3
"""Seconds until a silent host is asked whether it is there, seconds between such questions, and how many of them."""
_UNACKNOWLEDGED_MS = 30_000


def watch_peer(sock: socket.socket) -> None:
    """Have the kernel end the connection once its other host has not answered for about 30 s. What a listening socket
    is told so, the connections taken from it are.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_AFTER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_EVERY)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _UNANSWERED)


def bound_sending(sock: socket.socket) -> None:
    """Have the kernel end the connection where what was sent stays unacknowledged for 30 s, and not for a quarter of an
    hour. It also ends one whose other side reads nothing for so long.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
