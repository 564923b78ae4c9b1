"""The listening sockets of llamad.socket.

They are systemd's, which goes on listening on them whatever llamad does: so they are kept for as long as this process
lives. Where gateway.listen names one it is served; on the others clients are told so, instead of waiting in a socket
that nobody takes them from.
"""

import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from llamad.host.accept import Acceptor
from llamad.host.address import Address, TcpAddress, UnixAddress

SOCKET_UNIT_NAME = "gateway"
"""FileDescriptorName= of llamad.socket."""


def unit_sockets(handed: dict[str, list[int]]) -> "UnitSockets":
    """Take the listening sockets of llamad.socket out of `handed`, descriptors by name; what is none stays there."""
    there = handed.get(SOCKET_UNIT_NAME, [])
    ours = [descriptor for descriptor in there if listens(descriptor)]
    handed[SOCKET_UNIT_NAME] = [descriptor for descriptor in there if descriptor not in ours]
    return UnitSockets(socket.socket(fileno=descriptor) for descriptor in ours)


def listens(descriptor: int) -> bool:
    """Whether a descriptor is a socket that listens."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # no socket at all
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


class UnitSockets:
    """Those of one start; none where there is no socket unit."""

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sockets = tuple(sockets)
        self._refusing: dict[socket.socket, Acceptor] = {}

    def at(self, family: int, place: tuple[str, int] | str) -> socket.socket | None:
        """A handle, the caller's to close, of the one that is bound to a host and port, or to a path."""
        return next((sock.dup() for sock in self._sockets if sock.family == family and _place(sock) == place), None)

    def owns(self, sock: socket.socket) -> bool:
        """Whether `sock` is a handle of one of these."""
        inode = os.fstat(sock.fileno()).st_ino
        return any(os.fstat(own.fileno()).st_ino == inode for own in self._sockets)

    def with_port(self, address: Address) -> Address | None:
        """Where one listens that has the port of `address`."""
        bound = (_address(sock) for sock in self._sockets)
        port = address.port if isinstance(address, TcpAddress) else None
        return next((one for one in bound if isinstance(one, TcpAddress) and one.port == port), None)

    async def turn_away(self, served: Iterable[socket.socket], take: Callable[[socket.socket], Acceptor]) -> list[str]:
        """Have `take` answer the clients of those that are not `served`; returns where these listen."""
        taken = {os.fstat(sock.fileno()).st_ino for sock in served}
        for own in self._sockets:
            if os.fstat(own.fileno()).st_ino in taken:
                if (refusing := self._refusing.pop(own, None)) is not None:
                    await refusing.close(leave_waiting=True)
            elif own not in self._refusing:
                self._refusing[own] = take(own.dup())
        return [str(_address(own)) for own in self._refusing]

    async def close(self) -> None:
        """Let go of them; systemd goes on listening."""
        for refusing in self._refusing.values():
            await refusing.close(leave_waiting=True)
        self._refusing.clear()
        for sock in self._sockets:
            sock.close()
        self._sockets = ()


def _place(sock: socket.socket) -> tuple[str, int] | str:
    name = sock.getsockname()
    return str(name) if sock.family == socket.AF_UNIX else (str(name[0]), int(name[1]))


def _address(sock: socket.socket) -> Address:
    place = _place(sock)
    return UnixAddress(Path(place)) if isinstance(place, str) else TcpAddress(*place)
